"""Layers: the units of each site of a network, ready to be approximated by tangents."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_effcx.network import Network, to_precision
from lightning_effcx.tangents.approximation import Approximation
from lightning_effcx.tangents.curves import analyse_curve
from lightning_effcx.tangents.piecewise_linear import PiecewiseLinear, Tangents, join_tangents
from lightning_effcx.tracing import Site, listen

_IMAGES = 3  # dimensions, from which on there are channels and positions


class Layer:
    """The units of one site: what they are, and for a curve their samples.

    Attributes:
        name: The site.
        units: How many there are.
        own: How many linear pieces each has by itself; 1 for a curve.
        positions: How many units that follow each other share their tangents.
        apply: For a curve, the activation.
    """

    def __init__(self, site: Site, *, share_positions: bool) -> None:
        if site.kind == "other" or (site.kind == "curve" and site.apply is None):
            raise ValueError(
                f"site {site.name!r} ({site.operation}) is no activation of one pre-activation "
                "that is the same for all units, so tangents do not approximate it: make an "
                "activation of several operations a module of its own, or measure "
                "trajectory_length or jacobian_norm instead."
            )
        self.name = site.name
        self.operation = site.operation
        self.units = site.z.shape[1] if site.choice is None else site.choice.shape[1]
        self.own = site.elements or 1 + sum(map(math.isfinite, site.kinks))
        self.apply = site.apply
        shape = site.output.shape
        shares = share_positions and len(shape) >= _IMAGES and shape[0] == site.samples
        self.positions = math.prod(shape[2:]) if shares else 1
        self._z: list[Tensor] = []

    def add(self, site: Site) -> None:
        """Keep the pre-activations of some more samples."""
        self._z.append(to_precision(site.z.detach(), torch.float64))

    def approximated(self, weight: Tensor | None, candidates: int) -> Approximation:
        """Approximate its curve, each unit's error counting by its weight, `(u,)`."""
        assert self.apply is not None  # noqa: S101 it is a curve
        z, self._z = torch.cat(self._z), []
        samples, channels = len(z), self.units // self.positions
        found = analyse_curve(self.apply, float(z.min()), float(z.max()), like=z)
        self._check(z, found.turns, found.tangents)
        weight = torch.ones_like(z[0]) if weight is None else weight.to(z)
        weight = (weight / samples).reshape(channels, 1, self.positions)
        z = z.reshape(samples, channels, self.positions).transpose(0, 1)
        if self.positions > 1:
            weight = weight.expand_as(z)
        return Approximation(found, z.flatten(1), weight.flatten(1), candidates)

    def pieces(self, tangents: Tangents | None) -> Tensor:
        """Count the pieces of each unit, `(u,)`."""
        if tangents is None:
            return torch.full((self.units,), self.own)
        counts = tangents.unit.bincount(minlength=self.units // self.positions)
        return counts.repeat_interleave(self.positions)

    def points(self, tangents: Tangents) -> tuple[Tensor, ...]:
        """Return where the tangents of each unit touch."""
        counts = tangents.unit.bincount(minlength=self.units // self.positions).tolist()
        points = tangents.point.split(counts)
        return tuple(p for p in points for _ in range(self.positions))

    def lines(self, tangents: Tangents) -> PiecewiseLinear:
        """Return the piecewise-linear functions of its units."""
        return join_tangents(tangents).repeat_units(self.positions)

    def _check(self, z: Tensor, turns: Tensor, tangents: Any) -> None:
        within = turns[(turns > z.min()) & (turns < z.max())]
        for points in (z, within):
            if not all(bool(found.isfinite().all()) for found in tangents(points)):
                raise ValueError(
                    f"site {self.name!r} ({self.operation}) has no finite value or slope at some "
                    "of its pre-activations, or between them, so there is no tangent."
                )


def find_layers(
    network: Network, x: Tensor, *, share_positions: bool = False, chunk: int = 1024
) -> dict[str, Layer]:
    """Return the layers of a network at the samples `x`, in order of execution.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        x: The samples.
        share_positions: Whether all positions of a channel share their tangents.
        chunk: Rows that the network evaluates at once.
    """
    found: dict[str, Layer] = {}

    def hear(site: Site) -> None:
        if site.name not in found:
            found[site.name] = Layer(site, share_positions=share_positions)
        if site.kind == "curve":
            found[site.name].add(site)

    needed: dict[str, None] = {}
    with torch.no_grad():
        for part in x.split(chunk):
            needed |= listen(network, part.clone(), hear).sites
    return {name: found[name] for name in needed}
