"""Curves: where a smooth activation is convex, where concave, and what its tangents are.

Nothing is known by name. The second derivative, by automatic differentiation in float64 on a grid
around zero that covers the data, says how an activation bends; where it changes its sign, bisection
finds the inflection. Where it does not account for the change of the slope from one point of the
grid to the next, the slope jumps, as that of SELU does at zero. Inflections and jumps are the
*turns*; between two of them is a *stretch*, on which every tangent is on one side of the curve.
What is narrower than the grid's step of 3/256 may be missed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_REACH = 12.0  # of the grid, at least: beyond it tanh is as flat as float64 can tell
_STEP = 3 / 256  # so that zero and small integers are on the grid
_POINTS = 2**20  # of the grid, at most: where data reach further, its step grows
_HALVINGS = 45  # of a step, which leaves a float's width
_FLAT = 1e-10  # of the largest second derivative: what is smaller is rounding
_ROUNDING = 1e-12  # of the place of a turn
_SMOOTH = 1e-6  # of the largest slope: smaller jumps are none


@dataclass(frozen=True, eq=False)
class Curve:
    """An activation, and where it turns.

    Attributes:
        value: The activation of any tensor.
        turns: Its inflections, and the places where its slope jumps, `(t,)`, ascending.
        sides: The slopes to the left and to the right of each turn, `(t, 2)`.
        signs: Of each stretch, 1 where the curve is concave and -1 where not, `(t + 1,)`.
    """

    value: Callable[[Tensor], Tensor]
    turns: Tensor
    sides: Tensor
    signs: Tensor

    @property
    def jumps(self) -> Tensor:
        """At which turns the slope jumps, `(t,)`."""
        return self.sides[:, 0] != self.sides[:, 1]

    @property
    def has_one_inflection(self) -> bool:
        """Whether it is S-shaped, as tanh and sigmoid are."""
        return len(self.turns) == 1 and not self.jumps.any() and bool(self.sides.isfinite().all())

    def tangents(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and slopes at any points, each of their shape."""
        value, slope, _ = _derivatives(self.value, points, order=1)
        return value, slope


def curve(apply: Callable[[Tensor], Tensor], low: float, high: float, *, like: Tensor) -> Curve:
    """Find the stretches of an activation between `low` and `high`, and around zero.

    Args:
        apply: The activation.
        low: The least of the data.
        high: The greatest.
        like: A tensor of the precision and on the device to compute with.

    Example:
        >>> gelu = torch.nn.functional.gelu
        >>> curve(gelu, -1.0, 1.0, like=torch.zeros((), dtype=torch.float64)).turns
        tensor([-1.4142,  1.4142], dtype=torch.float64)
    """
    grid = _grid(low, high).to(like)
    _, slope, bend = _derivatives(apply, grid)
    known = slope.isfinite() & bend.isfinite()
    bend = torch.where(known & (bend.abs() > _FLAT * bend[known].abs().max()), bend, 0.0)
    jumps, sides = _jumps(apply, grid[known], slope[known], bend[known])
    inflections = _inflections(apply, grid, bend)
    if len(jumps):
        distance = (inflections[:, None] - jumps).abs().amin(1)
        inflections = inflections[distance > _STEP / 2]  # the curvature may turn at a jump
    _, tangent, _ = _derivatives(apply, inflections, order=1)
    turns, order = torch.cat([inflections, jumps]).sort()
    sides = torch.cat([tangent[:, None].expand(-1, 2), sides])[order]
    total = bend.new_zeros(len(turns) + 1).index_add(0, torch.bucketize(grid, turns), bend)
    return Curve(apply, turns, sides, torch.where(total < 0, 1.0, -1.0).to(like))


def _grid(low: float, high: float) -> Tensor:
    low, high = min(low, -_REACH), max(high, _REACH)
    step = _STEP
    while (high - low) / step > _POINTS:
        step *= 2
    return torch.arange(int(low // step), int(high // step) + 2, dtype=torch.float64) * step


def _derivatives(
    apply: Callable[[Tensor], Tensor], z: Tensor, order: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, slope and second derivative at any points; the last is 0 for order 1."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        value = apply(z)
        slope = _derivative(value, z, create_graph=order > 1)
        bend = _derivative(slope, z) if order > 1 else torch.zeros_like(z)
    return value.detach(), slope.detach(), bend.detach()


def _derivative(of: Tensor, z: Tensor, *, create_graph: bool = False) -> Tensor:
    if not of.requires_grad:  # a constant
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(of.sum(), z, create_graph=create_graph, materialize_grads=True)
    return found


def _inflections(apply: Callable[[Tensor], Tensor], grid: Tensor, bend: Tensor) -> Tensor:
    """Return where the second derivative goes from one sign to the other, `(t,)`."""
    bent = bend.nonzero().squeeze(1)
    sign = bend[bent].sign()
    changes = (sign[1:] != sign[:-1]).nonzero().squeeze(1)
    low, high, before = grid[bent[changes]], grid[bent[changes + 1]], sign[changes]
    for _ in range(_HALVINGS if len(changes) else 0):
        middle = (low + high) / 2
        stays = _derivatives(apply, middle)[2].sign() == before
        low, high = torch.where(stays, middle, low), torch.where(stays, high, middle)
    return _snapped(high)


def _jumps(
    apply: Callable[[Tensor], Tensor], grid: Tensor, slope: Tensor, bend: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where the slope jumps, `(t,)`, and the slopes on both sides, `(t, 2)`."""
    least = _SMOOTH * slope.abs().max()
    change = slope.diff() - grid.diff() * (bend[1:] + bend[:-1]) / 2
    cells = (change.abs() > least).nonzero().squeeze(1)
    low, high, left, right = grid[cells], grid[cells + 1], slope[cells], slope[cells + 1]
    for _ in range(_HALVINGS if len(cells) else 0):
        middle = (low + high) / 2
        between = _derivatives(apply, middle, order=1)[1]
        later = (right - between).abs() > (between - left).abs()
        low, left = torch.where(later, middle, low), torch.where(later, between, left)
        high, right = torch.where(later, high, middle), torch.where(later, right, between)
    jumps = (right - left).abs() > least
    return _snapped(high[jumps]), torch.stack([left, right], 1)[jumps]


def _snapped(turns: Tensor) -> Tensor:
    """Put what is within rounding of the grid, such as zero, exactly there."""
    nearest = (turns / _STEP).round() * _STEP
    return torch.where((turns - nearest).abs() < _ROUNDING, nearest, turns)
