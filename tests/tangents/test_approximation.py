import pytest
import torch
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.tangents.approximation import Approximation
from lightning_effcx.tangents.curves import analyse_curve
from lightning_effcx.tangents.greedy import GreedyOrder
from lightning_effcx.tangents.piecewise_linear import Tangents, join_tangents

pytestmark = pytest.mark.usefixtures("_float64")

CURVES = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "elu": F.elu,
    "half elu": lambda z: F.elu(z, 0.5),
    "selu": F.selu,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "log sigmoid": F.logsigmoid,
    "sin": torch.sin,
    "square": torch.square,
}
EVERY = pytest.mark.parametrize("name", CURVES)


def scattered(units=5, samples=20):
    spread = torch.tensor([0.1, 1.0, 2.0, 4.0, 4.0])[:units, None]
    centre = torch.tensor([0.0, 0.0, 0.5, 0.0, 3.0])[:units, None]
    return torch.randn(units, samples) * spread + centre, torch.rand(units, 1) / samples


def approximated(apply, z, weight, candidates=1000):
    found = analyse_curve(apply, float(z.min()), float(z.max()), like=z)
    return Approximation(found, z, weight, candidates)


class Slow:
    """One unit: the errors at its samples, from every tangent at every sample."""

    def __init__(self, approximation, first, z, weight):
        self.curve, self.z, self.weight = approximation.curve, z, weight
        self.phi = self.curve.value(z)
        self.stretch = torch.bucketize(z, self.curve.turns)
        self.error = torch.full_like(z, torch.inf)
        for point, value, slope in first:
            self.error = self.after(point, value, slope)

    def after(self, point, value, slope):
        error = (value + slope * (self.z - point) - self.phi).abs()
        turns = [i for i, turn in enumerate(self.curve.turns) if turn == point]
        stretch = {int(torch.bucketize(point, self.curve.turns))}
        for i in turns:
            sides = self.curve.sides[i]
            stretch = {i + side for side in (0, 1) if sides[side] == slope}
        there = torch.tensor([int(s) in stretch for s in self.stretch])
        return torch.where(there, torch.minimum(self.error, error), self.error)

    def total(self):
        return float((self.error * self.weight).sum())

    def best(self):
        """The gain of the best tangent at a sample, and the errors after it."""
        values, slopes = self.curve.tangents(self.z)
        after = [self.after(*tangent) for tangent in zip(self.z, values, slopes, strict=True)]
        gains = [float(((self.error - e) * self.weight).sum()) for e in after]
        return max(zip(gains, range(len(gains)), after, strict=True), key=lambda triple: triple[0])


@EVERY
def test_the_greedy_order_agrees_with_a_search_through_all_units_and_samples(name):
    z, weight = scattered()
    approximation = approximated(CURVES[name], z, weight)
    greedy = GreedyOrder([approximation])
    units = []
    for unit in range(len(z)):
        mine = approximation.first.unit == unit
        first = list(zip(*(column[mine] for column in approximation.first[1:]), strict=True))
        units.append(Slow(approximation, first, z[unit], weight[unit]))
    assert_close(greedy.error, sum(unit.total() for unit in units))
    expected = []
    for _ in range(10):
        best = [unit.best() for unit in units]
        which = max(range(len(best)), key=lambda unit: best[unit][0])
        expected.append(best[which][0])
        units[which].error = best[which][2]
    assert greedy.reach(10)
    assert_close(greedy.gains[:10], torch.tensor(expected), rtol=0, atol=1e-12)
    # The broken lines have the error that is left.
    lines = join_tangents(greedy.choose(10)[0])
    left = ((lines(z.T).T - CURVES[name](z)).abs() * weight).sum()
    assert_close(float(left), greedy.error_after(10), rtol=0, atol=1e-12)
    assert_close(float(left), sum(unit.total() for unit in units), rtol=0, atol=1e-12)


