import math

import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import Sawtooth, Staircase, linear, mlp, specimen
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import transitions, transitions_per_site
from lightning_effcx.metrics import Transitions
from lightning_effcx.metrics.error_bars import standard_error
from lightning_effcx.network.observe import observing
from lightning_effcx.paths import Arc, Segment, arc, segment

CONTRACTS = [
    Contract(
        Transitions,
        options=[
            {"paths": Segment(count=4, points=9)},
            {"paths": Arc("same", count=3, points=9)},
        ],
        cheap={"paths": Segment(count=1, points=3)},
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


def line(start: float, end: float, points: int):
    start, end = float(start), float(end)
    return segment(torch.full((1, 1), start), torch.full((1, 1), end), points=points)


def sweep(network, path):
    """Neuron by neuron and edge by edge, of a network that is linear layers and ReLUs."""
    counts = []
    for vertices in path:
        count, h = 0, vertices
        for module in network:
            h = module(h)
            if isinstance(module, nn.Linear) and module is not network[-1]:
                codes = [[int(z > 0) for z in row] for row in h.tolist()]
                count += sum(
                    a != b
                    for i in range(len(codes) - 1)
                    for a, b in zip(*codes[i : i + 2], strict=True)
                )
        counts.append(count)
    return torch.tensor(counts)


# By hand


def test_a_linear_network_has_no_transitions():
    assert transitions(linear(torch.randn(3, 2)), torch.randn(4, 9, 2)).tolist() == [0] * 4
    assert transitions_per_site(nn.Linear(2, 3), torch.randn(4, 9, 2)) == {}


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_a_staircase_has_one_transition_per_step(steps):
    network = Staircase(steps)
    assert transitions(network, line(0, steps + 1, 1000)).tolist() == [steps]
    assert transitions(network, line(0, 1.5, 1000)).tolist() == [1]


def test_a_path_there_and_back_counts_twice():
    there = line(-1, 1, 10)
    assert transitions(torch.relu, torch.cat([there, there.flip(1)], 1)).tolist() == [2]


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_a_sawtooth_has_a_transition_at_each_fold(depth):
    network = Sawtooth(depth)
    # From just inside, and with vertices that miss all k / 2ⁿ, where the folds are.
    per_site = transitions_per_site(network, line(1e-4, 1 - 1e-4, 4000))
    assert {name: n.item() for name, n in per_site.items()} == network.crossings
    assert transitions(network, line(1e-4, 1 - 1e-4, 4000)).tolist() == [2**depth - 1]


def test_hard_tanh_counts_each_of_its_kinks():
    path = torch.tensor([[[-2.0], [2.0], [0.0], [3.0]]])
    assert transitions(nn.functional.hardtanh, path).tolist() == [2 + 1 + 1]


def test_curves_count_their_changes_of_sign():
    path = torch.tensor([[[-2.0], [2.0], [1.0], [-3.0]]])
    for curve in (torch.tanh, torch.sigmoid, nn.functional.gelu):
        assert transitions(curve, path).tolist() == [2]


def test_max_pooling_counts_its_changes_of_mind():
    path = torch.tensor([[[1.0, 2.0], [2.0, 1.0], [3.0, 1.0], [0.0, 1.0]]])
    assert transitions(lambda x: x.amax(1, keepdim=True), path).tolist() == [2]


def test_a_circle_crosses_every_hyperplane_through_its_centre_twice():
    network = mlp(5, 40, 3, bias=False)
    circles = arc(torch.randn(7, 5), torch.randn(7, 5), points=2001, turn=1.0)
    assert transitions(network, circles).tolist() == [2 * 40] * 7


def test_what_lies_between_two_paths_is_not_crossed():
    paths = torch.tensor([[[-2.0], [-1.0]], [[1.0], [2.0]]])
    assert transitions(torch.relu, paths).tolist() == [0, 0]


# Slow oracle


def test_it_equals_a_sweep_over_neurons():
    network = mlp(3, 8, 8, 2)
    path = segment(torch.randn(5, 3), torch.randn(5, 3), points=50)
    assert_close(transitions(network, path), sweep(network, path))


class Steps(nn.Module):
    """A layer at each of some steps, with the steps first, flattened or not."""

    def __init__(self, *, flat):
        super().__init__()
        self.flat, self.layer = flat, nn.Linear(2, 3)

    def forward(self, x):
        h = x.transpose(0, 1)
        units = self.layer(h.flatten(0, 1) if self.flat else h).relu().reshape(*h.shape[:2], 3)
        return units.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("steps", [16, 32, 64])
def test_as_many_steps_as_vertices_are_no_vertices(steps, flat):
    network, paths = Steps(flat=flat), torch.randn(4, 8, steps, 2)  # 32 rows
    codes = network.layer(paths).flatten(2) > 0
    expected = (codes[:, 1:] != codes[:, :-1]).sum((1, 2))
    assert_close(transitions(network, paths), expected)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_random_neurons_cross_a_segment_as_often_as_its_angle_says(bias):
    # The two pre-activations of a random neuron are Gaussian with a correlation; their signs
    # differ with probability its arccos over π.
    a, b = torch.randn(2, 1, 6)
    covariance = torch.cat([a, b]) @ torch.cat([a, b]).T + bias**2
    correlation = covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
    share = (torch.arccos(correlation) / math.pi).item()
    m = 20_000
    network = nn.Sequential(linear(torch.randn(m, 6), bias * torch.randn(m)), nn.ReLU())
    count = transitions(network, segment(a, b, points=20)).item()
    assert abs(count - m * share) < 5 * (m * share * (1 - share)) ** 0.5  # five standard errors


# Invariances


@given(st.integers(2, 5), st.integers(0, 100))
def test_more_vertices_never_find_fewer(factor, seed):
    torch.manual_seed(seed)
    network = mlp(3, 16, 16, 2)
    path = segment(3 * torch.randn(4, 3), 3 * torch.randn(4, 3), points=12 * factor + 1)
    assert (transitions(network, path) >= transitions(network, path[:, ::factor])).all()


@given(st.integers(0, 100))
def test_direction_order_and_scale_do_not_matter(seed):
    torch.manual_seed(seed)
    network, path = mlp(3, 16, 2), segment(torch.randn(4, 3), torch.randn(4, 3), points=20)
    expected = transitions(network, path)
    assert_close(transitions(network, path.flip(1)), expected)
    assert_close(transitions(network, path.flip(0)), expected.flip(0))
    order = torch.randperm(16)
    scale = torch.rand(16) + 0.1
    network[0].weight.data = (scale[:, None] * network[0].weight)[order]
    network[0].bias.data = (scale * network[0].bias)[order]
    assert_close(transitions(network, path), expected)


@given(st.integers(0, 100))
def test_closed_paths_cross_each_unit_an_even_number_of_times(seed):
    torch.manual_seed(seed)
    layer = nn.Linear(3, 1)
    path = arc(torch.randn(4, 3), torch.randn(4, 3), points=60, turn=1.0)
    path[:, -1] = path[:, 0]
    assert (transitions(lambda x: layer(x).relu(), path) % 2 == 0).all()


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "pools", "lstm", "transformer"])
def test_sites_add_up_to_the_total(name):
    network, x = specimen(name, 8)
    path = segment(x[:4], x[4:], points=15)
    with observing(network):
        per_site = transitions_per_site(network, path)
        assert_close(sum(per_site.values()), transitions(network, path))
        assert transitions(network, path).dtype == torch.long
        assert transitions(network, path).sum() > 0


