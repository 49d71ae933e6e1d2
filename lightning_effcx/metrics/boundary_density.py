r"""Boundary density: how much boundary of linear regions lies around the samples.

A piecewise-linear network $\mathbb{R}^d \to \mathbb{R}^k$ divides its input space into regions. In
each region all units are affine. The density is the area of all boundaries in a ball around a
sample, divided by the volume of the ball, in units of 1 / input. The boundary of each unit counts,
including units that the output does not depend on. A linear network scores 0. In one dimension a
single boundary within the radius $r$ scores $1 / (2r)$.

A random chord of the ball crosses on average $2r / d$ times that density (Crofton's formula), if
chords are drawn uniformly. The crossings of each chord are counted exactly, so the mean over chords
is unbiased for every radius. In many dimensions chords are short, about $r \sqrt{2 \pi / d}$, and
most cross nothing if the radius is small. Choose a radius like the distances between samples, or
more `directions`.

Computed in float64. Rotations and translations of the input do not change the density. Scaling the
input by $c$ divides it by $c$. Rescaling a ReLU unit and its outgoing weights changes nothing.
Cost: the cost of `linear_regions` on as many short paths as there are chords.

Hanin, Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019: their theorem bounds the
volume of boundaries. Santaló, "Integral Geometry and Geometric Probability", 1976: random chords.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.sample_metric import SampleMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Chunk, Scores, total
from lightning_effcx.network import Network, to_precision
from lightning_effcx.options import check_count, check_number
from lightning_effcx.piecewise import pieces


def boundary_density(
    network: Network,
    x: Float[Tensor, "n ..."],
    *,
    radius: float,
    directions: int = 8,
    generator: Generator | Draws | None = None,
) -> Float[Tensor, " n"]:
    """Estimate the boundary density around each sample, without bias; not differentiable.

    Args:
        network: As in `boundary_distance`.
        x: The samples.
        radius: The radius of the balls, in units of the flattened input.
        directions: How many random chords of each ball to search for boundaries.
        generator: The source of the chords, or the draws of each sample.

    Example:
        >>> boundary_density(torch.relu, torch.zeros(1, 1), radius=0.25)  # one in a length of 1/2
        tensor([2.], dtype=torch.float64)
    """
    check_samples(network, x, moves=True)
    balls = Balls(radius, directions)
    per_site = _densities(network, x, balls, Draws.of(len(x), generator))
    return total(per_site, x, torch.float64)


@dataclass(frozen=True)
class Balls:
    """The balls around the samples, and the number of random chords in each.

    Attributes:
        radius: In units of the flattened input.
        directions: How many chords of each ball to draw.
    """

    radius: float
    directions: int

    def __post_init__(self) -> None:
        expected = "a positive number"
        check_number("radius", self.radius, lambda given: 0 < given < torch.inf, expected)
        check_count("directions", self.directions)

    def chords(self, draws: Draws, d: int) -> Tensor:
        """Draw uniform chords in `d` dimensions, relative to the centre: `(n, directions, 2, d)`.

        A chord is a direction, uniform on the sphere, and a middle point, uniform in the ball of
        `d - 1` dimensions across it.
        """
        noise = draws.randn(self.directions, 2, d, dtype=torch.float64)
        direction, aside = torch.nn.functional.normalize(noise, dim=3).unbind(2)
        if d == 1:  # every chord is the whole ball
            return self.radius * torch.stack([-direction, direction], 2)
        aside = aside - (aside * direction).sum(2, keepdim=True) * direction
        drawn = draws.rand(self.directions, 1, dtype=torch.float64)
        offset = drawn.pow(1 / (d - 1))
        half = (-torch.expm1(2 / (d - 1) * drawn.log())).sqrt()  # sqrt(1 - offset²)
        middle = offset * torch.nn.functional.normalize(aside, dim=2)
        return self.radius * torch.stack([middle - half * direction, middle + half * direction], 2)


def _densities(
    network: Network, x: Tensor, balls: Balls, draws: Draws, chunk: int = 1024
) -> dict[str, Tensor]:
    """Return the density of each site's boundaries; `chunk` limits the ends of chords at once."""
    parts: list[dict[str, Tensor]] = []
    for rows in torch.arange(len(x)).split(max(1, chunk // (2 * balls.directions))):
        centre = to_precision(x[rows], torch.float64)
        d = centre.shape[1:].numel()
        ends = balls.chords(draws[rows], d).to(centre).unflatten(3, centre.shape[1:])
        found = pieces(network, (centre[:, None, None] + ends).flatten(0, 1))
        crossings = {site: found.transitions(site).to(centre) for site in found.sites}
        # Crofton's constant is d / (2r).
        constant = d / (2 * balls.radius)
        parts.append(
            {
                site: c.unflatten(0, (-1, balls.directions)).mean(1) * constant
                for site, c in crossings.items()
            }
        )
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


class BoundaryDensity(SampleMetric):
    """The mean `boundary_density` over the samples, and the mean for the boundaries of each site.

    Args:
        radius: As in `boundary_density`.
        directions: As in `boundary_density`.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "boundary_density"
    moves = True

    def __init__(self, radius: float = 1.0, directions: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.balls = Balls(radius, directions)

    def score(self, network: Network, chunk: Chunk) -> Scores:
        per_site = _densities(network, chunk.x, self.balls, chunk.draws, self.chunk)
        return Scores(total(per_site, chunk.x, torch.float64), sites=per_site)
