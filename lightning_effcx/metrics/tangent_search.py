"""The search for the number of tangents with which a network is approximated well enough."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor

from lightning_effcx.network import Network
from lightning_effcx.tangents import (
    GreedyOrder,
    Layer,
    SubstitutedNetwork,
    Tangents,
    difference,
    error_amplification,
)

_GROWTH = 1.1  # factor of the number of tangents between two measurements of the error


@dataclass(frozen=True, eq=False)
class TangentSearch:
    """Approximations of a network by more and more tangents.

    Attributes:
        network: The network.
        x: The samples.
        curves: The layers whose units are curves.
        greedy: The order in which tangents are added.
        chunk: The most rows that the network evaluates at once.
    """

    network: Network
    x: Tensor
    curves: list[Layer]
    greedy: GreedyOrder
    chunk: int

    def count(self, tolerance: float, *, measure_error: bool) -> int | None:
        """Return the least number of tangents with an error within the tolerance, if there is one.

        Args:
            tolerance: The largest error that is allowed.
            measure_error: Whether the true error is compared, at the samples, or its bound.
        """
        if not measure_error:
            return self.greedy.count(tolerance)
        growing = self._growing()
        return next((m for m in growing if self.measured_error(m) <= tolerance), None)

    def _growing(self) -> Iterator[int]:
        """Return the numbers of tangents after which to measure the error, for every tolerance."""
        count = 0
        while self.greedy.reach(count):
            yield count
            count = max(count + 1, int(count * _GROWTH))
        yield len(self.greedy.gains)

    def tangents(self, count: int) -> dict[str, Tangents]:
        """Return the first tangents of each curve, by site."""
        chosen = self.greedy.choose(count)
        return {layer.name: t for layer, t in zip(self.curves, chosen, strict=True)}

    def substituted(self, count: int) -> SubstitutedNetwork:
        """Return the network with the first tangents in place of its curves."""
        chosen = self.greedy.choose(count)
        lines = {layer.name: layer.lines(t) for layer, t in zip(self.curves, chosen, strict=True)}
        return SubstitutedNetwork(self.network, lines)

    def measured_error(self, count: int) -> float:
        """Return the mean absolute difference of the outputs at the samples."""
        return difference(self.network, self.substituted(count), self.x, self.chunk)


def find_weights(network: Network, x: Tensor, chunk: int, *, needed: bool) -> dict[str, Tensor]:
    """Return the amplification of each unit's error, by site.

    Where it is not known, raise if it is needed, and else return nothing.
    """
    try:
        return error_amplification(network, x, chunk=chunk)
    except ValueError:
        if needed:
            raise
        return {}


def without_curves(layers: Collection[Layer]) -> ValueError:
    """Return the error for a network without curves, which says what to use instead."""
    if layers:
        return ValueError(
            "every unit of this network is piecewise linear already, so there is nothing to "
            "approximate: use LinearRegions."
        )
    return ValueError(
        "this network has no nonlinear units, so there is nothing to approximate: use JacobianNorm."
    )
