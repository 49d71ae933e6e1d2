r"""Capacity: how many regions the architecture could reach on a line, and how few it does reach.

A layer of $u$ units with $T$ kinks each cuts a segment at $u T$ places at most. Each later layer
can do so again in every piece. So there are at most $\prod_i (u_i T_i + 1)$ regions, and a sawtooth
comes near this bound. Real networks reach about as many regions as they have units, $N = \sum_i
u_i$. With initial weights there is about one region per unit on a line through the data and the
origin, fewer on segments, and on average at most a small multiple of the number of kinks.

The *gap* is the exact number of regions on a path, divided by $N$: $1 / N$ where nothing bends,
$1 + 1 / N$ on a line that crosses $N$ ReLUs once each, more if it crosses them several times. It
tends to fall at first and then to rise in training. The variant `_share` is
$\log(\text{regions}) / \sum_i \log(u_i T_i + 1)$. On straight paths it lies between 0, for a linear
piece, and 1: a low value means that the capacity is high and little of it is used.

A window of max pooling counts as a unit with one kink less than it has elements. In a sort, a top-k
or a median of $m$ elements, each position of the result is a unit, and all of them together have
$m (m - 1) / 2$ kinks, since each two elements swap once on a line at most. Two changes keep both
values: scaling the input against the weights of the first layer, and scaling a ReLU unit
against its outgoing weights. Cost: the cost of `linear_regions`.

Montúfar, Pascanu, Cho, Bengio, "On the Number of Linear Regions of Deep Neural Networks", NeurIPS
2014: the capacity. Hanin, Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019: the
number that is reached, on average over weights.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_effcx.metrics.path_metric import PathMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Chunk, Scores
from lightning_effcx.network import Network, to_precision
from lightning_effcx.paths import Segment
from lightning_effcx.piecewise import bends, pieces


@dataclass(frozen=True)
class Capacity:
    """What an architecture could reach on a straight line.

    Attributes:
        log_regions: The natural logarithm of the most regions that it could cut a line into.
        units: The number of units, `N`.
        kinks: The number of kinks of all units together: `T N` if each has `T`.
    """

    log_regions: float
    units: int
    kinks: int


def region_capacity(network: Network, x: Float[Tensor, "n ..."]) -> Capacity:
    """Count the units of a network and the regions that it could cut a line into.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently. Its operations must be
            affine or piecewise linear in the input. Another one raises `ValueError` with its site.
        x: Samples. Only the shape of the first matters.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> region_capacity(network, torch.zeros(1, 2))  # log(3 + 1)
        Capacity(log_regions=1.386..., units=3, kinks=3)
    """
    check_samples(network, x, moves=True)
    found = bends(network, x[:1]).values()
    return Capacity(
        sum(math.log(site.kinks + 1) for site in found),
        sum(site.units for site in found),
        sum(site.kinks for site in found),
    )


class CapacityGap(PathMetric):
    """The mean number of exact regions per unit on a path.

    The variant `_share` is the logarithm of the regions, divided by the log-capacity.

    Args:
        paths: How to draw paths: a class of `lightning_effcx.paths`, or anything with its methods.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "capacity_gap"
    variants = ("_share",)
    by_default = Segment(points=2)  # knots between the vertices are found

    def score(self, network: Network, chunk: Chunk) -> Scores:
        capacity = region_capacity(network, chunk.x[:, 0])
        regions = to_precision(pieces(network, chunk.x).regions(), torch.float64)
        return Scores(regions / capacity.units, {"_share": regions.log() / capacity.log_regions})
