"""Continuous piecewise-linear functions of one variable, made of tangents."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Tangents(NamedTuple):
    """Tangent lines, one entry for each line.

    Two tangents of one unit may have the same point: where the slope of the curve jumps, the first
    one touches the curve on the left of the jump, and the second one on the right.

    Attributes:
        unit: The index of the unit.
        point: The pre-activation at which the line touches the curve.
        value: The height of the line at the point.
        slope: The slope of the line.
    """

    unit: Tensor
    point: Tensor
    value: Tensor
    slope: Tensor


@dataclass(frozen=True, eq=False)
class PiecewiseLinear:
    """One continuous piecewise-linear function for each of `u` units.

    A function is a line, plus a bend at each of its knots.

    Attributes:
        offset: The value at zero of each unit's leftmost line, `(u,)`.
        slope: The slope of each unit's leftmost line, `(u,)`.
        unit: The unit of each knot, `(k,)`.
        knot: The pre-activation of each knot, `(k,)`.
        change: The change of the slope at each knot, `(k,)`.
    """

    offset: Tensor
    slope: Tensor
    unit: Tensor
    knot: Tensor
    change: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Apply each unit's function to its pre-activations, `(n, u)`.

        Only ReLU and linear operations are used, so that `pieces` counts exactly these knots.
        """
        bent = torch.relu(z.index_select(1, self.unit) - self.knot) * self.change
        return (z * self.slope + self.offset).index_add(1, self.unit, bent)

    def to(self, like: Tensor) -> "PiecewiseLinear":
        """Return the functions with the dtype and on the device of `like`."""
        return replace(
            self,
            offset=self.offset.to(like),
            slope=self.slope.to(like),
            unit=self.unit.to(like.device),  # an index keeps its dtype
            knot=self.knot.to(like),
            change=self.change.to(like),
        )

    def repeat_units(self, times: int) -> "PiecewiseLinear":
        """Return the functions for `times` units in place of each unit."""
        units = self.unit[:, None] * times + torch.arange(times, device=self.unit.device)
        return PiecewiseLinear(
            self.offset.repeat_interleave(times),
            self.slope.repeat_interleave(times),
            units.flatten(),
            self.knot.repeat_interleave(times),
            self.change.repeat_interleave(times),
        )


def sort_tangents(tangents: Tangents) -> Tangents:
    """Sort tangents by unit, and the tangents of one unit from left to right."""
    order = tangents.point.argsort(stable=True)
    order = order[tangents.unit[order].argsort(stable=True)]
    return Tangents(*(column[order] for column in tangents))


def join_tangents(tangents: Tangents) -> PiecewiseLinear:
    r"""Join the sorted tangents of each unit where neighbours meet.

    The tangents at $p < q$ meet at
    $\eta = [\phi(q) - \phi(p) + \phi'(p) p - \phi'(q) q] / (\phi'(p) - \phi'(q))$.
    """
    unit, point, value, slope = tangents
    is_first = torch.cat([unit.new_ones(1, dtype=torch.bool), unit.diff() > 0])
    after = (~is_first).nonzero().squeeze(1)
    before = after - 1
    p, q, change = point[before], point[after], slope[after] - slope[before]
    gap = value[after] - value[before] + slope[before] * p - slope[after] * q
    # Where the curve is straight, both tangents are one line, and any point between them will do.
    meeting = torch.where(change == 0, p, gap / torch.where(change == 0, 1.0, -change))
    # Rounding may put the meeting point outside.
    knot = torch.minimum(torch.maximum(meeting, p), q)
    offset = (value - slope * point)[is_first]
    return PiecewiseLinear(offset, slope[is_first], unit[after], knot, change)
