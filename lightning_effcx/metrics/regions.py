r"""Linear regions: how many affine pieces the network has along a path.

A network of affine and piecewise-linear operations is affine on each *activation region*: a set of
inputs on which every unit stays in one linear piece. `linear_regions` counts the regions that a
path crosses, exactly: one more than the number of different knots inside the path. A linear network
scores 1. One ReLU scores 2 on a segment that crosses its hyperplane. $k$ ReLUs with different
thresholds score $k + 1$. A path scores the same if it is repeated, reversed or cut at other
vertices. Cost: about one forward pass over the vertices and knots. If that is too expensive,
`estimated_linear_regions` counts exactly on random parts of each path and scales up, without bias.

The number rises as a network folds its input to fit. It does not see how *much* the slope changes:
in overparameterised networks the density of regions alone says little. Neighbouring regions can
have the same affine map, if the unit that differs is not used further on. They count as two.

Hanin, Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019: the number of activation
regions along lines. Raghu, Poole, Kleinberg, Ganguli, Sohl-Dickstein, "On the Expressive Power of
Deep Neural Networks", ICML 2017.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lightning_effcx.metrics.path_metric import PathMetric
from lightning_effcx.metrics.regions_estimate import check_effort, estimate_regions
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.metrics.scoring import Chunk, Scores
from lightning_effcx.network import Network
from lightning_effcx.paths import Paths, Segment
from lightning_effcx.piecewise import pieces


def linear_regions(network: Network, path: Float[Tensor, "s p ..."]) -> Int[Tensor, " s"]:
    """Return the exact number of activation regions that each path crosses; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently. Its operations must be
            affine or piecewise linear in the input. Another one raises `ValueError` with its site.
        path: The paths. A vertex is not a boundary.

    Example:
        >>> import torch
        >>> path = torch.tensor([[[-1.0], [2.0]]])
        >>> linear_regions(lambda x: torch.relu(x) - torch.relu(x - 1), path)  # kinks at 0 and 1
        tensor([3])
    """
    check_paths(network, path)
    return pieces(network, path).regions()


class LinearRegions(PathMetric):
    """The mean `linear_regions` per path, and the mean number of knots per site.

    Args:
        paths: How to draw paths: a class of `lightning_effcx.paths`, or anything with its methods.
        budget: Estimate the number from about this many knots of each path, as
            `estimated_linear_regions` does. The name of the metric then ends in `_estimated`. By
            default all knots are counted.
        share: Estimate the number from this share of each path instead.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "linear_regions"
    by_default = Segment(points=2)  # knots between the vertices are found

    def __init__(
        self,
        paths: Paths | None = None,
        *,
        budget: int | None = None,
        share: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(paths, **kwargs)
        self.estimates = budget is not None or share is not None
        if self.estimates:
            check_effort(budget, share)
            self.words = ("estimated",)
        self.budget = budget
        self.share = share

    def score(self, network: Network, chunk: Chunk) -> Scores:
        if self.estimates:
            return estimate_regions(network, chunk.x, self.budget, self.share, chunk.draws)
        found = pieces(network, chunk.x)
        return Scores(found.regions(), sites={s: found.transitions(s) for s in found.sites})
