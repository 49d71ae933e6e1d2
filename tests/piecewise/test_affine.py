import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Tied, linear, mlp, specimen
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.piecewise.affine import bends
from lightning_effcx.tracing.units import find_sites

pytestmark = pytest.mark.usefixtures("_float64")


def last(found):
    return list(found.values())[-1]


@pytest.mark.parametrize(
    ("activation", "kinks"),
    [
        (nn.ReLU6(), (0, 6)),
        (nn.Hardtanh(), (-1, 1)),
        (nn.LeakyReLU(0.1), (0,)),
        (nn.RReLU().eval(), (0,)),
        (nn.PReLU(dtype=torch.float64), (0,)),
        (nn.Softshrink(0.5), (-0.5, 0.5)),
        (nn.Hardsigmoid(), (-3, 3)),
        (nn.Threshold(2.0, 2.0), (2,)),
        (lambda x: x.clamp(-1, 2), (-1, 2)),
        (lambda x: x.clone().clamp_(max=2), (2,)),
        (lambda x: x.clamp(0, torch.inf), (0,)),
        (torch.abs, (0,)),
        (lambda x: torch.maximum(x, 3 - x), (1.5,)),
        (lambda x: torch.minimum(torch.ones(1), x), (1,)),
        (lambda x: x.clamp(min=torch.full((1,), 4.0)), (4,)),
        (lambda x: x.clone().clamp_(max=torch.full((1,), -4.0)), (-4,)),
        (lambda x: torch.cat([x, 4 - x], 1).amax(1, keepdim=True), (2,)),
        (lambda x: torch.stack([x, 4 - x, 0 * x + 1], 1).min(1).values, (1, 3)),
    ],
)
def test_every_activation_has_its_kinks_and_the_slopes_of_its_pieces(activation, kinks):
    x, one = torch.linspace(-7, 8, 53)[:, None], torch.ones(1, 1)
    here = last(bends(activation, x, one))
    distance = torch.where(here.squares > 0, here.gap / here.squares.sqrt(), torch.inf).amin(1)
    expected = (x - torch.tensor(kinks)).abs().amin(1)
    assert_close(distance, expected)
    after = last(bends(lambda x: F.relu(activation(x) - 0.7), x, one))
    with torch.no_grad():
        h = 1e-5
        slope = (activation(x + h) - activation(x - h)) / (2 * h)
        assert_close(after.gap, (activation(x) - 0.7).abs())
    smooth = expected > 2 * h
    assert_close(after.squares[smooth], slope[smooth].square(), rtol=1e-6, atol=1e-9)


EXACT = ["mlp", "conv", "in_place", "residual", "scripted", "custom", "prelu", "pools", "normed"]
EXACT += ["tied", "caching", "checkpointed"]


@torch.no_grad()
@pytest.mark.parametrize("name", EXACT)
def test_derivatives_are_differences_inside_the_region(name):
    network, x = specimen(name)
    network.eval()
    directions, h = torch.randn(3, *x.shape[1:]), 1e-6
    found = bends(network, x, directions)
    seen = find_sites(network, x)
    assert list(found) == list(seen)
    nudged = [(find_sites(network, x + h * v), find_sites(network, x - h * v)) for v in directions]
    for site, at in seen.items():
        assert found[site].units == at.output[0].numel() * len(at.output) // len(x)
        if at.choice is None:
            slopes = torch.stack([(up[site].z - down[site].z) / (2 * h) for up, down in nudged])
            assert_close(found[site].squares, slopes.square().sum(0), rtol=1e-5, atol=1e-7)
            gaps = torch.stack([(at.z - kink).abs() for kink in at.kinks])
            assert_close(found[site].gap, gaps.amin(0))


