r"""Capacity: how many regions the architecture could reach on a line, and how few there are.

A layer of $u$ units with $T$ kinks each cuts a segment at $u T$ places at most, and each later
layer may do so again in every piece: $\prod_i (u_i T_i + 1)$ regions at most, which a sawtooth
comes near. What networks reach is linear in the number of units $N = \sum_i u_i$: with weights as
they are initialised about one region per unit on a line through the data and the origin, less on
segments, and on average at most a small multiple of the number of kinks.

The gap is the exact number of regions on a path per unit: $1 / N$ where nothing bends, $1 + 1 / N$
on a line that crosses $N$ ReLUs once each, more where it crosses them again and again. It tends to
fall at first, then to rise as training goes on. Its `_share` is
$\log(\text{regions}) / \sum_i \log(u_i T_i + 1)$, on straight paths between 0 for a linear piece
and 1: high capacity, low reality. A window of max pooling is a unit with one kink less than it has
elements. Scaling the input and the weights of the first layer against each other, or a ReLU unit
and its outgoing weights, changes neither. Cost: as `linear_regions`.

Montúfar, Pascanu, Cho, Bengio, "On the Number of Linear Regions of Deep Neural Networks", NeurIPS
2014: the capacity; Hanin, Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019: what
is reached, on average over weights.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import PathMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.network import Network, to_precision
from lightning_effcx.paths import Paths, Segment
from lightning_effcx.piecewise import bends, pieces


@dataclass(frozen=True)
class Capacity:
    """What an architecture could reach on a straight line.

    Attributes:
        log_regions: Natural logarithm of the most regions that it could cut a line into.
        units: How many units there are, `N`.
        kinks: How many kinks they have, all together: `T N` where each has `T`.
    """

    log_regions: float
    units: int
    kinks: int


def region_capacity(network: Network, x: Float[Tensor, "n ..."]) -> Capacity:
    """Count the units of a network and the regions that it could cut a line into.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently, by operations that are
            affine or piecewise linear in the input. Anything else raises, naming the site.
        x: Samples, of which the first is used, for its shape.

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
    """Mean number of exact regions per unit on each path; `_share`, that of the log-capacity.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "capacity_gap"
    beside = ("_share",)
    by_default = Segment(points=2)  # what is between is found
    units: Tensor
    log_regions: Tensor

    def __init__(self, paths: Paths | None = None, **kwargs: Any) -> None:
        super().__init__(paths, **kwargs)
        self.add_state("units", default=torch.tensor(0.0), dist_reduce_fx="max")
        self.add_state("log_regions", default=torch.tensor(0.0), dist_reduce_fx="max")

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, draws
        capacity = region_capacity(network, x[:, 0])
        self.units = torch.full_like(self.units, capacity.units)
        self.log_regions = torch.full_like(self.log_regions, capacity.log_regions)
        regions = to_precision(pieces(network, x).regions(), torch.float64)
        return regions / capacity.units, {}

    def compute(self) -> dict[str, Tensor]:
        found = super().compute()
        regions = dim_zero_cat(self.scores)[:, 0] * self.units
        return found | self.averaged(self.name + "_share", regions.log() / self.log_regions)
