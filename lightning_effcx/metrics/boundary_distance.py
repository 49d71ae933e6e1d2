r"""Boundary distance: how far the samples are from the boundaries of their linear regions.

A piecewise-linear network $\mathbb{R}^d \to \mathbb{R}^k$ divides its input space into regions. In
each region all units are affine. A unit with pre-activation $z$ and kink $\xi$ bounds the region of
a sample $x$ by the hyperplane $z = \xi$, at the distance $|z(x) - \xi| / \|\nabla z(x)\|$. The
region is the intersection of these half-spaces. So the smallest of these distances is exactly the
distance from $x$ to the nearest boundary, in units of input. One unit $w \cdot x + b$ scores
$|w \cdot x + b| / \|w\|$; a unit on its kink scores 0. The distance falls as boundaries crowd
around the samples. A max pooling bounds the region where its winner ties with another element of
the window; a sort where two neighbours in the order tie, and a median where it ties with any other
element.

Times the number of units $N$, the distance compares networks of different sizes. Hanin and Rolnick
found it between 0.4 and 1.5 on images: at first it rises in training, then it falls.

Computed in float64. Rotations and translations of the input do not change the distance. Scaling the
input by $c$ scales it by $c$. Rescaling a ReLU unit and its outgoing weights changes nothing. The
boundaries are the ones of activation regions, including units that the output does not depend on.
Cost: $d + 2$ forward passes for each sample.

Hanin, Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.sample_metric import SampleMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Chunk, Scores
from lightning_effcx.network import Network, in_precision, to_precision
from lightning_effcx.options import check_count
from lightning_effcx.piecewise import Bends, bends


def boundary_distance(
    network: Network, x: Float[Tensor, "n ..."], *, chunk: int = 1024
) -> Float[Tensor, " n"]:
    """Return the exact distance from each sample to its nearest boundary; not differentiable.

    The distance is infinite where no unit changes with the input.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently. Its operations must be
            affine or piecewise linear in the input. Another one raises `ValueError` with its site.
        x: The samples.
        chunk: The most rows that the network evaluates at once.

    Example:
        >>> boundary_distance(lambda x: torch.relu(3 * x - 6), torch.tensor([[0.0], [5.0]]))
        tensor([2., 3.], dtype=torch.float64)
    """
    return nearest_boundaries(network, x, chunk=chunk).distance


@dataclass(frozen=True, eq=False)
class NearestBoundaries:
    """The nearest boundary of each sample's region.

    Attributes:
        distance: The distance to it, `(n,)`; infinite where no unit changes with the input.
        site: The site that makes the boundary, by its index in `sites`, `(n,)`.
        sites: The names of the sites, in order of execution.
    """

    distance: Float[Tensor, " n"]
    site: Int[Tensor, " n"]
    sites: tuple[str, ...]


def nearest_boundaries(
    network: Network, x: Float[Tensor, "n ..."], *, chunk: int = 1024
) -> NearestBoundaries:
    """Return the nearest boundary of each sample's region, with its site; not differentiable.

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
    """Return the distance from each sample to the nearest boundary of each site.

    The distance is infinite where the site has no boundary. Not differentiable.

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
    """Return the distances, with the units' gradients taken over chunks of input directions."""
    d = x.shape[1:].numel()
    total: dict[str, Bends] = {}
    for index in torch.arange(d, device=x.device).split(max(1, chunk // len(x) - 2)):
        directions = torch.nn.functional.one_hot(index, d).to(x).reshape(-1, *x.shape[1:])
        for site, found in bends(network, x, directions).items():
            squares = found.squares + (total[site].squares if site in total else 0)
            total[site] = replace(found, squares=squares)
    return {site: found.distances().amin(1) for site, found in total.items()}


class BoundaryDistance(SampleMetric):
    """The mean `boundary_distance` over the samples; the variant `.times_units` is that times `N`.

    At each site the mean is over the samples that have a boundary there.

    Args:
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "boundary_distance"
    moves = True
    variants = (".times_units",)

    def score(self, network: Network, chunk: Chunk) -> Scores:
        per_site = boundary_distance_per_site(network, chunk.x, chunk=self.chunk)
        distance = torch.stack(list(per_site.values())).amin(0)
        if not distance.isfinite().all():
            raise ValueError(
                "no unit of this network changes with its input, so some sample has no boundary: "
                "use ActivationPatterns, which counts dead units."
            )
        units = sum(site.units for site in bends(network, chunk.x[:1]).values())
        return Scores(distance, {".times_units": distance * units}, per_site)

    def summarize(self, scores: Scores) -> Measurement:
        found = super().summarize(scores)
        finite = {site: s[s.isfinite()] for site, s in scores.sites.items()}
        sites = {site: s.mean() for site, s in finite.items() if len(s)}
        return replace(found, sites=sites)
