"""Affine extension: the distance of each unit from its kinks, and its derivatives, at samples.

In the region of a sample every unit is affine in the input. One pass gives its derivatives along
any number of directions. The batch of this pass has blocks with one row for each sample: the
samples themselves, zeros, and one block for each direction. Affine operations run on all rows. The
derivative along a direction is the difference between its rows and the rows of zeros. At a
nonlinearity the rows of the samples select the linear piece of each unit. The slope of this piece
maps all other rows. Nothing is approximated.

A bias is in the rows of a direction as well as in the rows of zeros. A small derivative beside a
large bias would lose its digits. So the directions are so long that every bias is nothing beside
the change along them. The derivatives are divided by the length at the end.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_effcx.network import Network, differentiating, in_precision, to_precision
from lightning_effcx.piecewise.confirmation import Claim, claim_around
from lightning_effcx.piecewise.jump_check import check_jumps
from lightning_effcx.piecewise.passes import Pass
from lightning_effcx.piecewise.rivals import Rivals, find_rivals
from lightning_effcx.piecewise.rounding import (
    COPIES,
    Noise,
    RoundingError,
    Scale,
    least,
    spread,
    with_care_if_needed,
)
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.winners import contest, number_units, place
from lightning_effcx.tracing import Operation, OperatorCall

_LONG = 2.0**300  # the length of the directions: a power of two, so that no digit changes
_CONSTANT = 2.0**200  # what is larger at zero is a constant, such as the fill of a mask
_ROUNDING = 1e-13  # relative to the largest value at zero: what changes by less does not change


@dataclass(frozen=True, eq=False)
class Bends:
    """Where the units of one site bend.

    Attributes:
        gap: How far each unit's pre-activation is from its nearest kink, `(n, g)`; for a choice,
            how far apart two rivals are, such as the winner and another element of its window.
        squares: The squares of its derivatives along the directions, summed, `(n, g)`.
        units: How many units there are. Each window is one, and each position of a sorted row.
        kinks: How many kinks these units have, all together. A window has one less than elements.
            All positions of a sorted row together have one for each two elements.
    """

    gap: Tensor
    squares: Tensor
    units: int
    kinks: int

    def distances(self) -> Tensor:
        """Return how far each unit bends from the samples; infinite where it does not, `(n, g)`."""
        return torch.where(self.squares > 0, self.gap / self.squares.sqrt(), torch.inf)


def bends(network: Network, x: Tensor, directions: Tensor | None = None) -> dict[str, Bends]:
    """Return for each site how far its units are from bending at the samples, in float64.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently; its operations must
            be affine or piecewise linear in the input.
        x: The samples.
        directions: In which directions to differentiate, `(c, ...)`; by default in none.

    Example:
        >>> x = torch.tensor([[3.0, 5.0]])
        >>> found = bends(lambda x: torch.relu(2 * x), x, torch.tensor([[1.0, 0.0]]))
        >>> found["relu"].gap.tolist(), found["relu"].squares.tolist()
        ([[6.0, 10.0]], [[4.0, 0.0]])
    """
    x = to_precision(x, torch.float64)
    directions = x[:0] if directions is None else directions.to(x)
    network = in_precision(network, torch.float64)

    def run(is_careful: bool) -> tuple[AffineExtension, Tensor]:  # noqa: FBT001 as it is called
        extension = AffineExtension(x, directions, is_careful=is_careful)
        return extension, extension.run(network)

    # The network may write in place, which inference tensors refuse.
    with torch.no_grad(), differentiating():
        extension, y = with_care_if_needed(run)
        if extension.steps.were_seen:
            check_jumps(network, x)
    if not extension.needed & extension.bends.keys():
        raise ValueError(
            "this network has no units with kinks, so its only region has no boundary: "
            "use JacobianNorm."
        )
    found = {name: bends for name, bends in extension.bends.items() if name in extension.needed}
    extension.claim(x, y, directions, found).confirm(network)
    return found


class AffineExtension(Pass):
    """A pass whose rows are samples and directions, with no paths between them.

    Args:
        x: The samples.
        directions: The directions, `(c, ...)`.
        is_careful: Whether the directions have copies, which tell derivatives from rounding.

    Attributes:
        bends: Where the units of each site bend.
    """

    def __init__(self, x: Tensor, directions: Tensor, *, is_careful: bool = False) -> None:
        self.samples = len(x)
        self.directions = len(directions)
        self._copies = COPIES * is_careful
        self._noise = Noise()
        directions = torch.cat([directions] * (1 + self._copies))
        self.blocks = 2 + len(directions)
        self.bends: dict[str, Bends] = {}
        moved = (_LONG * directions)[:, None].expand(-1, *x.shape)
        self._scale = Scale(moved.flatten(0, 1))
        batch = torch.cat([x[None], torch.zeros_like(x[None]), moved]).flatten(0, 1)
        alone = torch.arange(len(batch), device=x.device)  # no two rows are on one path
        rows = Rows(alone, torch.zeros(len(batch)).to(x))
        super().__init__(rows, batch)

    @override
    def _follow(self, call: OperatorCall) -> Any:
        out = super()._follow(call)
        for tensor in self._made(call, out):
            moved = tensor.unflatten(0, (self.blocks, -1))[2:]
            self._scale.see(moved.flatten(0, 1))
            self._noise.change(moved[self.directions :])
        return out

    @override
    def _bend(self, call: OperatorCall, name: str) -> Tensor:
        call = self.followed.bring_call(call, 0)
        operation = self._read(call)
        self._note(operation, name)
        first, *others = call.args
        z = self._base(operation.z)
        if operation.bound is not None:
            value = call.func(first.clone(), *others, **call.kwargs)  # perhaps in place
            bound = operation.bound.expand(value.shape)
            return torch.where(self._spread(self._base(value == bound)), bound, first)
        rest = [self._base(a) if _is_alike(a, operation.z) else a for a in others]

        def run(z: Tensor) -> Tensor:
            return call.func(z.clone(), *rest, **call.kwargs)

        left, right = _piece(z, operation.kinks)
        slope = (run(right) - run(left)) / (right - left)
        return torch.cat([run(z), (self._moves(operation.z) * slope).flatten(0, 1)])

    @override
    def _split(self, call: OperatorCall, name: str) -> tuple[Tensor, Tensor]:
        """Compare at the samples; there are no sides where no paths are."""
        call = self.followed.bring_call(call, 0)
        self._note(self._read(call), name)
        step = self._spread(self._base(call.run()))
        return step, step

    def _note(self, operation: Operation, name: str) -> None:
        """Note how far the units of a site are from their kinks."""
        z = self._base(operation.z)
        gap = torch.stack([(z - kink).abs() for kink in operation.kinks]).amin(0)
        units = gap.numel() // self.samples
        kinks = units * sum(map(math.isfinite, operation.kinks))
        squares = self._squares(self._moves(operation.z))
        self.bends[name] = Bends(self._by_sample(gap), squares, units, kinks)

    @override
    def _choose(self, call: OperatorCall, name: str) -> Any:
        call = self.followed.bring_call(call, 0)
        out = call.run()
        operation = self._read(call)
        values, winners = contest(operation, out, len(self.rows.path))  # (r, groups, elements)
        won = self._base(winners)  # (n, groups, windows)

        def pool(x: Tensor) -> Tensor:
            return call.func(x, *call.args[1:], **call.kwargs)[0]

        rivals = find_rivals(operation, won, values.shape[2], pool)
        self.bends[name] = self._bound_by(rivals, values, won[0].numel())
        picked = values.gather(2, self._spread(won))
        if operation.choice.of == "minimum":
            picked = -picked
        value, *index = [out] if isinstance(out, Tensor) else out
        units = number_units(operation, value, len(values))
        value.copy_(place(picked, units).reshape(value.shape))
        for winner in index:
            winner.copy_(self._spread(self._base(winner)))
        return out

    def _bound_by(self, rivals: Rivals, values: Tensor, units: int) -> Bends:
        """Return how far the elements of a choice are from ties that change what is picked."""
        first, second = rivals.pairs(self._base(values))
        gap = (first - second).abs().nan_to_num(nan=0.0, posinf=torch.inf)  # of equal infinities
        first, second = rivals.pairs(self._moves(values))
        moved = first - second
        # Equal elements that are computed in two ways differ by rounding.
        moved = moved.where(moved.abs() > _ROUNDING * (first.abs() + second.abs()), 0.0)
        if not gap.numel():  # a choice from one element never ties
            never = gap.new_full((self.samples, 1), torch.inf)
            return Bends(never, torch.zeros_like(never), units, rivals.kinks)
        return Bends(self._by_sample(gap), self._squares(moved), units, rivals.kinks)

    def claim(self, x: Tensor, y: Tensor, directions: Tensor, bends: dict[str, Bends]) -> Claim:
        """Return what the pass says about the samples, and about a point in each region."""
        slopes = (self._moves(y.reshape(len(y), -1)) / _LONG)[1 : 1 + self.directions]
        radius = torch.stack([each.distances().amin(1) for each in bends.values()]).amin(0)
        samples = Claim(x, self._by_sample(self._base(y)), self.output)
        return claim_around(samples, directions, slopes, radius)

    # -- blocks

    def _base(self, values: Tensor) -> Tensor:
        """Return the rows of the samples."""
        return values[: len(values) // self.blocks]

    def _spread(self, values: Tensor) -> Tensor:
        """Repeat values of the samples for every block."""
        return values.expand(self.blocks, *values.shape).flatten(0, 1)

    def _moves(self, values: Tensor) -> Tensor:
        """Return the differences between the rows of each direction and the rows of zeros."""
        blocks = values.unflatten(0, (self.blocks, -1))
        zero, moves = blocks[1], blocks[1:] - blocks[1]
        largest = float(zero.abs().amax())
        if largest >= _CONSTANT:
            constant = zero.abs() >= _CONSTANT
            moves = moves.masked_fill(constant, 0.0)  # infinite constants have no difference
            largest = float(zero.abs().masked_fill(constant, 0.0).amax())
        # Products of matrices round equal rows differently, so tiny differences are set to zero.
        return torch.nn.functional.hardshrink(moves, _ROUNDING * largest)

    def _squares(self, moves: Tensor) -> Tensor:
        """Return the squares of derivatives, summed over the directions.

        Where large derivatives cancel, rounding leaves a small one. It is told by the copies.
        """
        blocks = moves[1:].unflatten(0, (1 + self._copies, self.directions))
        moved = blocks[0]
        if self._copies:
            moved = moved.where(moved.abs() > spread(blocks), 0.0)
        squares = (moved / _LONG).square().sum(0)
        if not self._copies and self._scale.is_near(_LONG * least(squares) ** 0.5):
            raise RoundingError
        return self._by_sample(squares)

    def _by_sample(self, values: Tensor) -> Tensor:
        return values.reshape(self.samples, -1)


def _is_alike(argument: Any, z: Tensor) -> bool:
    """Tell whether an argument has an entry for each unit and row, such as the noise of rrelu."""
    return isinstance(argument, Tensor) and argument.shape == z.shape


def _piece(z: Tensor, kinks: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return two ends of the linear piece of each unit; one of them anywhere on a ray."""
    kinks = tuple(filter(math.isfinite, kinks)) or (0.0,)
    # The slope of a ray is a difference over a step. A step of the kink's size keeps its digits.
    before, after = max(1.0, abs(kinks[0])), max(1.0, abs(kinks[-1]))
    ends = z.new_tensor([kinks[0] - before, *kinks, kinks[-1] + after])
    piece = torch.stack([z > kink for kink in kinks]).sum(0)
    return ends[piece], ends[piece + 1]