def test_each_path_is_counted_by_itself():
    network, path = mlp(3, 16, 2), torch.randn(5, 9, 3)
    alone = torch.cat([transitions(network, one[None]) for one in path])
    assert_close(transitions(network, path), alone)


def test_no_graph_is_kept():
    network, path = mlp(3, 16, 2), torch.randn(5, 9, 3, requires_grad=True)
    assert not transitions(network, path).requires_grad


# The metric


def test_the_metric_is_the_mean_over_paths_and_sites_add_up_to_it():
    network, x = mlp(3, 16, 16, 2), torch.randn(40, 3)
    paths = Segment(count=12, points=30)
    metric = Transitions(paths, seed=3)
    metric.update(network, x)
    score = metric.compute()
    drawn = paths(x, None, torch.Generator().manual_seed(3 + 1))
    counts = transitions(network, drawn).to(torch.float64)
    assert_close(score["transitions.segment"], counts.mean(), check_dtype=False)
    assert_close(
        score["transitions.segment_stderr"],
        standard_error(counts),
        check_dtype=False,
        **FLOAT32,
    )
    at_sites = score["transitions.segment/1"] + score["transitions.segment/3"]
    assert_close(at_sites, score["transitions.segment"])


FLOAT32 = {"rtol": 1e-5, "atol": 0}  # counts are kept in float32, which every device has


def test_the_name_says_the_path():
    assert Transitions().name == "transitions.segment"
    assert Transitions(Arc("same")).name == "transitions.arc_same"


# Errors


def test_a_network_of_another_sort_has_no_transitions():
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Softmax(1))
    message = r"being 1 \(native_layer_norm\), 2 \(softmax\): measure trajectory_length or jacobian"
    with pytest.raises(ValueError, match=message):
        transitions(network, torch.randn(2, 5, 3))
    deep = nn.Sequential(*(nn.LayerNorm(3) for _ in range(5)))
    with pytest.raises(ValueError, match=r"being 0 \(native_layer_norm\), .*, 2 \(.*\), \.\.\.: "):
        transitions(deep, torch.randn(2, 5, 3))
    with pytest.raises(ValueError, match="no unit of this network has a code"):
        Transitions(Segment(count=2)).update(network, torch.randn(6, 3))


def test_a_network_that_has_some_units_with_a_code_is_counted_in_these():
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Softmax(1))
    assert list(transitions_per_site(network, torch.randn(2, 5, 3))) == ["2"]


class Uneven(nn.Module):
    """A network that runs other operations for other samples."""

    def forward(self, x):
        return x.relu().relu() if x.sum() > 0 else x.relu()


def test_a_network_with_other_sites_for_other_samples_is_refused():
    metric = Transitions(Segment(count=3, points=2))
    message = "different operations for different samples: 2 sites of this measure, then 1. Use Jac"
    metric.update(Uneven(), torch.ones(3, 2))
    with pytest.raises(ValueError, match=message):
        metric.update(Uneven(), -torch.ones(3, 2))
