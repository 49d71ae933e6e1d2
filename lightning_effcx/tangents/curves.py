"""The shape of a smooth activation: where it is convex, where it is concave, and its tangents.

No activation is recognised by its name. The second derivative is computed by automatic
differentiation, in float64, on a grid that covers zero and the data. Its sign tells convex from
concave. Where the sign changes, bisection finds the inflection. Where the slope changes from one
grid point to the next by more than the second derivative explains, the slope jumps: SELU has such a
jump at zero.

Inflections and jumps are the *turns*. They divide the line into *intervals*. Within an interval
every tangent lies on one side of the curve. The grid has steps of 3/256, and wider ones far from
zero if the data reach there. A feature that is narrower than a step may be missed.

A curve rises by the integral of its slope. A function that does not is no curve: it jumps, as a
rounding does, or autograd does not know its slope, or it swings faster than the grid can see.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_REACH = 12.0  # the grid covers at least ±12; farther out, tanh and its like are flat
_STEP = 3 / 256  # exact in binary, so that zero and small multiples of 3 are grid points
_POINTS = 2**19  # at most so many such steps to each side of zero; farther out they grow
_GROWTH = 2**-10  # a step far from zero, relative to the distance from zero
_HALVINGS = 45  # of a step by bisection, which leaves the distance of two float64 numbers
_FLAT = 1e-10  # a second derivative below this share of the largest one is rounding
_ROUNDING = 1e-12  # the error of a turn's place
_SMOOTH = 1e-6  # a change below this share of the slopes, or of the values, is no jump
_EPS = 1e3  # the same share in a dtype that rounds more, in units of its rounding
_NOISE = 10  # the error of a value, in units of the rounding of its operand times its slope
_BLIND = 1e-3  # far from zero, a slope that explains a rise no better misses what is in between
_PARTS = 64  # of a cell whose rise its slopes at both ends do not explain
_CELLS = 2**12  # at most so many such cells are looked at


@dataclass(frozen=True, eq=False)
class ActivationCurve:
    """An activation function with its turns.

    Attributes:
        value: The activation function, for tensors of any shape.
        turns: Its inflections and the jumps of its slope, `(t,)`, ascending.
        sides: The slopes directly to the left and to the right of each turn, `(t, 2)`.
        signs: 1 for each interval in which the curve is concave, else -1, `(t + 1,)`.
        broken: Places among the data where it does not rise by the integral of its slope, `(b,)`.
    """

    value: Callable[[Tensor], Tensor]
    turns: Tensor
    sides: Tensor
    signs: Tensor
    broken: Tensor

    @property
    def jumps(self) -> Tensor:
        """Whether the slope jumps at each turn, `(t,)`."""
        return self.sides[:, 0] != self.sides[:, 1]

    @property
    def has_one_inflection(self) -> bool:
        """Whether the curve is S-shaped, as tanh and sigmoid are."""
        return len(self.turns) == 1 and not self.jumps.any() and bool(self.sides.isfinite().all())

    def tangents(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values and the slopes at `points`, each of the shape of `points`."""
        value, slope, _ = _derivatives(self.value, points, order=1)
        return value, slope


def analyse_curve(
    apply: Callable[[Tensor], Tensor], low: float, high: float, *, like: Tensor
) -> ActivationCurve:
    """Find the turns of an activation between `low` and `high`, and around zero.

    Args:
        apply: The activation function.
        low: The smallest pre-activation in the data.
        high: The largest pre-activation in the data.
        like: A tensor with the dtype and the device to compute with.

    Example:
        >>> gelu = torch.nn.functional.gelu
        >>> analyse_curve(gelu, -1.0, 1.0, like=torch.zeros((), dtype=torch.float64)).turns
        tensor([-1.4142,  1.4142], dtype=torch.float64)
    """
    grid = _grid(low, high).to(like)
    value, slope, bend = _derivatives(apply, grid)
    broken = _find_broken(apply, grid, value, slope)
    broken = broken[(broken >= low - _STEP) & (broken <= high)]
    known = slope.isfinite() & bend.isfinite()
    bend = torch.where(known & (bend.abs() > _FLAT * bend[known].abs().max()), bend, 0.0)
    jumps, sides = _find_jumps(apply, grid[known], slope[known], bend[known])
    inflections = _find_inflections(apply, grid, bend)
    if len(jumps):
        # The second derivative may change its sign at a jump. That is one turn, not two.
        distance = (inflections[:, None] - jumps).abs().amin(1)
        inflections = inflections[distance > _STEP / 2]
    _, tangent, _ = _derivatives(apply, inflections, order=1)
    turns, order = torch.cat([inflections, jumps]).sort()
    sides = torch.cat([tangent[:, None].expand(-1, 2), sides])[order]
    # Summed over an interval, the second derivative has the sign that it has all along.
    total = bend.new_zeros(len(turns) + 1).index_add(0, torch.bucketize(grid, turns), bend)
    signs = torch.where(total < 0, 1.0, -1.0).to(like)
    return ActivationCurve(apply, turns, sides, signs, broken)


