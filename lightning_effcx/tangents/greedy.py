"""Greedy: in which order tangents are added to the units of all sites.

Gains of a unit only fall as tangents are added, and those of different units do not depend on each
other. So the greedy choice over all units, the best pair of unit and tangent each time, is the
merger of what each unit would choose for itself, by falling gain: what a heap would pop. Units are
taken ahead of it in blocks, and what is not certain to come first waits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_effcx.tangents.approximation import Approximation
from lightning_effcx.tangents.piecewise_linear import Tangents, sort_tangents

_AHEAD = 8  # the share of units, as its inverse, that a step goes on with,
_TOGETHER = 32  # and how many it costs no more to go on with


class Greedy:
    """The order in which tangents are added over all sites: by falling gain, exactly.

    Args:
        approximations: Those of each site.
    """

    def __init__(self, approximations: Sequence[Approximation]) -> None:
        self.approximations = approximations
        self.error = float(sum(a.error.sum() for a in approximations))
        self._found: list[tuple[Tensor, Tensor, Tangents]] = []  # gain, site, tangents
        self._order = torch.zeros(0, dtype=torch.long)
        self.gains = torch.zeros(0, dtype=torch.float64)
        self._settle()

    def reach(self, count: int) -> bool:
        """Go on until the first `count` tangents are known; tell whether there are so many."""
        while len(self.gains) < count and self._extend():
            pass
        return len(self.gains) >= count

    def count(self, tolerance: float) -> int | None:
        """Return how many tangents bring the error to `tolerance`; `None` if no number does."""
        while True:
            errors = self.error - self.gains.cumsum(0)
            enough = (errors <= tolerance).nonzero()
            if self.error <= tolerance:
                return 0
            if len(enough):
                return int(enough[0]) + 1
            if not self._extend():
                return None

    def error_after(self, count: int) -> float:
        """Return the weighted sum of the errors after the first `count` were added."""
        return max(self.error - float(self.gains[:count].sum()), 0.0)

    def chosen(self, count: int) -> list[Tangents]:
        """Return the tangents of each site, in order, after the first `count` were added."""
        gain, site, added = self._all()
        del gain
        first = self._order[:count]
        found = []
        for index, approximation in enumerate(self.approximations):
            mine = first[site[first] == index]
            pairs = zip(approximation.first, added, strict=True)
            found.append(
                sort_tangents(Tangents(*(torch.cat([a, b[mine].to(a)]) for a, b in pairs)))
            )
        return found

    def _all(self) -> tuple[Tensor, Tensor, Tangents]:
        if not self._found:
            nothing = torch.zeros(0, dtype=torch.long)
            none = torch.zeros(0, dtype=torch.float64)
            return none, nothing, Tangents(nothing, none, none, none)
        gains, sites, tangents = zip(*self._found, strict=True)
        columns = (torch.cat(column) for column in zip(*tangents, strict=True))
        self._found = [(torch.cat(gains), torch.cat(sites), Tangents(*columns))]
        return self._found[0]

    def _extend(self) -> bool:
        """Add the next tangents of those units whose gains are greatest."""
        gains = torch.cat([a.gain for a in self.approximations])
        top = gains.topk(min(len(gains), max(_TOGETHER, len(gains) // _AHEAD)))
        units = top.indices[top.values > 0]
        if not len(units):
            return False
        start = 0
        for index, approximation in enumerate(self.approximations):
            end = start + len(approximation.gain)
            mine = units[(units >= start) & (units < end)] - start
            if len(mine):
                added, gain = approximation.advance(mine)
                cpu = Tangents(*(column.cpu() for column in added))
                self._found.append((gain.cpu().double(), torch.full((len(mine),), index), cpu))
            start = end
        self._settle()
        return True

    def _settle(self) -> None:
        """Sort what is found, as far as nothing that is not found yet can come before."""
        gain, _, _ = self._all()
        self._order = gain.argsort(descending=True, stable=True)
        bound = max(float(a.gain.max()) for a in self.approximations)
        certain = gain[self._order] >= bound
        self._order = self._order[certain]
        self.gains = gain[self._order]
