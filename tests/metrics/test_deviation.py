import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import Residual, Sawtooth, linear, mlp
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import linear_deviation
from lightning_effcx.metrics import LinearDeviation
from lightning_effcx.metrics.deviation import _mean_norm
from lightning_effcx.metrics.error_bars import standard_error
from lightning_effcx.paths import Ellipse, Segment, segment

CONTRACTS = [
    Contract(
        LinearDeviation,
        options=[
            {"paths": Segment(count=4, points=2)},
            {"paths": Ellipse(count=3, points=9)},
        ],
        cheap={"paths": Segment(count=1, points=2)},
        exact=True,
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


def sampled(network, path, points=20_001):
    """The mean over many points, by the trapezoidal rule, for paths of one segment."""
    with torch.no_grad():
        y = network(segment(path[:, 0], path[:, 1], points=points).flatten(0, 1))
    y = y.unflatten(0, (len(path), points))
    away = torch.linalg.vector_norm(y - segment(y[:, 0], y[:, -1], points=points), dim=2)
    return torch.trapezoid(away, dx=1 / (points - 1))


# By hand


@pytest.mark.parametrize("reach", [0.5, 3.0])
def test_the_absolute_value_is_half_its_height_below_its_chord(reach):
    path = torch.tensor([[[-reach], [reach]]])
    assert_close(linear_deviation(torch.abs, path), torch.tensor([reach / 2]))


def test_an_affine_network_does_not_deviate():
    found = linear_deviation(nn.Linear(4, 3), torch.randn(5, 6, 4))
    assert_close(found, torch.zeros(5))


def test_each_segment_has_a_chord_of_its_own_and_counts_with_its_length():
    path = torch.tensor([[[-1.0], [1.0], [4.0], [-2.0]]])  # deviations 1/2, 0 and ...
    last = 4 * 2 / 6  # of a triangle: half of |4| - chord(0), where the chord is at 8/3 above 0
    expected = (2 * 0.5 + 0 + 6 * last) / 11
    assert_close(linear_deviation(torch.abs, path), torch.tensor([expected]))


def test_repeated_vertices_and_paths_without_length_count_nothing():
    once = linear_deviation(torch.abs, torch.tensor([[[-1.0], [3.0]]]))
    again = linear_deviation(torch.abs, torch.tensor([[[-1.0], [-1.0], [3.0], [3.0]]]))
    assert_close(again, once)
    assert_close(linear_deviation(torch.abs, torch.ones(2, 3, 1)), torch.zeros(2))


def test_a_sawtooth_deviates_by_half_its_height_however_many_teeth_it_has():
    path = torch.tensor([[[0.0], [1.0]]])
    for depth in (1, 3, 7):  # from 0 to 1 and back, over a chord at 0
        assert_close(linear_deviation(Sawtooth(depth), path), torch.tensor([0.5]))


# Slow oracle


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_it_is_what_many_points_come_to(outputs):
    network, path = mlp(3, 16, 16, outputs), 3 * torch.randn(6, 2, 3)
    assert_close(linear_deviation(network, path), sampled(network, path), rtol=1e-5, atol=0)


def test_it_holds_for_any_piecewise_linear_network():
    network, path = Residual(), 3 * torch.randn(6, 2, 4)
    assert_close(linear_deviation(network, path), sampled(network, path), rtol=1e-5, atol=0)


def test_a_network_in_single_precision_that_is_no_module_will_do():
    network, path = mlp(3, 16, 2).float(), torch.randn(4, 2, 3)
    expected = linear_deviation(mlp_like(network), path)
    assert_close(linear_deviation(network.forward, path.float()), expected, rtol=1e-5, atol=0)


def mlp_like(network):
    copy = mlp(3, 16, 2)
    copy.load_state_dict(network.state_dict())
    return copy


@given(st.integers(1, 4), st.integers(0, 300), st.sampled_from([1e-9, 1e-4, 2e-3, 0.1, 1, 1e3]))
def test_the_mean_norm_on_a_straight_way_is_its_integral(k, seed, step):
    torch.manual_seed(seed)
    a, direction = torch.randn(5, k), torch.randn(5, k)
    b = a + step * direction
    t = torch.linspace(0, 1, 40_001)[:, None, None]
    expected = torch.trapezoid(torch.linalg.vector_norm(torch.lerp(a, b, t), dim=2), t[:, 0], dim=0)
    assert_close(_mean_norm(a, b), expected, rtol=1e-7, atol=1e-9)


def test_the_mean_norm_is_exact_where_the_way_passes_zero_or_stays_there():
    a = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [-1.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [1e-20, 0.0]])
    assert_close(_mean_norm(a, b), torch.tensor([(0.5 + 4.5) / 4, 0.0, 2.5, 5.0, 0.5]))


# Invariances


@given(st.floats(-6, 6), st.integers(0, 100))
def test_it_scales_with_the_output_and_ignores_what_is_affine(scale, seed):
    torch.manual_seed(seed)
    network, rest, path = mlp(3, 8, 2), linear(torch.randn(2, 3)), torch.randn(4, 2, 3)
    expected = abs(scale) * linear_deviation(network, path)
    found = linear_deviation(lambda x: scale * network(x) + rest(x), path)
    assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert_close(linear_deviation(network, path.flip(1)) * abs(scale), expected)


@pytest.mark.parametrize("seed", range(3))
def test_it_never_exceeds_what_the_length_of_the_image_allows(seed):
    torch.manual_seed(seed)
    path = torch.randn(8, 2, 3)
    network = mlp(3, 32, 32, 2)
    y = network(segment(path[:, 0], path[:, 1], points=999).flatten(0, 1)).unflatten(0, (8, 999))
    assert (linear_deviation(network, path) <= y.diff(dim=1).norm(dim=2).sum(1)).all()


# The metric


def test_the_metric_is_the_mean_over_paths():
    network, x = mlp(3, 8, 2), torch.randn(40, 3)
    paths = Segment(count=12, points=2)
    metric = LinearDeviation(paths, seed=3)
    metric.update(network, x)
    score = metric.compute()
    expected = linear_deviation(network, paths(x, None, torch.Generator().manual_seed(3 + 1)))
    assert_close(score["linear_deviation.segment"], expected.mean())
    assert_close(score["linear_deviation.segment_stderr"], standard_error(expected))
    assert len(score) == 2


def test_a_network_that_is_not_piecewise_linear_is_named_with_what_to_do():
    with pytest.raises(ValueError, match=r"^site 'gelu' .* use Transitions or LANNComplexity"):
        linear_deviation(nn.functional.gelu, torch.randn(2, 2, 3))


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(3, 8, 2)

    def forward(self, x):
        return self.network(x.to(torch.float32))


def test_a_network_may_cast_its_input_to_its_own_precision():
    network, path = Casting().float(), torch.randn(4, 2, 3)
    expected = linear_deviation(network.network, path)
    assert expected.all()
    assert_close(linear_deviation(network, path), expected)
