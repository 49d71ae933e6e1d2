"""Broken lines: continuous piecewise-linear functions of one variable, made of tangents."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Tangents(NamedTuple):
    """Tangent lines of units, one entry for each: of which unit, where, value and slope there.

    Two with one point are what touches a curve to the left and to the right of a jump of its slope,
    in this order.
    """

    unit: Tensor
    point: Tensor
    value: Tensor
    slope: Tensor


@dataclass(frozen=True, eq=False)
class BrokenLines:
    """For each of `u` units a line to the far left, and where and by how much its slope changes.

    Attributes:
        offset: The first lines' values at zero, `(u,)`.
        slope: Their slopes, `(u,)`.
        unit: Of each knot the unit, `(k,)`.
        knot: Of each knot the place, `(k,)`.
        change: Of each knot by how much the slope changes there, `(k,)`.
    """

    offset: Tensor
    slope: Tensor
    unit: Tensor
    knot: Tensor
    change: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Map the pre-activations `(n, u)` of all units; piecewise linear, in ordinary operations.

        Nothing but its own knots is a kink of it, so that they can be counted.
        """
        bent = torch.relu(z.index_select(1, self.unit) - self.knot) * self.change
        return (z * self.slope + self.offset).index_add(1, self.unit, bent)

    def to(self, like: Tensor) -> "BrokenLines":
        """Have the same lines in the precision and on the device of a tensor."""
        real = {name: getattr(self, name).to(like) for name in _REAL}
        return replace(self, unit=self.unit.to(like.device), **real)

    def repeated(self, times: int) -> "BrokenLines":
        """Give the lines of each unit to as many units that follow each other."""
        units = self.unit[:, None] * times + torch.arange(times, device=self.unit.device)
        return BrokenLines(
            self.offset.repeat_interleave(times),
            self.slope.repeat_interleave(times),
            units.flatten(),
            self.knot.repeat_interleave(times),
            self.change.repeat_interleave(times),
        )


_REAL = ("offset", "slope", "knot", "change")


def in_order(tangents: Tangents) -> Tangents:
    """Sort tangents by unit, and those of one unit from left to right."""
    order = tangents.point.argsort(stable=True)
    order = order[tangents.unit[order].argsort(stable=True)]
    return Tangents(*(column[order] for column in tangents))


def joined(tangents: Tangents) -> BrokenLines:
    r"""Join the tangents of each unit, in order, where they meet.

    The tangents at $p < q$ meet at
    $\eta = [\phi(q) - \phi(p) + \phi'(p) p - \phi'(q) q] / (\phi'(p) - \phi'(q))$.
    """
    unit, point, value, slope = tangents
    first = torch.cat([unit.new_ones(1, dtype=torch.bool), unit.diff() > 0])
    after = (~first).nonzero().squeeze(1)
    before = after - 1
    p, q, change = point[before], point[after], slope[after] - slope[before]
    gap = value[after] - value[before] + slope[before] * p - slope[after] * q
    # Parallel tangents, of a stretch that is straight, are one line: anywhere between will do.
    meeting = torch.where(change == 0, p, gap / torch.where(change == 0, 1.0, -change))
    knot = torch.minimum(torch.maximum(meeting, p), q)
    offset = (value - slope * point)[first]
    return BrokenLines(offset, slope[first], unit[after], knot, change)
