import math

import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import Sawtooth, Staircase, linear, mlp, specimen
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import (
    activation_patterns,
    boundary_density,
    boundary_distance,
    boundary_distance_per_site,
    nearest_boundaries,
)
from lightning_effcx.metrics import BoundaryDensity, BoundaryDistance
from lightning_effcx.metrics.error_bars import standard_error
from lightning_effcx.tracing.units import find_sites

CONTRACTS = [Contract(BoundaryDistance, exact=True)]

pytestmark = pytest.mark.usefixtures("_float64")


def wide(m: int, d: int) -> nn.Module:
    """One hidden layer of m units with standard normal weights and biases."""
    return nn.Sequential(linear(torch.randn(m, d), torch.randn(m)), nn.ReLU(), nn.Linear(m, 1))


# By hand


def test_the_distance_to_a_hyperplane():
    weight, bias, x = torch.randn(1, 4), torch.randn(1), torch.randn(6, 4)
    network = nn.Sequential(linear(weight, bias), nn.ReLU())
    expected = (x @ weight.T + bias).abs()[:, 0] / weight.norm()
    assert_close(boundary_distance(network, x), expected)


def test_the_nearest_of_many_hyperplanes():
    network, x = wide(50, 4), torch.randn(6, 4)
    z = network[0](x)
    assert_close(
        boundary_distance(network, x), (z.abs() / network[0].weight.norm(dim=1)).amin(1).detach()
    )


def test_the_distance_to_the_next_step():
    x = torch.tensor([[0.75], [2.25], [9.0]])
    assert_close(boundary_distance(Staircase(5), x), torch.tensor([0.25, 0.25, 4.0]))


def test_the_distance_inside_a_tooth():
    x = torch.tensor([[0.3], [0.51]])  # knots are multiples of 1/32
    assert_close(boundary_distance(Sawtooth(5), x), torch.tensor([10 / 32 - 0.3, 0.51 - 0.5]))


def test_ties_of_a_maximum_bound_a_region():
    x = torch.tensor([[3.0, 1.0, 0.0]])
    assert_close(boundary_distance(lambda x: x.amax(1, keepdim=True), x), torch.tensor([2**0.5]))
    pooled = boundary_distance(lambda x: F.max_pool1d(x[:, None], 2, stride=1)[:, 0], x)
    assert_close(pooled, torch.tensor([0.5**0.5]))


def test_the_nearest_site_is_told():
    network = nn.Sequential(nn.ReLU(), linear(torch.eye(2), torch.tensor([-3.0, -3.0])), nn.ReLU())
    found = nearest_boundaries(network, torch.tensor([[1.0, 1.5], [2.5, 9.0]]))
    assert found.sites == ("0", "2")
    assert_close(found.site, torch.tensor([0, 1]))
    assert_close(found.distance, torch.tensor([1.0, 0.5]))


def test_a_unit_on_its_kink_is_at_no_distance_and_dead_ones_do_not_count():
    network = nn.Sequential(nn.ReLU(), linear(torch.eye(2)), nn.ReLU())
    found = boundary_distance_per_site(network, torch.tensor([[0.0, -1.0], [-2.0, -1.0]]))
    assert_close(found["0"], torch.tensor([0.0, 1.0]))
    assert_close(found["2"], torch.full((2,), torch.inf))


def test_a_network_that_ignores_its_input_has_no_boundary_near():
    network = nn.Sequential(linear(torch.zeros(3, 2), torch.ones(3)), nn.ReLU())
    assert boundary_distance(network, torch.randn(4, 2)).isinf().all()
    with pytest.raises(ValueError, match="has no boundary: use ActivationPatterns, which coun"):
        BoundaryDistance().update(network, torch.randn(4, 2))


# Slow oracles


def by_differences(network, x):
    """Gradients of all pre-activations by central differences, inside the region."""
    h, best = 1e-7, torch.full((len(x),), torch.inf)
    flat = x.flatten(1)
    at = {name: site for name, site in find_sites(network, x).items() if site.choice is None}
    squares = {name: torch.zeros_like(site.z) for name, site in at.items()}
    for i in range(flat.shape[1]):
        step = h * F.one_hot(torch.tensor(i), flat.shape[1])
        up, down = (find_sites(network, (flat + s).reshape(x.shape)) for s in (step, -step))
        for name in at:
            squares[name] += ((up[name].z - down[name].z) / (2 * h)).square()
    for name, site in at.items():
        norm = squares[name].sqrt()
        for kink in site.kinks:
            distance = torch.where(norm > 1e-6, (site.z - kink).abs() / norm, torch.inf)
            best = torch.minimum(best, distance.amin(1))
    return best


