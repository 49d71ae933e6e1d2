"""Rounding: tell a unit that stays on its kink from a unit that crosses it.

Where large terms cancel, a unit may stay on its kink along a whole stretch, such as a pixel minus
the mean of a flat image. Rounding then puts it above the kink at some rows and below it at others.
How near to the kink that is depends on the size of what was added, not on the unit itself: a unit
that is small because its weights are small crosses its kink as surely as any other.

So a pass that meets a crossing near to rounding gives up, and another pass judges it. The rows of
that pass have copies, in which every result is changed at random by a little of its own size. How
far the copies of a unit are apart tells how far rounding may have moved it, through all operations
before, whatever they are. A unit that is nearer to its kink than that is on the kink.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lightning_effcx.piecewise.failures import StoppedError
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.tolerances import tolerance

T = TypeVar("T")

COPIES = 3  # so many that hardly ever all of them are changed too little
# Shares of the digits of a number.
_KEPT = 0.85  # by a change of a result: the rest, a few roundings, is lost in sums of many terms
_SURE = 0.77  # what is so far from its kink is not judged
_SEEN = 16  # rows of each tensor, which tell its size


class RoundingError(StoppedError):
    """A unit comes so near to a kink that the pass has to be made with copies of its rows."""


def with_care_if_needed(run: Callable[[bool], T]) -> T:
    """Make a pass; if a unit comes too near to a kink, make it again with copies of its rows.

    Args:
        run: Makes the pass, given whether it is careful, and returns its result.
    """
    try:
        return run(False)
    except RoundingError:
        return run(True)


class Scale:
    """The size of the largest numbers that a pass has computed so far.

    It is looked up at a few rows only. The order of magnitude is enough.
    """

    def __init__(self, x: Tensor) -> None:
        self._eps = torch.finfo(x.dtype).eps
        self._near = tolerance(_SURE, x.dtype)
        self.size = _size(x)

    def see(self, tensor: Tensor) -> None:
        """Take note of a result."""
        size = _size(tensor)
        # No number can be added to one so large without being lost, so this one fills a mask.
        if size * self._eps < max(1.0, self.size):
            self.size = max(self.size, size)

    def is_near(self, distance: float) -> bool:
        """Tell whether a unit may be as far from its kink by rounding alone."""
        return distance < self._near * self.size


class Noise:
    """Random changes, other ones for each result: equal ones would cancel where results do."""

    def __init__(self) -> None:
        self._seed = 0

    def change(self, copies: Tensor) -> None:
        """Change each number of some copies by a little of its own size."""
        self._seed += 1
        generator = torch.Generator(copies.device).manual_seed(self._seed)
        dtype = copies.real.dtype
        noise = torch.randn(copies.shape, generator=generator, dtype=dtype, device=copies.device)
        copies.mul_(1 + tolerance(_KEPT, dtype) * noise)


class Copies:
    """The copies of the rows of a pass, which lie behind the rows, one copy after the other.

    Args:
        is_careful: Whether there are any.
    """

    def __init__(self, *, is_careful: bool) -> None:
        self.blocks = 1 + COPIES * is_careful
        self._noise = Noise()

    def repeat(self, rows: Rows, x: Tensor) -> tuple[Rows, Tensor]:
        """Return rows and the inputs there, with their copies."""
        if self.blocks == 1:
            return rows, x
        paths = 1 + int(rows.path.max())  # the paths of a copy are other paths
        path = torch.cat([rows.path + paths * block for block in range(self.blocks)])
        repeated = torch.cat([x] * self.blocks)
        self.change(repeated)
        return Rows(path, rows.position.repeat(self.blocks)), repeated

    def without(self, values: Tensor) -> Tensor:
        """Return the part of values that does not belong to copies."""
        return values[: len(values) // self.blocks]

    def rows_without(self, rows: Rows) -> Rows:
        """Return the rows that are no copies."""
        return rows if self.blocks == 1 else Rows(*map(self.without, (rows.path, rows.position)))

    def with_copies(self, index: Tensor, rows: Rows) -> Tensor:
        """Return the indices of some rows and then of their copies."""
        count = len(rows.path) // self.blocks
        return torch.cat([index + count * block for block in range(self.blocks)])

    def are_first(self, index: Tensor, rows: Rows) -> Tensor:
        """Tell which rows are no copies."""
        return index < len(rows.path) // self.blocks

    def change(self, values: Tensor) -> None:
        """Change the copies of a result at random, each number by a little of its own size."""
        if self.blocks > 1:
            self._noise.change(values.unflatten(0, (self.blocks, -1))[1:])

    def spread(self, z: Tensor) -> Tensor | None:
        """Return how far the copies of each unit are from it, `(r, u)`; `None` without copies."""
        if self.blocks == 1:
            return None
        return spread(z.unflatten(0, (self.blocks, -1)))


def _size(tensor: Tensor) -> float:
    some = tensor[:: 1 + len(tensor) // _SEEN]
    return float(torch.linalg.vector_norm(some, math.inf)) if some.numel() else 0.0


def spread(blocks: Tensor) -> Tensor:
    """Return how far the copies of each number are from it, given the number and its copies."""
    first, *copies = blocks
    apart = torch.stack([(copy - first).abs() for copy in copies]).amax(0)
    return apart.nan_to_num(0.0, posinf=0.0)  # of infinite constants


def least(distances: Tensor) -> float:
    """Return the least distance that is not zero."""
    sizes = distances.abs()
    return float(sizes.where(sizes > 0, math.inf).amin()) if sizes.numel() else math.inf
