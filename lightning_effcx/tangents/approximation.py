r"""Tangents: by which ones to approximate each unit of a site, one after the other.

On a stretch where a curve is concave all its tangents $T_p$ are above it, and the least of them is
the best approximation that they can make; where it is convex, the greatest. A further tangent at
$p$ lowers the mean error of a unit by its *gain*, the mean of $(e(z) - |T_p(z) - \phi(z)|)_+$ over
the samples in the stretch. Between its samples in order, those for which a tangent is better than
what is there are neighbours, so sums from the left give every gain without a pass over samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_effcx.tangents.curves import ActivationCurve
from lightning_effcx.tangents.piecewise_linear import Tangents

_BLOCK = 2**20  # numbers in one tensor of a step


class Approximation:
    """Tangents of the units at one site, from the first on.

    The curve is looked at as if it were concave everywhere: times the sign of the stretch.

    Attributes:
        curve: What is approximated.
        z: Each unit's samples in order, `(u, n)`.
        weight: How much an error there counts, `(u, n)`.
        first: The tangents to start from.
        error: The weighted sum of the errors with those, `(u,)`.
        gain: By how much the next tangent of each unit would lower it, `(u,)`.
    """

    def __init__(self, curve: ActivationCurve, z: Tensor, weight: Tensor, candidates: int) -> None:
        """Start with the inflections and jumps among the samples, or with the best one tangent.

        Args:
            curve: What is approximated.
            z: Each unit's samples, `(u, n)`.
            weight: How much an error at each counts, `(u, n)` or `(u, 1)`.
            candidates: How many of the samples may have tangents, by quantiles where not all.
        """
        units, samples = z.shape
        self.curve = curve
        self.z, order = z.contiguous().sort(1)
        self.weight = weight.expand_as(z).gather(1, order) if weight.shape[1] > 1 else weight
        self._candidates = (
            torch.linspace(0, samples - 1, min(candidates, samples)).round().long().to(z.device)
        )
        # How many samples are up to each turn, between none and all.
        edges = torch.searchsorted(self.z, curve.turns.expand(units, -1).contiguous(), right=True)
        self._edges = torch.nn.functional.pad(edges, (1, 0))
        self._edges = torch.nn.functional.pad(self._edges, (0, 1), value=samples)
        self._least = torch.empty_like(self.z)
        self.error = z.new_empty(units)
        self.gain = z.new_empty(units)
        self._next = z.new_empty(5, units)  # point, value, slope, and which samples it is for
        firsts = [self._begin(rows) for rows in self._blocks(torch.arange(units, device=z.device))]
        self.first = Tangents(*(torch.cat(column) for column in zip(*firsts, strict=True)))
        self._prepare(torch.arange(units, device=z.device))

    def advance(self, units: Tensor) -> tuple[Tangents, Tensor]:
        """Add the next tangent of some units; return these, and their gains."""
        point, value, slope, left, right = self._next[:, units]
        added, gain = Tangents(units, point, value, slope), self.gain[units]
        place = torch.arange(self.z.shape[1], device=self.z.device)
        for part in self._blocks(torch.arange(len(units), device=self.z.device)):
            rows = units[part]
            z, p = self.z[rows], point[part, None]
            line = self._sign(p) * (value[part, None] + slope[part, None] * (z - p))
            here = (place >= left[part, None]) & (place < right[part, None])
            self._least[rows] = torch.where(here, line, self._least[rows])
        self._prepare(units)
        return added, gain

    def _blocks(self, units: Tensor) -> Sequence[Tensor]:
        return units.split(max(1, _BLOCK // self.z.shape[1]))

    def _sign(self, points: Tensor) -> Tensor:
        return self.curve.signs[torch.bucketize(points, self.curve.turns)]

    def _begin(self, rows: Tensor) -> Tangents:
        """Find the first tangents of some units, and what they leave of the error."""
        z, turns = self.z[rows], self.curve.turns
        phi, _ = self.curve.tangents(z)
        has = (turns > z[:, :1]) & (turns < z[:, -1:])  # (u, t)
        has = has | self.curve.has_one_inflection
        alone = ~has.any(1)
        sign = self._sign(z)
        least = self._through_turns(z, has)
        best = self._best(z[alone], phi[alone])
        line = best.value[:, None] + best.slope[:, None] * (z[alone] - best.point[:, None])
        least[alone] = sign[alone] * line
        self._least[rows] = least
        self.error[rows] = ((least - sign * phi).clamp(min=0) * self._share(rows)).sum(1)
        pairs = zip(self._at_turns(rows, has), best._replace(unit=rows[alone]), strict=True)
        return Tangents(*map(torch.cat, pairs))

    def _through_turns(self, z: Tensor, has: Tensor) -> Tensor:
        """Return the least at each sample of the tangents at turns, by the sign of its stretch."""
        turns, (heights, _) = self.curve.turns, self.curve.tangents(self.curve.turns)
        stretch = torch.bucketize(z, turns)
        least = torch.full_like(z, torch.inf)
        for turn in range(len(turns)):
            for side in (0, 1):  # the stretch before the turn, and the one after
                line = heights[turn] + self.curve.sides[turn, side] * (z - turns[turn])
                line = self.curve.signs[turn + side] * line
                there = (stretch == turn + side) & has[:, turn, None]
                least = torch.where(there, torch.minimum(least, line), least)
        return least

    def _at_turns(self, rows: Tensor, has: Tensor) -> Tangents:
        """Return one tangent at each inflection that a unit has, and both at each jump."""
        heights, _ = self.curve.tangents(self.curve.turns)
        left, right = has, has & self.curve.jumps
        unit, turn, side = torch.stack([left, right], 2).nonzero(as_tuple=True)
        return Tangents(
            rows[unit], self.curve.turns[turn], heights[turn], self.curve.sides[turn, side]
        )

    def _best(self, z: Tensor, phi: Tensor) -> Tangents:
        """Return the single tangent of least mean error, of units within one stretch.

        As it is on one side of the curve, its mean error is that of the means.
        """
        points = z[:, self._candidates]
        value, slope = self.curve.tangents(points)
        error = value + slope * (z.mean(1, keepdim=True) - points) - phi.mean(1, keepdim=True)
        best = error.abs().argmin(1, keepdim=True)
        unit = torch.arange(len(z), device=z.device)
        return Tangents(unit, *(a.gather(1, best).squeeze(1) for a in (points, value, slope)))

    def _share(self, rows: Tensor) -> Tensor:
        return self.weight[rows].expand(-1, self.z.shape[1])

    def _prepare(self, units: Tensor) -> None:
        """Find the next tangent of some units."""
        for rows in self._blocks(units):
            z, least, share = self.z[rows], self._least[rows], self._share(rows)
            points = z[:, self._candidates]
            value, slope = self.curve.tangents(points)
            sign = self._sign(points)
            left, right = self._reach(rows, points, value, slope, sign)

            def between(values: Tensor, left: Tensor = left, right: Tensor = right) -> Tensor:
                sums = torch.nn.functional.pad(values.cumsum(1), (1, 0))
                return sums.gather(1, right) - sums.gather(1, left)

            line = (value - slope * points) * between(share) + slope * between(share * z)
            gain = between(share * least) - sign * line
            gain = torch.where(right > left, gain.clamp(min=0), 0.0)
            self.gain[rows], best = gain.max(1)
            columns = (points, value, slope, left.to(z), right.to(z))
            for column, found in enumerate(columns):
                self._next[column, rows] = found.gather(1, best[:, None]).squeeze(1)

    def _reach(
        self, rows: Tensor, points: Tensor, value: Tensor, slope: Tensor, sign: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return from which sample to before which other a tangent is better than what is there."""
        z, least = self.z[rows], self._least[rows]

        def is_better(i: Tensor) -> Tensor:
            line = value + slope * (z.gather(1, i) - points)
            return least.gather(1, i) > sign * line

        own = self._candidates.expand_as(points)
        stretch = torch.bucketize(points, self.curve.turns)
        edges = self._edges[rows]
        left, certain = edges.gather(1, stretch), own
        for _ in range(z.shape[1].bit_length()):
            middle = (left + certain) // 2
            better = is_better(middle)
            certain = torch.where(better, middle, certain)
            left = torch.where(better, left, torch.minimum(middle + 1, certain))
        right, start = edges.gather(1, stretch + 1) - 1, own
        for _ in range(z.shape[1].bit_length()):
            middle = (start + right + 1) // 2
            better = is_better(middle)
            start = torch.where(better, middle, start)
            right = torch.where(better, right, torch.maximum(middle - 1, start))
        nowhere = ~is_better(own)
        return certain, torch.where(nowhere, certain, start + 1)
