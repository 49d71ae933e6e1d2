"""Rows: points on polylines between which everything computed so far is affine.

The rows of a batch are points on paths, in order. Where some unit bends between two neighbouring
rows, a row is inserted there. A tensor that was computed before can be brought to the new rows by
interpolating its own, exactly, since it is affine between them: nothing is computed twice.
"""

import torch
from torch import Tensor


class Rows:
    """Points on paths and the history of their refinement.

    Args:
        path: Which path each row is on, `(r,)`; rows of a path are neighbours, in order.
        position: Where on it, `(r,)`: the index of a vertex plus the fraction of the way to the
            next.
    """

    def __init__(self, path: Tensor, position: Tensor) -> None:
        self.path = path
        self.position = position
        self.counts = [len(path)]  # by version
        self._refinements: list[tuple[Tensor, Tensor]] = []
        self._moves: list[Tensor] = []  # where the rows of each version went

    @property
    def version(self) -> int:
        """How often rows were inserted: a tensor belongs to the version it was computed at."""
        return len(self._refinements)

    def joined(self) -> Tensor:
        """Whether each row and the next are on one path, `(r - 1,)`."""
        return self.path[1:] == self.path[:-1]

    def insert(self, left: Tensor, fraction: Tensor) -> Tensor:
        """Insert rows `fraction` of the way after the rows `left`; return their new indices."""
        old = torch.arange(len(self.path), device=left.device)
        order = fraction.argsort(stable=True)
        order = order[left[order].argsort(stable=True)]
        behind = left[order]  # each new row moves all that come after it on by one
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
        """Return after which row of the start each row of now is, and how far on, as a fraction."""
        if self.version:
            return self._composed(0, self.version)
        index = torch.arange(len(self.path), device=self.path.device)
        return index, torch.zeros_like(self.position)

    def moved(self, index: Tensor, version: int) -> Tensor:
        """Return the indices of now of rows that had `index` at `version`."""
        for now in self._moves[version:]:
            index = now[index]
        return index

    def first(self, values: Tensor, version: int) -> Tensor:
        """Return `values`, `(r, ...)` at `version`, at the rows that were there from the start."""
        if not version:
            return values
        start = torch.arange(self.counts[0], device=self.path.device)
        for now in self._moves[:version]:
            start = now[start]
        return values.unflatten(0, (self.counts[version], -1))[start].flatten(0, 1)

    def bring(self, values: Tensor, version: int, to: int | None = None) -> Tensor:
        """Bring `values`, `(r, ...)` at `version`, to the rows of a later version, or of now."""
        to = self.version if to is None else to
        if version == to:
            return values
        by_row = values.unflatten(0, (self.counts[version], -1))  # samples may be cut in parts
        return self._interpolate(by_row, *self._composed(version, to)).flatten(0, 1)

    def _composed(self, version: int, to: int) -> tuple[Tensor, Tensor]:
        """Return the refinements from `version` to `to` as one."""
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
        moved = values[left]
        (new,) = fraction.nonzero(as_tuple=True)  # the others stay exactly what they were
        weight = fraction[new].to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
        moved[new] = moved[new].lerp_(values[left[new] + 1], weight)
        return moved
