"""Rows: points on polylines. Between neighbouring rows, everything computed so far is affine.

The rows of a batch are points on paths, in order. If a unit bends between two neighbouring rows, a
row is inserted at the bend. A tensor that was computed before has no value at the new row. But it
is affine between its own rows, so interpolation gives the exact value. Nothing is computed twice.
"""

import torch
from torch import Tensor

from lightning_effcx.network import to_precision
from lightning_effcx.piecewise.tolerances import nearness
from lightning_effcx.tracing import becoming_infinite


class Rows:
    """Points on paths, and the history of the insertions.

    Args:
        path: The index of each row's path, `(r,)`. The rows of a path follow each other, in order.
        position: The position of each row on its path, `(r,)`: the index of a vertex, plus the
            fraction of the way to the next vertex.
    """

    def __init__(self, path: Tensor, position: Tensor) -> None:
        self.path = path
        self.position = position
        self.counts = [len(path)]  # by version
        self._refinements: list[tuple[Tensor, Tensor]] = []
        self._moves: list[Tensor] = []  # where the rows of each version went

    @property
    def version(self) -> int:
        """How often rows were inserted. A tensor belongs to the version that computed it."""
        return len(self._refinements)

    def joined(self) -> Tensor:
        """Tell whether each row and the next one are on the same path, `(r - 1,)`."""
        return self.path[1:] == self.path[:-1]

    def places(self) -> Tensor:
        """Number the places of the rows, `(r,)`: rows at one place have the same number."""
        near = self.position.diff() <= nearness(self.position.dtype)
        return torch.cat([near.new_zeros(1), ~(near & self.joined())]).cumsum(0)

    def insert(self, left: Tensor, fraction: Tensor) -> Tensor:
        """Insert rows; return their indices.

        Args:
            left: The row before each new row.
            fraction: The fraction of the way from that row to the one after it.
        """
        old = torch.arange(len(self.path), device=left.device)
        order = _in_order(left, fraction)
        behind = left[order]  # each new row adds one to the index of every later row
        moved = old + torch.searchsorted(behind, old)
        new = torch.empty_like(left)
        new[order] = behind + 1 + torch.arange(len(left), device=left.device)
        every_left = torch.empty(len(old) + len(left), dtype=left.dtype, device=left.device)
        every_left[moved], every_left[new] = old, left
        every_fraction = torch.zeros(len(every_left), dtype=fraction.dtype, device=left.device)
        every_fraction[new] = fraction
        self._refinements.append((every_left, every_fraction))
        self._moves.append(moved)
        self.position = self._interpolate(self.position, every_left, every_fraction)
        self.path = self.path[every_left]
        self.counts.append(len(every_left))
        return new

    def origin(self) -> tuple[Tensor, Tensor]:
        """Return where each present row lies among the first rows.

        Returns:
            The index of the first row before it, and the fraction of the way to the next one.
        """
        if self.version:
            return self._composed(0, self.version)
        index = torch.arange(len(self.path), device=self.path.device)
        return index, torch.zeros_like(self.position)

    def moved(self, index: Tensor, version: int) -> Tensor:
        """Return the present indices of rows that had `index` at `version`."""
        for now in self._moves[version:]:
            index = now[index]
        return index

    def first(self, values: Tensor, version: int) -> Tensor:
        """Return the entries of `values`, `(r, ...)` at `version`, for the first rows."""
        if not version:
            return values
        start = torch.arange(self.counts[0], device=self.path.device)
        for now in self._moves[:version]:
            start = now[start]
        return values.unflatten(0, (self.counts[version], -1))[start].flatten(0, 1)

    def bring(self, values: Tensor, version: int, to: int | None = None) -> Tensor:
        """Interpolate `values`, `(r, ...)` at `version`, at the rows of a later version.

        Args:
            values: The values. Several entries may belong to each row, as after a reshape.
            version: The version at which they were computed.
            to: The later version, by default the present one.
        """
        to = self.version if to is None else to
        if version == to:
            return values
        by_row = values.unflatten(0, (self.counts[version], -1))
        return self._interpolate(by_row, *self._composed(version, to)).flatten(0, 1)

    def bring_sides(self, left: Tensor, right: Tensor, version: int) -> tuple[Tensor, Tensor]:
        """Bring what jumps at the rows of `version` to the present rows.

        Args:
            left: The values on the left of each row, where those of the interval before it end.
            right: The values on the right of each row, where those of the interval after it start.
            version: The version at which they were computed.
        """
        if version == self.version:
            return left, right
        before, fraction = self._composed(version, self.version)
        ends, starts = (side.unflatten(0, (self.counts[version], -1)) for side in (left, right))
        (new,) = fraction.nonzero(as_tuple=True)
        inner = starts[before[new]]
        if inner.is_floating_point():  # else it is constant between rows
            weight = fraction[new].to(inner.dtype).reshape(-1, *[1] * (inner.dim() - 1))
            inner = inner.lerp(ends[before[new] + 1], weight)
        left, right = ends[before], starts[before]
        left[new] = right[new] = inner
        return left.flatten(0, 1), right.flatten(0, 1)

    def _composed(self, version: int, to: int) -> tuple[Tensor, Tensor]:
        """Return the insertions from `version` to `to` as if they were one."""
        left, fraction = self._refinements[version]
        for later_left, later_fraction in self._refinements[version + 1 : to]:
            right = (later_left + 1).clamp(max=len(left) - 1)
            # Neighbouring rows lie in one interval of the first version, ends included.
            end = fraction[right] + (left[right] - left[later_left])
            start = fraction[later_left]
            fraction = torch.where(later_fraction == 0, start, start.lerp(end, later_fraction))
            left = left[later_left]
        return left, fraction

    @staticmethod
    def _interpolate(values: Tensor, left: Tensor, fraction: Tensor) -> Tensor:
        # `index_select` copies row by row, several times faster than indexing with `[]`.
        moved = values.index_select(0, left)
        (new,) = fraction.nonzero(as_tuple=True)  # old rows keep their values bit by bit
        weight = fraction[new].to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
        before = left[new]
        end = values.index_select(0, before + 1)
        between = values.index_select(0, before).lerp_(end, weight)
        if not between.sum().isfinite():  # one number is cheaper to look at than all of them
            between = _interpolate_infinite(values.index_select(0, before), end, weight)
        return moved.index_copy_(0, new, between)


def _in_order(left: Tensor, fraction: Tensor) -> Tensor:
    """Return the order of new rows: by the row before them, then by the fraction."""
    # Rows before are mostly in order already, and a sort of numbers in order is fast.
    key = to_precision(left, torch.float64) + to_precision(fraction, torch.float64)
    order = key.argsort(stable=True)
    if not (key[order].diff() == 0).any():
        return order.to(left.device)
    # The sum has fewer digits than the fraction, so different fractions may have equal sums.
    order = fraction.argsort(stable=True)
    return order[left[order].argsort(stable=True)]


def _interpolate_infinite(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """Interpolate between values that may be infinite or huge.

    Networks fill masked places with minus infinity or with the smallest number, so that they never
    win a maximum. Between equal infinities lies the same infinity. But `lerp` takes the difference,
    which is NaN.
    """
    is_equal = start == end
    if bool((~is_equal & (start.isinf() | end.isinf())).any()):
        raise becoming_infinite()
    return torch.where(is_equal, start, start * (1 - weight) + end * weight)
