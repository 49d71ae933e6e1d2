"""The units of each site of a network, and the pre-activations that tangents are chosen for."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_effcx.network import Network, to_precision
from lightning_effcx.tangents.approximation import Approximation
from lightning_effcx.tangents.curves import ActivationCurve, analyse_curve
from lightning_effcx.tangents.piecewise_linear import PiecewiseLinear, Tangents, join_tangents
from lightning_effcx.tracing import Site, listen

_IMAGES = 3  # from so many dimensions on, a tensor has channels and positions


@dataclass(frozen=True)
class Layer:
    """The units of one site.

    Attributes:
        name: The name of the site.
        units: The number of units.
        own: How many linear pieces a unit has without tangents; 1 for a curve.
        positions: How many neighbouring units share their tangents.
    """

    name: str
    units: int
    own: int
    positions: int

    def pieces(self, tangents: Tangents | None) -> Tensor:
        """Count the pieces of each unit, `(u,)`; only units with curves have tangents."""
        if tangents is None:
            return torch.full((self.units,), self.own)
        return self._counts(tangents).repeat_interleave(self.positions)

    def points(self, tangents: Tangents) -> tuple[Tensor, ...]:
        """Return the points where the tangents of each unit touch its curve."""
        points = tangents.point.split(self._counts(tangents).tolist())
        return tuple(p for p in points for _ in range(self.positions))

    def lines(self, tangents: Tangents) -> PiecewiseLinear:
        """Return the piecewise-linear functions of the units."""
        return join_tangents(tangents).repeat_units(self.positions)

    def _counts(self, tangents: Tangents) -> Tensor:
        """Count the tangents of each unit, or of each channel whose positions share them."""
        return tangents.unit.bincount(minlength=self.units // self.positions)


@dataclass(frozen=True, eq=False)
class Preactivations:
    """The pre-activations of one site with curves, at all samples.

    Attributes:
        curve: The activation.
        z: The pre-activations, `(n, u)`, in float64.
        positions: How many neighbouring units share their tangents.
    """

    curve: ActivationCurve
    z: Tensor
    positions: int

    def approximate(self, weight: Tensor | None, candidates: int) -> Approximation:
        """Approximate the curve of each unit by tangents.

        Args:
            weight: The weight of each unit's error, `(u,)`; all units weigh 1 if it is `None`.
            candidates: At how many of its samples a unit may have tangents.
        """
        samples, channels = len(self.z), self.z.shape[1] // self.positions
        weight = torch.ones_like(self.z[0]) if weight is None else weight.to(self.z)
        weight = (weight / samples).reshape(channels, 1, self.positions)
        # The positions of a channel count as further samples of one unit.
        z = self.z.reshape(samples, channels, self.positions).transpose(0, 1)
        if self.positions > 1:
            weight = weight.expand_as(z)
        return Approximation(self.curve, z.flatten(1), weight.flatten(1), candidates)


def find_layers(
    network: Network, x: Tensor, *, share_positions: bool = False, chunk: int = 1024
) -> tuple[dict[str, Layer], dict[str, Preactivations]]:
    """Return the layers of a network, and the pre-activations of the layers with curves.

    Both are in order of execution, by the name of the site.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        x: The samples.
        share_positions: Whether all positions of a channel share their tangents.
        chunk: Rows that the network evaluates at once.
    """
    layers: dict[str, Layer] = {}
    curves: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {}
    parts: dict[str, list[Tensor]] = {}

    def record(site: Site) -> None:
        layers.setdefault(site.name, _describe(site, share_positions=share_positions))
        if site.apply is not None:
            curves.setdefault(site.name, (site.operation, site.apply))
            z = to_precision(site.z.detach(), torch.float64)
            parts.setdefault(site.name, []).append(z)

    needed: dict[str, None] = {}
    with torch.no_grad():
        for part in x.split(chunk):
            needed |= listen(network, part.clone(), record).sites
    return {name: layers[name] for name in needed}, {
        name: _preactivations(layers[name], *curves[name], torch.cat(parts.pop(name)))
        for name in needed
        if name in curves
    }


def _preactivations(
    layer: Layer, operation: str, apply: Callable[[Tensor], Tensor], z: Tensor
) -> Preactivations:
    """Analyse the curve of a site, or refuse it if it has no tangents."""
    site = f"site {layer.name!r} ({operation})"
    low, high = z.min(), z.max()
    if not low.isfinite() or not high.isfinite():
        raise _without_tangent(site)
    try:
        curve = analyse_curve(apply, float(low), float(high), like=z)
    except RuntimeError as error:  # by autograd: some operators have no derivative at all
        raise ValueError(
            f"{site} has no derivative, so it has no tangents: use trajectory_length."
        ) from error
    within = curve.turns[(curve.turns > low) & (curve.turns < high)]
    for points in (z, within):
        if not all(bool(found.isfinite().all()) for found in curve.tangents(points)):
            raise _without_tangent(site)
    if len(curve.broken):
        raise ValueError(
            f"{site} does not rise by the integral of its slope near {float(curve.broken[0]):.4g}: "
            "it jumps there, or detaches, or swings too fast. So tangents do not approximate it: "
            "use trajectory_length."
        )
    return Preactivations(curve, z, layer.positions)


def _without_tangent(site: str) -> ValueError:
    return ValueError(
        f"{site} has no finite value or slope at some of its pre-activations, or between them, so "
        "it has no tangent there: pass samples whose pre-activations keep away from such points."
    )


def _describe(site: Site, *, share_positions: bool) -> Layer:
    """Describe the units of a site, or refuse it if tangents cannot approximate them."""
    if site.kind == "other" or (site.kind == "curve" and site.apply is None):
        raise ValueError(
            f"site {site.name!r} ({site.operation}) is no activation of one pre-activation "
            "that is the same for all units, so tangents do not approximate it: make an "
            "activation of several operations a module of its own, or measure "
            "trajectory_length or jacobian_norm instead."
        )
    shape = site.output.shape
    has_positions = len(shape) >= _IMAGES and site.is_batch_first
    return Layer(
        name=site.name,
        units=site.z.shape[1] if site.choice is None else site.choice.shape[1],
        own=site.elements or 1 + sum(map(math.isfinite, site.kinks)),
        positions=math.prod(shape[2:]) if share_positions and has_positions else 1,
    )