def test_what_follows_a_choice_moves_with_the_winner():
    x, each = torch.tensor([[3.0, 1.0, 2.0, 5.0]]), torch.diag(torch.tensor([1.0, 2, 3, 4]))
    found = bends(lambda x: F.max_pool1d(x[:, None], 2)[:, 0].abs(), x, each)
    choice = found["max_pool2d_with_indices"]  # a winner is not ahead of itself
    assert_close(choice.gap.sort().values, torch.tensor([[0.0, 0.0, 2.0, 3.0]]))
    assert_close(choice.squares.sort().values, torch.tensor([[0.0, 0.0, 5.0, 25.0]]))
    assert_close(found["abs"].squares, torch.tensor([[1.0, 16.0]]))


def test_what_is_made_of_which_won_is_refused():
    def network(x):
        values, index = x.max(1, keepdim=True)
        return F.relu(values + (2 * x).gather(1, index))  # which jumps where they tie

    with pytest.raises(ValueError, match=r"^'gather' lets the network decide by its input"):
        bends(network, torch.tensor([[1.0, 4.0]]))


@st.composite
def pools(draw):
    """A pooling with its options for planes of 5 x 7."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    if draw(st.booleans()):
        return nn.AdaptiveMaxPool2d(draw(pair), return_indices=True)
    kernel = draw(pair)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    return nn.MaxPool2d(
        kernel,
        stride=draw(st.none() | pair),
        padding=padding,
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        ceil_mode=draw(st.booleans()),
    )


@given(pools())
def test_a_window_has_the_elements_that_could_win_it(pool):
    def network(x):
        out = pool(x)
        return (out if isinstance(out, torch.Tensor) else out[0]).flatten(1)

    x = torch.arange(35.0).reshape(1, 1, 5, 7)
    found = last(bends(network, x))
    each = torch.eye(35).reshape(35, 1, 5, 7)
    wins = network(each) > 0  # (elements, windows)
    assert found.units == wins.shape[1]
    assert found.kinks == wins.sum() - wins.shape[1]
    values = torch.where(wins, x.reshape(35, 1), -torch.inf)
    gaps = (values.amax(0) - values).T
    expected = torch.where(gaps.isinf(), 0, gaps)
    assert_close(found.gap.sum(), expected.sum())
    assert_close(found.gap[found.gap > 0].sort().values, expected[expected > 0].sort().values)


def test_three_dimensions_have_windows_too():
    found = last(bends(lambda x: F.max_pool3d(x, 2).flatten(1), torch.zeros(1, 3, 4, 4, 4)))
    assert (found.units, found.kinks) == (24, 24 * 7)


@pytest.mark.parametrize("samples", [1, 2, 33])
def test_units_that_do_not_move_do_not_move_at_all(samples):
    dead = nn.Sequential(nn.ReLU(), nn.Linear(3, 50), nn.Linear(50, 50), nn.ReLU())
    constant = nn.Sequential(linear(torch.zeros(50, 3), torch.randn(50)), *dead[2:])
    for network in (dead, constant):
        found = bends(network, -torch.rand(samples, 3), torch.eye(3))
        assert not last(found).squares.any()


def test_nothing_bends_between_samples_and_directions():
    tied, x = Tied(), torch.randn(4, 4)
    alone = [bends(tied, sample[None], torch.eye(4)) for sample in x]
    together = bends(tied, x, 1000 * torch.eye(4))
    for site, found in together.items():
        assert_close(found.gap, torch.cat([one[site].gap for one in alone]))
        assert_close(found.squares, 1e6 * torch.cat([one[site].squares for one in alone]))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_network_may_write_into_its_input_in_every_mode_of_autograd(mode):
    network, x = nn.Sequential(nn.ReLU(inplace=True), linear(torch.eye(4))), torch.randn(6, 4)
    with mode():
        given = x + 0
        assert_close(bends(network, given, torch.eye(4))["0"].gap, x.abs())
        assert_close(given, x, rtol=0, atol=0)


def test_it_is_of_double_precision():
    network, x = mlp(4, 8, 3), torch.randn(6, 4)
    exact = bends(network.float().double(), x.float().double(), torch.eye(4))
    for same in (network.float(), torch.jit.script(network.float())):
        found = bends(same, x.float(), torch.eye(4))
        assert_close(last(found).squares, last(exact).squares)
        assert next(same.parameters()).dtype == torch.float32


def test_it_counts_units_and_kinks():
    found = bends(mlp(4, 8, 5, 3, activation=nn.Hardtanh), torch.zeros(2, 4))
    assert [(site.units, site.kinks) for site in found.values()] == [(8, 16), (5, 10)]
    open_ended = last(bends(lambda x: x.clamp(0, torch.inf), torch.zeros(2, 4)))
    assert (open_ended.units, open_ended.kinks) == (4, 4)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Tanh(), r"site 'tanh' \(tanh\) is not piecewise linear, .*use Transitions or LANN"),
        (nn.Hardshrink(), r"site 'hardshrink' \(hardshrink\) is not continuous, so it has no"),
        (
            lambda x: x * x,
            r"site 'mul' \(mul\) is not known to be piecewise linear, .*: use Transitions.",
        ),
        (lambda x: torch.where(x > 0, x, x + 1), r"site 'gt' \(gt\) is not continuous"),
        (lambda x: x.mode(1).values, r"site 'mode' \(mode\) is not known to be piecewise linear"),
        (lambda x: (x - x.mean(0)).relu(), "site 'mean' mixes the samples of a batch"),
        (lambda x: x.relu() / x.amax(), "site 'amax' mixes the samples of a batch"),
        (lambda x: x.relu() if (x == 0).any() else x, "'eq' lets the network decide by its input"),
        (lambda x: torch.ones(3, 2), "returned no tensor that depends on its input"),
        (
            nn.Linear(4, 3),
            "no units with kinks, so its only region has no boundary: use Jac",
        ),
    ],
)
def test_networks_without_regions_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        bends(network, torch.randn(6, 4))


def test_other_errors_are_those_of_the_network():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        bends(nn.Linear(3, 2), torch.randn(6, 4))


@pytest.mark.parametrize("kink", [0.1, -2e7, 3e17, -1e300, torch.finfo(torch.float64).min])
def test_the_slope_beside_a_huge_kink_keeps_its_digits(kink):
    x = torch.tensor([[0.5 if kink < 0 else 0.1 * kink]])

    def network(x):
        limited = x.clamp(min=kink) if kink < 0 else x.clamp(max=kink)
        return F.relu(0.7 * limited - 0.3)

    squares = last(bends(network, x, torch.ones(1, 1))).squares
    assert_close(squares, torch.tensor([[0.49]]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("bias", [0.0, 1.0, 1e6, -1e30, -1e300, -torch.inf])
@pytest.mark.parametrize("weight", [1e-30, 1e-9, 1.0, 1e9])
def test_small_derivatives_are_exact_beside_large_constants(weight, bias):
    layer = linear(torch.tensor([[weight, 0.0], [0.0, 1.0]]), torch.tensor([-0.15 * weight, bias]))
    found = last(bends(lambda x: F.relu(layer(x)), torch.zeros(1, 2), torch.eye(2)))
    assert_close(found.gap[0, 0] / found.squares[0, 0].sqrt(), torch.tensor(0.15))
    assert found.squares[0, 0].sqrt().item() == pytest.approx(weight)


def test_units_that_stay_on_their_kink_have_no_derivative_by_rounding():
    weight, bias, x = torch.randn(4, 6), torch.randn(6), torch.randn(32, 4)

    def network(x):
        first = F.relu(x @ weight + bias)
        same = F.relu(x @ (3 * weight) + 3 * bias) / 3  # but for rounding
        tiny = 1e-30 * F.relu(first - 0.1)  # which is no rounding
        return torch.cat(
            [F.relu(first - same), F.relu(tiny - 1e-31), (first - same).amax(1)[:, None]], 1
        )

    found = bends(network, x, torch.eye(4))
    assert not found["relu_4"].squares.any()
    assert not found["amax"].squares.any()
    slopes = (x @ weight + bias > 0.1) * 1e-30 * weight.norm(dim=0)
    assert_close(found["relu_5"].squares.sqrt(), slopes, rtol=1e-12, atol=0)
