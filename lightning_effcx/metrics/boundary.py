r"""Boundaries of linear regions: how near the samples they are, and how densely they lie there.

A piecewise-linear network $\mathbb{R}^d \to \mathbb{R}^k$ cuts its input space into regions; in
each, its units are affine. A unit with pre-activation $z$ and kink $\xi$ bounds the region of a
sample $x$ by the hyperplane $z = \xi$, at the distance $|z(x) - \xi| / \|\nabla z(x)\|$. The
smallest over all units and kinks is exactly the *distance* from $x$ to the nearest boundary, in
units of input, since a region is the intersection of these half-spaces. One unit $w \cdot x + b$
scores $|w \cdot x + b| / \|w\|$; a unit on its kink scores 0. It falls as boundaries crowd around
the samples. Times the number of units $N$ it compares networks of different sizes: Hanin and
Rolnick found it between 0.4 and 1.5 on images, at first rising in training, then falling. A max
pooling or another choice bounds the region where its winner ties with another element of the
window. Cost: $d + 2$ forward passes for each sample.

The *density* is the area of all boundaries in the ball of a given radius around $x$, over the
volume of the ball, in units of 1 / input; each unit's boundary counts. A linear network scores 0, a
single hyperplane through $x$ in one dimension $1 / (2r)$. By Crofton's formula, a chord of the
ball, drawn uniformly among all, meets on average $2r / d$ times that density. Crossings of a chord
are exact, so the mean over chords is unbiased whatever the radius. In many dimensions chords are
short, about $r \sqrt{2 \pi / d}$, and most meet nothing if the radius is small: take it from
distances between samples, or more `directions`. Cost: as `linear_regions` of as many short paths.

Both in float64. Rotations and translations of the input change neither; scaling it by $c$ scales
distances by $c$ and densities by $1 / c$. Rescaling a ReLU unit and its outgoing weights changes
nothing. Boundaries of activation regions are meant: also those of units to which the output does
not listen.

Hanin, Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019: the distance, and the
volume of boundaries that their theorem bounds. Santaló, "Integral Geometry and Geometric
Probability", 1976: the chords of a ball.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import SampleMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.network import Network, in_precision, to_precision
from lightning_effcx.options import check_count, check_number
from lightning_effcx.piecewise import bends, pieces
from lightning_effcx.tags import site_key


def boundary_distance(
    network: Network, x: Float[Tensor, "n ..."], *, chunk: int = 1024
) -> Float[Tensor, " n"]:
    """Distance from each sample to the nearest boundary of its region, exact; not differentiable.

    Infinite where no unit moves with the sample.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently, by operations that are
            affine or piecewise linear in the input. Anything else raises, naming the site.
        x: The samples.
        chunk: Rows that the network evaluates at once.

    Example:
        >>> boundary_distance(lambda x: torch.relu(3 * x - 6), torch.tensor([[0.0], [5.0]]))
        tensor([2., 3.], dtype=torch.float64)
    """
    return nearest_boundaries(network, x, chunk=chunk).distance


@dataclass(frozen=True, eq=False)
class NearestBoundaries:
    """The nearest boundary of each sample's region.

    Attributes:
        distance: How far it is, `(n,)`; infinite where no unit moves with the sample.
        site: The index in `sites` of the nonlinearity whose boundary it is, `(n,)`.
        sites: The names of the nonlinearities, in order of execution.
    """

    distance: Float[Tensor, " n"]
    site: Int[Tensor, " n"]
    sites: tuple[str, ...]


def nearest_boundaries(
    network: Network, x: Float[Tensor, "n ..."], *, chunk: int = 1024
) -> NearestBoundaries:
    """Find the nearest boundary of each sample's region as `boundary_distance` does, and its site.

    Args:
        network: As in `boundary_distance`.
        x: The samples.
        chunk: As in `boundary_distance`.
    """
    per_site = boundary_distance_per_site(network, x, chunk=chunk)
    distance, site = torch.stack(list(per_site.values())).min(0)
    return NearestBoundaries(distance, site, tuple(per_site))


def boundary_distance_per_site(
    network: Network, x: Float[Tensor, "n ..."], *, chunk: int = 1024
) -> dict[str, Float[Tensor, " n"]]:
    """Distance from each sample to the nearest boundary that each site makes; infinite if none.

    Args:
        network: As in `boundary_distance`.
        x: The samples.
        chunk: As in `boundary_distance`.
    """
    check_samples(network, x, moves=True)
    check_count("chunk", chunk, of=" row")
    network = in_precision(network, torch.float64)
    samples = max(1, chunk // (x.shape[1:].numel() + 2))
    parts = [
        _distances(network, part, chunk) for part in to_precision(x, torch.float64).split(samples)
    ]
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


def _distances(network: Network, x: Tensor, chunk: int) -> dict[str, Tensor]:
    """Sum the squares of all units' gradients over chunks of input directions."""
    d = x.shape[1:].numel()
    gaps: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for index in torch.arange(d, device=x.device).split(max(1, chunk // len(x) - 2)):
        directions = torch.nn.functional.one_hot(index, d).to(x).reshape(-1, *x.shape[1:])
        for site, found in bends(network, x, directions).items():
            gaps[site] = found.gap
            squares[site] = squares.get(site, 0) + found.squares
    return {
        site: torch.where(squares[site] > 0, gap / squares[site].sqrt(), torch.inf).amin(1)
        for site, gap in gaps.items()
    }


def boundary_density(
    network: Network,
    x: Float[Tensor, "n ..."],
    *,
    radius: float,
    directions: int = 8,
    generator: Generator | Draws | None = None,
) -> Float[Tensor, " n"]:
    """Area of boundaries per volume in a ball around each sample, unbiased; not differentiable.

    Args:
        network: As in `boundary_distance`.
        x: The samples.
        radius: Of the balls, in units of the flattened input.
        directions: How many random chords of each ball are searched for boundaries.
        generator: Source of those chords, or the draws of each sample.

    Example:
        >>> boundary_density(torch.relu, torch.zeros(1, 1), radius=0.25)  # one in a length of 1/2
        tensor([2.], dtype=torch.float64)
    """
    check_samples(network, x, moves=True)
    _check(radius, directions)
    per_site = _densities(network, x, radius, directions, Draws.of(len(x), generator))
    return sum(per_site.values(), _none(x))


def _densities(  # noqa: PLR0913, PLR0917 those of the measure
    network: Network,
    x: Tensor,
    radius: float,
    directions: int,
    draws: Draws,
    chunk: int = 1024,
) -> dict[str, Tensor]:
    """Area per volume of the boundaries that each site makes; a chunk is of ends of chords."""
    parts: list[dict[str, Tensor]] = []
    for rows in torch.arange(len(x)).split(max(1, chunk // (2 * directions))):
        part = to_precision(x[rows], torch.float64)
        d = part.shape[1:].numel()
        ends = radius * _chords(draws[rows], directions, d).to(part)
        centre = part.repeat_interleave(directions, 0)[:, None]
        found = pieces(network, centre + ends.reshape(-1, 2, *part.shape[1:]))
        crossings = {site: found.transitions(site).to(part) for site in found.sites}
        mean = {site: c.unflatten(0, (-1, directions)).mean(1) for site, c in crossings.items()}
        # Crofton's constant is d / (2r).
        parts.append({site: m * d / (2 * radius) for site, m in mean.items()})
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


def _chords(draws: Draws, count: int, d: int) -> Tensor:
    """Draw `count` chords of the unit ball for each row, uniformly: their ends, `(r, 2, d)`."""
    noise = draws.randn(count, 2, d, dtype=torch.float64).flatten(0, 1)
    direction, aside = torch.nn.functional.normalize(noise, dim=2).unbind(1)
    if d == 1:
        return torch.stack([-direction, direction], 1)
    aside = aside - (aside * direction).sum(1, keepdim=True) * direction
    drawn = draws.rand(count, 1, dtype=torch.float64).flatten(0, 1)
    offset = drawn.pow(1 / (d - 1))  # uniform in the ball across the direction
    half = (-torch.expm1(2 / (d - 1) * drawn.log())).sqrt()  # sqrt(1 - offset²)
    middle, along = offset * torch.nn.functional.normalize(aside, dim=1), half * direction
    return torch.stack([middle - along, middle + along], 1)


def _check(radius: float, directions: int) -> None:
    check_number("radius", radius, lambda given: 0 < given < torch.inf, "a positive number")
    check_count("directions", directions)


def _none(x: Tensor) -> Tensor:
    return torch.zeros_like(to_precision(x.flatten(1)[:, 0], torch.float64))


class BoundaryDistance(SampleMetric):
    """Mean `boundary_distance` over the samples, `.times_units` that times the number of units.

    At each site the mean is over the samples that have a boundary there.

    Args:
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "boundary_distance"
    moves = True
    beside = (".times_units",)
    units: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("units", default=torch.tensor(0.0), dist_reduce_fx="max")

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, draws
        per_site = boundary_distance_per_site(network, x, chunk=self.chunk)
        distance = torch.stack(list(per_site.values())).amin(0)
        if not distance.isfinite().all():
            raise ValueError(
                "no unit of this network moves with its input, so a sample has no boundary near: "
                "look at activation_patterns for dead units instead."
            )
        units = sum(site.units for site in bends(network, x[:1]).values())
        self.units = torch.full_like(self.units, units)
        return distance, per_site

    def compute(self) -> dict[str, Tensor]:
        found = super().compute()
        scores = dim_zero_cat(self.scores)
        found |= self.averaged(self.name + ".times_units", scores[:, 0] * self.units)
        for site, column in zip(self.sites, scores[:, 1:].T, strict=True):
            key, finite = site_key(self.name, site), column[column.isfinite()]
            found[key] = finite.mean()
            if not len(finite):
                del found[key]
        return found


class BoundaryDensity(SampleMetric):
    """Mean `boundary_density` over the samples, and that of each site's boundaries.

    Args:
        radius: As in `boundary_density`.
        directions: As in `boundary_density`.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "boundary_density"
    moves = True

    def __init__(self, radius: float = 1.0, directions: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check(radius, directions)
        self.radius = radius
        self.directions = directions

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y
        per_site = _densities(network, x, self.radius, self.directions, draws, self.chunk)
        return sum(per_site.values(), _none(x)), per_site