def _grid(low: float, high: float) -> Tensor:
    """Return points that cover the data and zero, which is one of them."""
    low, high = min(low, -_REACH), max(high, _REACH)
    first = max(int(low // _STEP), -_POINTS)
    last = min(int(high // _STEP) + 1, _POINTS)
    near = torch.arange(first, last + 1, dtype=torch.float64) * _STEP
    return torch.cat([-_far(-low).flip(0), near, _far(high)])


def _far(end: float) -> Tensor:
    """Return points up to `end` that begin where the even grid ends; their distance grows."""
    start = _POINTS * _STEP
    count = math.ceil(math.log(max(end / start, 1)) / math.log1p(_GROWTH))
    return start * (1 + _GROWTH) ** torch.arange(1, count + 1, dtype=torch.float64)


def _derivatives(
    apply: Callable[[Tensor], Tensor], z: Tensor, order: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, slopes and second derivatives at `z`; order 1 leaves the last ones at 0."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        value = apply(z)
        slope = _derivative(value, z, create_graph=order > 1)
        bend = _derivative(slope, z) if order > 1 else torch.zeros_like(z)
    return value.detach(), slope.detach(), bend.detach()


def _derivative(of: Tensor, z: Tensor, *, create_graph: bool = False) -> Tensor:
    if not of.requires_grad:  # it is constant
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(of.sum(), z, create_graph=create_graph, materialize_grads=True)
    return found


def _find_broken(
    apply: Callable[[Tensor], Tensor], grid: Tensor, value: Tensor, slope: Tensor
) -> Tensor:
    """Return the starts of the cells in which the slope does not explain the rise, `(b,)`.

    The trapezoid rule integrates the slope. Where a curve is steep or bends, finer parts of a cell
    explain its rise. Where it jumps, or where the slope is not that of the curve, they do not.
    """
    rest, width, eps = _unexplained(grid, value, slope), grid.diff(), torch.finfo(grid.dtype).eps
    least = max(_SMOOTH, _EPS * eps)
    steepest = slope[slope.isfinite()].abs().amax()
    size = value.abs() + _NOISE * eps / least * steepest * (1 + grid.abs())
    size = size[1:] + size[:-1]
    share = torch.where(rest == 0, 0.0, rest.abs() / size)
    cells = share.topk(min(_CELLS, len(share))).indices
    cells = cells[share[cells] > least].sort().values
    parts = torch.linspace(0, 1, _PARTS + 1).to(grid)
    finer = grid[cells, None].lerp(grid[cells + 1, None], parts)
    left = _unexplained(finer, *_derivatives(apply, finer, order=1)[:2]).sum(1).abs()
    is_broken = (left > rest[cells].abs() / 2) & (left > least * size[cells])
    is_far = width[cells] > 2 * _STEP
    return grid[cells[is_broken | (is_far & (share[cells] > _BLIND))]]


def _unexplained(grid: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """Return how much of the rise in each cell is not the integral of the slope.

    Where numbers are not finite, nothing is known, and so nothing is left to explain.
    """
    rest = value.diff() - grid.diff() * (slope[..., 1:] + slope[..., :-1]) / 2
    return torch.where(rest.isfinite(), rest, 0.0)


def _find_inflections(apply: Callable[[Tensor], Tensor], grid: Tensor, bend: Tensor) -> Tensor:
    """Return the points where the second derivative changes its sign, `(t,)`."""
    bent = bend.nonzero().squeeze(1)
    sign = bend[bent].sign()
    changes = (sign[1:] != sign[:-1]).nonzero().squeeze(1)
    low, high, before = grid[bent[changes]], grid[bent[changes + 1]], sign[changes]
    if not len(changes):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_before = _derivatives(apply, middle)[2].sign() == before
        low, high = torch.where(is_before, middle, low), torch.where(is_before, high, middle)
    return _snap(high)


def _find_jumps(
    apply: Callable[[Tensor], Tensor], grid: Tensor, slope: Tensor, bend: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the points where the slope jumps, `(t,)`, and the slopes on both sides, `(t, 2)`."""
    least = _SMOOTH * slope.abs().max()
    # The trapezoid rule integrates the second derivative. What it leaves over may be a jump.
    excess = slope.diff() - grid.diff() * (bend[1:] + bend[:-1]) / 2
    cells = (excess.abs() > least).nonzero().squeeze(1)
    low, high, left, right = grid[cells], grid[cells + 1], slope[cells], slope[cells + 1]
    if not len(cells):
        return high, torch.stack([left, right], 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        between = _derivatives(apply, middle, order=1)[1]
        is_later = (right - between).abs() > (between - left).abs()
        low, left = torch.where(is_later, middle, low), torch.where(is_later, between, left)
        high, right = torch.where(is_later, high, middle), torch.where(is_later, right, between)
    # Where the slope is steep but continuous, bisection has closed the gap.
    jumps = (right - left).abs() > least
    return _snap(high[jumps]), torch.stack([left, right], 1)[jumps]


def _snap(turns: Tensor) -> Tensor:
    """Move turns that are within rounding of a multiple of the step, such as zero, onto it."""
    nearest = (turns / _STEP).round() * _STEP
    return torch.where((turns - nearest).abs() < _ROUNDING, nearest, turns)
