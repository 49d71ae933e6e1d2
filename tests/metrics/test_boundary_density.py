import math

import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import Staircase, linear, mlp
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import boundary_density, transitions
from lightning_effcx.metrics import BoundaryDensity
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.error_bars import standard_error
from lightning_effcx.paths import segment

CONTRACTS = [
    Contract(
        BoundaryDensity,
        options=[{"radius": 4.0, "directions": 4}],
        cheap={"directions": 2},
        functions={
            "boundary_density": lambda network, x: boundary_density(
                network, x, radius=1.0, directions=2, generator=torch.Generator().manual_seed(0)
            )
        },
        exact=True,
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


def wide(m: int, d: int) -> nn.Module:
    """One hidden layer of m units with standard normal weights and biases."""
    return nn.Sequential(linear(torch.randn(m, d), torch.randn(m)), nn.ReLU(), nn.Linear(m, 1))


# By hand, and slow oracles


def volume(d: int) -> float:
    return math.pi ** (d / 2) / math.gamma(d / 2 + 1)


def in_ball(h, d: int, radius: float):
    """Area per volume, in a ball, of hyperplanes at distances h from its centre."""
    area = volume(d - 1) * (radius**2 - h**2).clamp(min=0) ** ((d - 1) / 2)
    return area / (volume(d) * radius**d)


def chords(network, x, *, radius, directions=20_000):
    """The mean over many chords, and its standard error."""
    generator = torch.Generator().manual_seed(1)
    x = x.expand(directions, -1)
    found = boundary_density(network, x, radius=radius, directions=1, generator=generator)
    return found.mean(), found.std() / directions**0.5


def test_on_a_line_it_counts_the_kinks_of_an_interval():
    x = torch.tensor([[3.2], [0.0]])
    found = boundary_density(Staircase(9), x, radius=1.5, directions=3)
    assert_close(found, torch.tensor([3 / 3.0, 1 / 3.0]))


@pytest.mark.parametrize("d", [2, 3, 7])
@pytest.mark.parametrize("h", [0.0, 0.5, 1.2])
def test_a_hyperplane_in_a_ball(d, h):
    w = F.normalize(torch.randn(1, d))
    network = nn.Sequential(linear(w, torch.tensor([h])), nn.ReLU())
    mean, stderr = chords(network, torch.zeros(1, d), radius=1.5)
    assert (mean - in_ball(torch.tensor(h), d, 1.5)).abs() < 5 * stderr


@pytest.mark.parametrize("d", [2, 5])
def test_one_hidden_layer_is_the_sum_of_its_hyperplanes(d):
    network, x = wide(20, d), torch.randn(1, d)
    h = network[0](x).abs()[0] / network[0].weight.norm(dim=1)
    mean, stderr = chords(network, x, radius=0.8)
    assert (mean - in_ball(h, d, 0.8).sum()).abs() < 5 * stderr


def test_random_units_on_a_line_have_cauchy_kinks():
    m, x, r = 3000, 0.7, 0.5
    found = boundary_density(wide(m, 1), torch.full((1, 1), x), radius=r, directions=1)
    share = (math.atan(x + r) - math.atan(x - r)) / math.pi
    stderr = (m * share * (1 - share)) ** 0.5 / (2 * r)
    assert (found - m * share / (2 * r)).abs() < 5 * stderr


def test_random_units_in_the_plane_have_half_a_length_of_boundary_each_at_the_origin():
    # E |w| times the density of the bias: sqrt(π / 2) / sqrt(2π); at radius r about r²/4 less.
    m, r = 600, 0.2
    found = boundary_density(wide(m, 2), torch.zeros(1, 2), radius=r, directions=100)
    lines = m * 0.5 * math.pi * r  # so many meet the disc, each with a chord of πr/2 on average
    assert (found / m - 0.5).abs() < 5 * 0.5 / lines**0.5


def test_a_deep_network_has_the_length_of_boundary_that_dense_parallel_lines_see():
    network, radius, angles, lines = mlp(2, 16, 16, 1), 1.5, 16, 40
    for layer in network[::2]:
        nn.init.normal_(layer.bias)
    angle = (torch.arange(angles) * math.pi / angles).repeat_interleave(lines)
    offset = ((torch.arange(lines) + 0.5) * 2 / lines - 1).repeat(angles) * radius
    along = torch.stack([angle.cos(), angle.sin()], 1) * (radius**2 - offset**2).sqrt()[:, None]
    aside = torch.stack([-angle.sin(), angle.cos()], 1) * offset[:, None]
    counts = transitions(network, segment(aside - along, aside + along, points=400))
    length = math.pi / 2 * counts.sum() / angles * 2 * radius / lines  # Cauchy and Crofton
    mean, stderr = chords(network, torch.zeros(1, 2), radius=radius)
    assert (mean - length / (math.pi * radius**2)).abs() < 5 * stderr + 0.01 * mean


@pytest.mark.parametrize("unit", [0.5, 4.0])
def test_densities_are_in_units_of_one_over_the_input(unit):
    network, x = mlp(4, 8, 8, 3), torch.randn(6, 4)
    q, _ = torch.linalg.qr(torch.randn(4, 4))
    here = chords(network, x[:1], radius=1.0)
    there = chords(lambda x: network((x / unit - 3) @ q), unit * (x[:1] @ q.T + 3), radius=unit)
    spread = (here[1] ** 2 + (unit * there[1]) ** 2) ** 0.5
    assert (here[0] - unit * there[0]).abs() < 5 * spread


@given(st.integers(0, 1000))
def test_directions_come_from_the_generator_alone(seed):
    network, x = mlp(4, 8, 3), torch.randn(6, 4)
    state = torch.get_rng_state()
    first, again = (
        boundary_density(network, x, radius=2.0, generator=torch.Generator().manual_seed(seed))
        for _ in range(2)
    )
    assert_close(first, again, rtol=0, atol=0)
    assert_close(torch.get_rng_state(), state)


def test_the_chords_of_a_sample_do_not_depend_on_the_others():
    network, x = mlp(4, 8, 3), torch.randn(6, 4)
    draws = Draws.of(6, torch.Generator().manual_seed(0))
    parts = [
        boundary_density(network, x[part], radius=2.0, generator=draws[part])
        for part in (slice(4, 6), slice(4))
    ]
    generator = torch.Generator().manual_seed(0)
    together = boundary_density(network, x, radius=2.0, generator=generator)
    assert_close(torch.cat(parts), together[[4, 5, 0, 1, 2, 3]])


def test_a_linear_network_has_no_boundary_in_any_ball():
    assert_close(boundary_density(mlp(4, 3), torch.randn(6, 4), radius=9.0), torch.zeros(6))


# The metric


def test_the_metric_averages_its_function():
    network, x = mlp(4, 8, 8, 3), torch.randn(50, 4)
    metric = BoundaryDensity(2.0, 4)
    metric.update(network, x)
    found = metric.compute()
    generator = torch.Generator().manual_seed(1)
    density = boundary_density(network, x, radius=2.0, directions=4, generator=generator)
    assert_close(found["boundary_density"], density.mean())
    assert_close(found["boundary_density_stderr"], standard_error(density))
    sites = found["boundary_density/1"] + found["boundary_density/3"]
    assert_close(sites, found["boundary_density"])


# Errors


def test_curves_have_no_boundary_density():
    with pytest.raises(ValueError, match=r"site '1' \(tanh\)"):
        boundary_density(mlp(4, 3, 2, activation=nn.Tanh), torch.randn(6, 4), radius=1.0)


def test_a_radius_is_positive_and_there_is_a_direction():
    with pytest.raises(ValueError, match=r"radius=-1.0: expected a positive number"):
        boundary_density(torch.relu, torch.randn(6, 4), radius=-1.0)
    with pytest.raises(ValueError, match="directions=0: expected at least 1"):
        BoundaryDensity(directions=0)
