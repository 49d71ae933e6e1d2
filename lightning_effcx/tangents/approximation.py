r"""The tangents that approximate each unit of a site, found one after the other.

Where a curve is concave, all its tangents $T_p$ lie above it, so the minimum of them is the best
approximation that they give. Where it is convex, they lie below it, and the maximum is the best
one. The *gain* of one more tangent at $p$ is the decrease of a unit's mean error: the mean of
$(e(z) - |T_p(z) - \phi(z)|)_+$ over the samples in the interval, with the errors $e(z)$ so far.

In sorted order, the samples at which a tangent is better than the tangents so far are neighbours.
So cumulative sums give the gains of all candidates, without a pass over the samples for each one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_effcx.tangents.curves import ActivationCurve
from lightning_effcx.tangents.piecewise_linear import Tangents

_BLOCK = 2**20  # at most so many numbers in one tensor of a step


class Approximation:
    """The tangents of the units at one site, added one by one to each unit.

    Convex intervals are treated as concave ones, with the sign of the curve and of its tangents
    changed. So the best tangent at a sample is always the smallest one.

    Attributes:
        curve: The activation that is approximated.
        z: The sorted samples of each unit, `(u, n)`.
        weight: The weight of the error at each sample, `(u, n)` or `(u, 1)`.
        first: The tangents that each unit starts with.
        error: The weighted sum of the errors with the first tangents, `(u,)`.
        gain: By how much the next tangent of each unit decreases its error, `(u,)`.
    """

    def __init__(self, curve: ActivationCurve, z: Tensor, weight: Tensor, candidates: int) -> None:
        """Start with the tangents at the turns among a unit's samples, or with the best tangent.

        Args:
            curve: The activation to approximate.
            z: The samples of each unit, `(u, n)`.
            weight: The weight of the error at each sample, `(u, n)` or `(u, 1)`.
            candidates: At how many of its samples a unit may have tangents. Quantiles are taken if
                there are more samples.
        """
        units, samples = z.shape
        self.curve = curve
        self.z, order = z.contiguous().sort(1)
        self.weight = weight.expand_as(z).gather(1, order) if weight.shape[1] > 1 else weight
        self._candidates = (
            torch.linspace(0, samples - 1, min(candidates, samples)).round().long().to(z.device)
        )
        # Interval i holds the samples from edge i to before edge i + 1.
        edges = torch.searchsorted(self.z, curve.turns.expand(units, -1).contiguous(), right=True)
        self._edges = torch.nn.functional.pad(edges, (1, 0))
        self._edges = torch.nn.functional.pad(self._edges, (0, 1), value=samples)
        self._least = torch.empty_like(self.z)  # the smallest tangent at each sample
        self.error = z.new_empty(units)
        self.gain = z.new_empty(units)
        # The next tangent: its point, value and slope, and from which sample to before which one
        # it is better than the tangents so far.
        self._next = z.new_empty(5, units)
        everyone = torch.arange(units, device=z.device)
        firsts = [self._begin(rows) for rows in self._blocks(everyone)]
        self.first = Tangents(*(torch.cat(column) for column in zip(*firsts, strict=True)))
        self._prepare(everyone)

    def advance(self, units: Tensor) -> tuple[Tangents, Tensor]:
        """Add the next tangent of each of these units; return the tangents and their gains."""
        point, value, slope, left, right = self._next[:, units]
        added, gain = Tangents(units, point, value, slope), self.gain[units]
        place = torch.arange(self.z.shape[1], device=self.z.device)
        for part in self._blocks(torch.arange(len(units), device=self.z.device)):
            rows = units[part]
            z, p = self.z[rows], point[part, None]
            line = self._sign(p) * (value[part, None] + slope[part, None] * (z - p))
            is_better = (place >= left[part, None]) & (place < right[part, None])
            self._least[rows] = torch.where(is_better, line, self._least[rows])
        self._prepare(units)
        return added, gain

    def _blocks(self, units: Tensor) -> Sequence[Tensor]:
        """Split units into blocks that bound the memory of a step."""
        return units.split(max(1, _BLOCK // self.z.shape[1]))

    def _sign(self, points: Tensor) -> Tensor:
        """Return the sign of the interval that each point lies in."""
        return self.curve.signs[torch.bucketize(points, self.curve.turns)]

    def _begin(self, rows: Tensor) -> Tangents:
        """Return the first tangents of some units, and store the errors that they leave."""
        z, turns = self.z[rows], self.curve.turns
        phi, _ = self.curve.tangents(z)
        has = (turns > z[:, :1]) & (turns < z[:, -1:])  # which turns a unit's samples span, (u, t)
        # An S-shaped unit always starts with its inflection, as in the paper.
        has = has | self.curve.has_one_inflection
        alone = ~has.any(1)
        sign = self._sign(z)
        least = self._least_at_turns(z, has)
        best = self._best(z[alone], phi[alone])
        line = best.value[:, None] + best.slope[:, None] * (z[alone] - best.point[:, None])
        least[alone] = sign[alone] * line
        self._least[rows] = least
        self.error[rows] = ((least - sign * phi).clamp(min=0) * self._weight(rows)).sum(1)
        pairs = zip(self._at_turns(rows, has), best._replace(unit=rows[alone]), strict=True)
        return Tangents(*map(torch.cat, pairs))

    def _least_at_turns(self, z: Tensor, has: Tensor) -> Tensor:
        """Return the smallest of the tangents at the two ends of each sample's interval."""
        turns, (heights, _) = self.curve.turns, self.curve.tangents(self.curve.turns)
        interval = torch.bucketize(z, turns)
        least = torch.full_like(z, torch.inf)
        for turn in range(len(turns)):
            for side in (0, 1):  # the interval before the turn, and the one after it
                line = heights[turn] + self.curve.sides[turn, side] * (z - turns[turn])
                line = self.curve.signs[turn + side] * line
                applies = (interval == turn + side) & has[:, turn, None]
                least = torch.where(applies, torch.minimum(least, line), least)
        return least

    def _at_turns(self, rows: Tensor, has: Tensor) -> Tangents:
        """Return one tangent at each inflection that a unit has, and two at each jump."""
        heights, _ = self.curve.tangents(self.curve.turns)
        left, right = has, has & self.curve.jumps
        unit, turn, side = torch.stack([left, right], 2).nonzero(as_tuple=True)
        return Tangents(
            rows[unit], self.curve.turns[turn], heights[turn], self.curve.sides[turn, side]
        )

    def _best(self, z: Tensor, phi: Tensor) -> Tangents:
        """Return the one tangent of least mean error, for units whose samples span no turn.

        Each tangent is on one side of the curve, so its mean error is the difference of the means.
        """
        points = z[:, self._candidates]
        value, slope = self.curve.tangents(points)
        error = value + slope * (z.mean(1, keepdim=True) - points) - phi.mean(1, keepdim=True)
        best = error.abs().argmin(1, keepdim=True)
        unit = torch.arange(len(z), device=z.device)
        return Tangents(unit, *(a.gather(1, best).squeeze(1) for a in (points, value, slope)))

    def _weight(self, rows: Tensor) -> Tensor:
        """Return the weights of some units at all samples."""
        return self.weight[rows].expand(-1, self.z.shape[1])

    def _prepare(self, units: Tensor) -> None:
        """Find the next tangent of some units."""
        for rows in self._blocks(units):
            z, least, weight = self.z[rows], self._least[rows], self._weight(rows)
            points = z[:, self._candidates]
            value, slope = self.curve.tangents(points)
            sign = self._sign(points)
            left, right = self._better_samples(rows, points, value, slope, sign)

            def between(values: Tensor, left: Tensor = left, right: Tensor = right) -> Tensor:
                """Sum values over the samples at which a candidate is better."""
                sums = torch.nn.functional.pad(values.cumsum(1), (1, 0))
                return sums.gather(1, right) - sums.gather(1, left)

            line = (value - slope * points) * between(weight) + slope * between(weight * z)
            gain = between(weight * least) - sign * line
            gain = torch.where(right > left, gain.clamp(min=0), 0.0)
            self.gain[rows], best = gain.max(1)
            columns = (points, value, slope, left.to(z), right.to(z))
            for column, found in enumerate(columns):
                self._next[column, rows] = found.gather(1, best[:, None]).squeeze(1)

    def _better_samples(
        self, rows: Tensor, points: Tensor, value: Tensor, slope: Tensor, sign: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the first sample at which each candidate is better, and the one after the last.

        A candidate that is better anywhere is better at its own sample. Two binary searches go
        from there to the left and to the right, within the interval.
        """
        z, least = self.z[rows], self._least[rows]

        def is_better(i: Tensor) -> Tensor:
            line = value + slope * (z.gather(1, i) - points)
            return least.gather(1, i) > sign * line

        own = self._candidates.expand_as(points)
        interval = torch.bucketize(points, self.curve.turns)
        edges = self._edges[rows]
        low, first = edges.gather(1, interval), own
        for _ in range(z.shape[1].bit_length()):
            middle = (low + first) // 2
            better = is_better(middle)
            first = torch.where(better, middle, first)
            low = torch.where(better, low, torch.minimum(middle + 1, first))
        high, last = edges.gather(1, interval + 1) - 1, own
        for _ in range(z.shape[1].bit_length()):
            middle = (last + high + 1) // 2
            better = is_better(middle)
            last = torch.where(better, middle, last)
            high = torch.where(better, high, torch.maximum(middle - 1, last))
        nowhere = ~is_better(own)
        return first, torch.where(nowhere, first, last + 1)
