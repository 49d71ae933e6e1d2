"""The order in which tangents are added to the units of all sites.

The greedy choice adds, each time, the tangent with the largest gain among all units. The gains of
one unit decrease as tangents are added to it, and they do not depend on other units. So the greedy
choice is the merger of the units' own sequences by decreasing gain. A heap would merge them one by
one. Here many units advance at once, and a tangent counts once no unit can offer a larger gain.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_effcx.tangents.approximation import Approximation
from lightning_effcx.tangents.piecewise_linear import Tangents, sort_tangents

_FRACTION = 8  # a step advances one unit of eight, those with the largest gains,
_TOGETHER = 32  # but at least this many, which cost as little as one


class GreedyOrder:
    """The tangents of all sites by decreasing gain, found as far as they are asked for.

    Args:
        approximations: The approximation of each site.

    Attributes:
        error: The weighted sum of the errors before any tangent is added to the first ones.
        gains: The gains of the tangents whose place in the order is certain.
    """

    def __init__(self, approximations: Sequence[Approximation]) -> None:
        self.approximations = approximations
        self.error = float(sum(a.error.sum() for a in approximations))
        # All tangents found so far, as they were found: gain, site, and the tangents themselves.
        none, nothing = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.float64)
        self._gain, self._site = nothing, none
        self._tangents = Tangents(none, nothing, nothing, nothing)
        self._order, self.gains = none, nothing

    def reach(self, count: int) -> bool:
        """Find the first `count` tangents; return False if there are fewer."""
        while len(self.gains) < count and self._extend():
            pass
        return len(self.gains) >= count

    def count(self, tolerance: float) -> int | None:
        """Return how many tangents bring the error down to `tolerance`, or `None` if none do."""
        if self.error <= tolerance:
            return 0
        while True:
            errors = self.error - self.gains.cumsum(0)
            enough = (errors <= tolerance).nonzero()
            if len(enough):
                return int(enough[0]) + 1
            if not self._extend():
                return None

    def error_after(self, count: int) -> float:
        """Return the weighted sum of the errors after the first `count` tangents are added."""
        return max(self.error - float(self.gains[:count].sum()), 0.0)

    def choose(self, count: int) -> list[Tangents]:
        """Return the tangents of each site, sorted, after the first `count` are added."""
        first = self._order[:count]
        sites = []
        for index, approximation in enumerate(self.approximations):
            mine = first[self._site[first] == index]
            pairs = zip(approximation.first, self._tangents, strict=True)
            sites.append(
                sort_tangents(Tangents(*(torch.cat([a, b[mine].to(a)]) for a, b in pairs)))
            )
        return sites

    def _extend(self) -> bool:
        """Add the next tangents of the units with the largest gains; return whether any is left."""
        gains = torch.cat([a.gain for a in self.approximations])
        top = gains.topk(min(len(gains), max(_TOGETHER, len(gains) // _FRACTION)))
        units = top.indices[top.values > 0]
        if not len(units):
            return False
        start = 0
        steps = []
        for index, approximation in enumerate(self.approximations):
            end = start + len(approximation.gain)
            mine = units[(units >= start) & (units < end)] - start
            if len(mine):
                steps.append((index, *approximation.advance(mine)))
            start = end
        self._keep(steps)
        self._sort()
        return True

    def _keep(self, steps: Sequence[tuple[int, Tangents, Tensor]]) -> None:
        """Store new tangents and their gains, on the CPU; each step is of one site."""
        sites, tangents, gains = zip(*steps, strict=True)
        columns = zip(self._tangents, *tangents, strict=True)
        self._tangents = Tangents(*(torch.cat([t.cpu() for t in column]) for column in columns))
        self._gain = torch.cat([self._gain, *(gain.cpu().double() for gain in gains)])
        new = [torch.full((len(gain),), site) for site, gain in zip(sites, gains, strict=True)]
        self._site = torch.cat([self._site, *new])

    def _sort(self) -> None:
        """Sort the tangents found, as far as no tangent still to be found can come before them."""
        order = self._gain.argsort(descending=True, stable=True)
        largest_left = max(float(a.gain.max()) for a in self.approximations)
        self._order = order[self._gain[order] >= largest_left]
        self.gains = self._gain[self._order]