EXACT = ["mlp", "in_place", "residual", "scripted", "custom", "prelu", "normed"]
EXACT += ["tied", "checkpointed"]


@torch.no_grad()
@pytest.mark.parametrize("name", EXACT)
def test_it_equals_differences_of_all_units(name):
    network, x = specimen(name)
    network.eval()
    assert_close(boundary_distance(network, x), by_differences(network, x), rtol=1e-5, atol=1e-9)


def test_it_equals_autograd_row_by_row():
    network, x = mlp(64, 16, 16, 10), torch.tensor(load_digits().data[:20] / 16)
    expected = []
    for sample in x:
        h, nearest = sample.clone().requires_grad_(), torch.inf
        z = h
        for layer in network[:-1]:
            z = layer(z)
            if isinstance(layer, nn.Linear):
                for unit in z:
                    (grad,) = torch.autograd.grad(unit, h, retain_graph=True)
                    if grad.norm() > 0:
                        nearest = min(nearest, float(unit.detach().abs() / grad.norm()))
        expected.append(nearest)
    assert_close(boundary_distance(network, x), torch.tensor(expected))


class Strided(nn.Module):
    """Pools of every sort, with padding, dilation, ragged and overlapping windows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.strided = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.ragged = nn.AdaptiveMaxPool2d((2, 3))
        self.solid = nn.MaxPool3d((1, 2, 2), stride=1, dilation=(1, 1, 2))

    def forward(self, x):
        h = self.conv(x)
        first, second = self.strided(h), self.ragged(h)
        third = self.solid(h[:, None])[:, 0]
        return torch.cat([t.flatten(1) for t in (first, second, third)], 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["conv", "pools", "strided", "residual"])
def test_rays_find_a_boundary_there_and_none_before(name):
    if name == "strided":
        network, shape = Strided(), (1, 6, 6)
    else:
        network, example = specimen(name)
        shape = example.shape[1:]
    network.eval()
    embedding, origin = torch.randn(2, math.prod(shape)), torch.randn(math.prod(shape))

    def plane(x):
        return network((origin + x @ embedding).reshape(-1, *shape))

    x = torch.randn(5, 2)
    distance = boundary_distance(plane, x)
    angle = torch.arange(1000) * 2 * math.pi / 1000
    rays = torch.stack([angle.cos(), angle.sin()], 1)
    for sample, reach in zip(x, distance, strict=True):
        pattern = activation_patterns(plane, sample[None])
        inside = activation_patterns(plane, sample + 0.999 * reach * rays)
        outside = activation_patterns(plane, sample + 1.001 * reach * rays)
        assert (inside == pattern).all()
        assert (outside != pattern).any()


# Invariances


@given(st.integers(0, 1000), st.sampled_from([1.0, 0.5, 4.0]))
def test_it_moves_with_the_input(seed, unit):
    generator = torch.Generator().manual_seed(seed)
    network, x = mlp(4, 8, 8, 3), torch.randn(6, 4, generator=generator)
    q, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    shift = torch.randn(4, generator=generator)
    moved = boundary_distance(lambda x: network((x / unit - shift) @ q), unit * (x @ q.T + shift))
    assert_close(moved, unit * boundary_distance(network, x))


@given(st.permutations(range(8)), st.floats(0.1, 8))
def test_the_order_and_the_size_of_hidden_units_do_not_matter(order, size):
    network, same, x = mlp(4, 8, 3, 2), mlp(4, 8, 3, 2), torch.randn(6, 4)
    same.load_state_dict(network.state_dict())
    same[0].weight.data = size * network[0].weight[order]
    same[0].bias.data = size * network[0].bias[order]
    same[2].weight.data = network[2].weight[:, order] / size
    assert_close(boundary_distance(same, x), boundary_distance(network, x))
    around = {"radius": 1.0, "directions": 20}
    first, second = (
        boundary_density(net, x, generator=torch.Generator().manual_seed(0), **around)
        for net in (network, same)
    )
    assert_close(first, second)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_chunks_change_nothing(chunk):
    network, x = specimen("mlp")
    whole = boundary_distance_per_site(network, x)
    parts = boundary_distance_per_site(network, x, chunk=chunk)
    assert_close(parts, whole)


@pytest.mark.parametrize("chunk", [1, 10, 40])
def test_no_more_rows_than_a_chunk_are_evaluated_at_once(chunk):
    network, x, most = mlp(4, 8, 8, 3), torch.randn(40, 4), []

    def counting(x):
        most.append(len(x))
        return network(x)

    boundary_distance(counting, x, chunk=chunk)
    assert max(most) <= max(chunk, 3)  # a sample, zero, and one direction
    most.clear()
    BoundaryDensity(directions=3, chunk=chunk).update(counting, x)
    assert max(most) <= max(chunk, 6)  # the chords of one sample


# The metric


def test_the_metric_averages_its_function():
    network, x = mlp(4, 8, 8, 3), torch.randn(50, 4)
    metric = BoundaryDistance(chunk=13)
    metric.update(network, x)
    found = metric.compute()
    distance, per_site = boundary_distance(network, x), boundary_distance_per_site(network, x)
    finite = per_site["3"][per_site["3"].isfinite()]
    assert_close(found["boundary_distance"], distance.mean())
    assert_close(found["boundary_distance/3"], finite.mean())


def test_the_distance_is_told_in_units_of_one_over_the_number_of_units():
    network, x = mlp(4, 8, 5, 3), torch.randn(50, 4)
    metric = BoundaryDistance()
    metric.update(network, x[:20])
    metric.update(network, x[20:])
    found, distance = metric.compute(), boundary_distance(network, x)
    assert_close(found["boundary_distance.times_units"], 13 * distance.mean())
    assert_close(found["boundary_distance.times_units_stderr"], 13 * standard_error(distance))


def test_networks_of_all_sizes_have_about_one_unit_per_distance():
    x, found = torch.randn(50, 16), []
    for width in (32, 128):
        network = mlp(16, width, width, width, 3)
        for layer in network[::2]:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, 0, 1e-3)
        metric = BoundaryDistance()
        metric.update(network, x / x.norm(dim=1, keepdim=True) * 4)
        found.append(metric.compute()["boundary_distance.times_units"])
    small, large = found
    assert small / 2 < large < 2 * small


def test_a_site_without_boundaries_is_left_out():
    network = nn.Sequential(nn.ReLU(), linear(torch.eye(2)), nn.ReLU())
    metric = BoundaryDistance()
    metric.update(network, -torch.rand(5, 2))
    assert set(metric.compute()) == {
        "boundary_distance",
        "boundary_distance_stderr",
        "boundary_distance.times_units",
        "boundary_distance.times_units_stderr",
        "boundary_distance/0",
    }


def test_processes_agree_on_the_number_of_units():
    network, x = mlp(4, 8, 5, 3), torch.randn(50, 4)
    alone = BoundaryDistance()
    one_of_two = BoundaryDistance(
        dist_sync_fn=lambda state, group: [state, state], distributed_available_fn=lambda: True
    )
    for metric in (alone, one_of_two):
        metric.update(network, x)
    key = "boundary_distance.times_units"
    assert_close(one_of_two.compute()[key], alone.compute()[key])


# Errors


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Tanh(), r"site 'tanh' \(tanh\) is not piecewise linear, .*use Transitions or LANN"),
        (lambda x: (x - x.mean(0)).relu(), "change with the other samples in its batch"),
        (
            nn.Linear(4, 3),
            "no units with kinks, so its only region has no boundary: use Jac",
        ),
    ],
)
def test_networks_without_regions_have_no_nearest_boundary(network, message):
    with pytest.raises(ValueError, match=message):
        boundary_distance(network, torch.randn(6, 4))
    with pytest.raises(ValueError, match=message):
        BoundaryDistance().update(network, torch.randn(6, 4))


def test_a_chunk_has_a_row():
    with pytest.raises(ValueError, match="chunk=0: expected at least 1 row"):
        boundary_distance(torch.relu, torch.randn(6, 4), chunk=0)


def test_a_choice_among_one_element_bounds_nothing():
    def network(x):
        return torch.cat([x.relu(), x.sum(1, keepdim=True).median(1, keepdim=True).values], 1)

    x = torch.tensor([[3.0, 4.0], [-1.0, 2.0]])
    assert boundary_distance(network, x).tolist() == [3.0, 1.0]