@EVERY
def test_units_of_one_site_and_units_of_several_sites_have_the_same_gains(name):
    z, weight = scattered()
    together = GreedyOrder([approximated(CURVES[name], z, weight)])
    apart = GreedyOrder(
        [approximated(CURVES[name], z[i : i + 1], weight[i : i + 1]) for i in range(5)]
    )
    assert together.reach(40)
    assert apart.reach(40)
    assert_close(together.gains[:40], apart.gains[:40], rtol=0, atol=1e-13)


@EVERY
def test_the_error_falls_to_any_tolerance(name):
    z, weight = scattered()
    greedy = GreedyOrder([approximated(CURVES[name], z, weight)])
    count = greedy.count(1e-10)
    assert count is not None
    assert greedy.error_after(count) <= 1e-10
    assert count == 0 or greedy.error_after(count - 1) > 1e-10
    assert not greedy.reach(10_000)  # there are not so many samples


def test_tangents_at_few_candidates_may_not_be_enough():
    z = torch.linspace(-3, 3, 200)[None]
    greedy = GreedyOrder([approximated(torch.tanh, z, torch.ones(1, 1), 5)])
    assert greedy.count(1e-3) is None


@EVERY
def test_broken_lines_are_continuous_and_touch_the_curve_at_their_tangents(name):
    z, weight = scattered(units=4)
    greedy = GreedyOrder([approximated(CURVES[name], z, weight)])
    greedy.reach(20)
    (tangents,) = greedy.choose(20)
    lines = join_tangents(tangents)
    for unit, point, value, slope in zip(*tangents, strict=True):
        at = lines(torch.full((1, 4), float(point)))[0, unit]
        assert_close(at, value)
        assert_close(at, CURVES[name](point))
        apart = 1e-7
        around = torch.stack([point - apart, point, point + apart])[:, None].expand(3, 4)
        steps = lines(around)[:, unit].diff() / apart
        assert ((steps - slope).abs() < 1e-4).any()
    # Knots lie between the tangents that meet there, and are in order.
    assert len(lines.knot) == len(tangents.unit) - 4
    same = lines.unit.diff() == 0
    assert (lines.knot.diff()[same] >= 0).all()


def test_a_sample_of_weight_two_counts_as_two_samples():
    z = torch.randn(3, 20)
    times = torch.randint(1, 4, (20,))
    total = GreedyOrder([approximated(torch.tanh, z, times.double().expand(3, -1))])
    copies = GreedyOrder(
        [approximated(torch.tanh, z.repeat_interleave(times, 1), torch.ones(3, 1))]
    )
    assert_close(total.error, copies.error)
    total.reach(10)
    copies.reach(10)
    assert_close(total.gains[:10], copies.gains[:10])


def test_blocks_do_not_matter(monkeypatch):
    z, weight = scattered()
    whole = GreedyOrder([approximated(F.gelu, z, weight)])
    monkeypatch.setattr("lightning_effcx.tangents.approximation._BLOCK", 60)  # two units
    parts = GreedyOrder([approximated(F.gelu, z, weight)])
    whole.reach(30)
    parts.reach(30)
    assert_close(whole.gains[:30], parts.gains[:30], rtol=0, atol=1e-15)
    assert_close(whole.choose(30), parts.choose(30))


def test_parallel_tangents_are_joined_anywhere_between():
    unit, point = torch.zeros(2, dtype=torch.long), torch.tensor([1.0, 2.0])
    lines = join_tangents(Tangents(unit, point, point, torch.ones(2)))
    z = torch.linspace(-3, 3, 7)[:, None]
    assert_close(lines(z), z)


def test_repeated_functions_belong_to_neighbouring_units():
    z, weight = scattered(units=2)
    greedy = GreedyOrder([approximated(torch.tanh, z, weight)])
    greedy.reach(6)
    lines = join_tangents(greedy.choose(6)[0])
    x = torch.randn(7, 2)
    assert_close(lines.repeat_units(3)(x.repeat_interleave(3, 1)), lines(x).repeat_interleave(3, 1))
