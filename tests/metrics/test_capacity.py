import math

import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import Sawtooth, Staircase, mlp, specimen
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import Capacity, region_capacity
from lightning_effcx.metrics import CapacityGap
from lightning_effcx.metrics.error_bars import standard_error
from lightning_effcx.paths import Ellipse, Segment
from lightning_effcx.piecewise.lines import pieces

CONTRACTS = [
    Contract(
        CapacityGap,
        options=[
            {"paths": Segment(count=4, points=2)},
            {"paths": Ellipse(count=3, points=9)},
        ],
        cheap={"paths": Segment(count=1, points=2)},
        exact=True,
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


class Across:
    """One segment between the first two samples."""

    name = "across"

    def __call__(self, x, y, generator):
        return x[None, :2]


# By hand


def test_a_perceptron_multiplies_its_layers():
    found = region_capacity(mlp(4, 8, 5, 3), torch.zeros(2, 4))
    assert found == Capacity(pytest.approx(math.log(9 * 6)), 13, 13)


def test_units_with_two_kinks_count_twice():
    found = region_capacity(mlp(4, 8, 5, 3, activation=nn.Hardtanh), torch.zeros(2, 4))
    assert found == Capacity(pytest.approx(math.log(17 * 11)), 13, 26)


@pytest.mark.parametrize(
    ("pool", "windows", "kinks"),
    [
        (nn.MaxPool1d(2), 3, 3),
        (nn.MaxPool1d(3, stride=1), 4, 8),
        (nn.MaxPool1d(3, stride=2, padding=1), 3, 2 + 2 + 1),  # one window reaches over the edge
        (nn.AdaptiveMaxPool1d(4), 4, 4),  # of two elements each
    ],
)
def test_a_window_has_a_kink_less_than_elements(pool, windows, kinks):
    found = region_capacity(lambda x: pool(x[:, None])[:, 0], torch.zeros(1, 6))
    assert found == Capacity(pytest.approx(math.log(kinks + 1)), windows, kinks)


def test_images_have_a_window_for_every_place_and_channel():
    found = region_capacity(lambda x: F.max_pool2d(x, 2).flatten(1), torch.zeros(1, 3, 4, 4))
    assert (found.units, found.kinks) == (12, 36)
    solid = region_capacity(lambda x: F.max_pool3d(x, 2).flatten(1), torch.zeros(1, 3, 4, 4, 4))
    assert (solid.units, solid.kinks) == (24, 24 * 7)
    most = region_capacity(lambda x: x.amax((1, 2)), torch.zeros(1, 3, 4, 5))
    assert (most.units, most.kinks) == (5, 55)


def test_steps_reach_all_that_they_could():
    metric = CapacityGap(Across())
    metric.update(Staircase(7), torch.tensor([[0.0], [9.0]]))
    found = metric.compute()
    assert_close(found["capacity_gap.across"], torch.tensor(8 / 7))
    assert_close(found["capacity_gap.across_share"], torch.tensor(1.0))


def test_a_sawtooth_is_exponential_in_its_depth():
    metric = CapacityGap(Across())
    metric.update(Sawtooth(6), torch.tensor([[1e-9], [1 - 1e-9]]))
    found = metric.compute()
    assert_close(found["capacity_gap.across"], torch.tensor(2**6 / 12))
    assert_close(
        found["capacity_gap.across_share"], torch.tensor(math.log(2**6) / (6 * math.log(3)))
    )


# Against the exact count


@pytest.mark.parametrize("name", ["mlp", "conv", "in_place", "residual", "prelu", "tied"])
def test_no_segment_has_more_regions_than_the_capacity(name):
    network, x = specimen(name, samples=24)
    network.eval()
    path = 50 * x.unflatten(0, (12, 2))
    regions = pieces(network, path).regions()
    assert (regions.log() <= region_capacity(network, x).log_regions).all()
    metric = CapacityGap(Segment(points=2), chunk=7)
    metric.update(network, x)
    share = metric.compute()["capacity_gap.segment_share"]
    assert 0 <= share <= 1


def test_the_gap_is_the_mean_of_regions_per_unit():
    network, x = mlp(4, 16, 16, 3), torch.randn(200, 4)
    metric = CapacityGap()
    metric.update(network, x)
    metric.update(network, -x)
    found = metric.compute()
    regions = torch.cat(
        [
            pieces(network, metric.paths(part, None, torch.Generator().manual_seed(i))).regions()
            for i, part in enumerate((x, -x), 1)
        ]
    ).double()
    assert_close(found["capacity_gap.segment"], regions.mean() / 32)
    assert_close(found["capacity_gap.segment_stderr"], standard_error(regions) / 32)
    expected = (regions.log() / math.log(17**2)).mean()
    assert_close(found["capacity_gap.segment_share"], expected)
    spread = standard_error(regions.log() / math.log(17**2))
    assert_close(found["capacity_gap.segment_share_stderr"], spread)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 99))
def test_capacity_depends_on_the_architecture_alone(widths, seed):
    generator = torch.Generator().manual_seed(seed)
    network = mlp(3, *widths, 2)
    first, second = (region_capacity(network, torch.randn(2, 3, generator=generator)) for _ in "ab")
    assert first == second
    assert first.units == first.kinks == sum(widths)
    assert first.log_regions == pytest.approx(sum(math.log(width + 1) for width in widths))


def test_processes_agree_on_the_capacity():
    network, x = mlp(4, 16, 16, 3), torch.randn(20, 4)
    alone = CapacityGap()
    one_of_two = CapacityGap(
        dist_sync_fn=lambda state, group: [state, state], distributed_available_fn=lambda: True
    )
    for metric in (alone, one_of_two):
        metric.update(network, x)
    for key in ("capacity_gap.segment", "capacity_gap.segment_share"):
        assert_close(one_of_two.compute()[key], alone.compute()[key])


# Errors


def test_networks_without_regions_are_refused():
    x = torch.randn(6, 4)
    with pytest.raises(ValueError, match="no units with kinks, so its only region"):
        region_capacity(nn.Linear(4, 3), x)
    with pytest.raises(ValueError, match=r"site '1' \(tanh\) is not piecewise linear.*use Transi"):
        CapacityGap().update(mlp(4, 3, 2, activation=nn.Tanh), x)
