r"""Trajectory length: how long the image of a path is, layer by layer.

For a path $x(t)$ in input space, the length of its image $z(t)$ after a site is
$\int \|dz/dt\|\,dt$, in units of activation. The identity and every isometry keep the length of the
input; a constant map has length 0; $cf$ has $|c|$ times the length of $f$. It rises as the network
stretches and folds the space between samples, and grows at most as the product of what each layer
adds. Cost: one forward pass over all vertices.

The chords between neighbouring vertices sum up to a lower bound that grows with their number:
exact where the image is straight between them, short by the folds that fit between two vertices
otherwise. This holds for any network, and is differentiable. Where the network is piecewise linear
the length is known exactly, as the sum of the chords between all knots (`exact=True`), at the cost
of one forward pass over the knots.

The *growth* is the length at the output relative to that at the input, and at each site relative to
the site before, 1 where nothing is stretched: random layers whose weights have variance
$\sigma^2 / n$ of a fan-in $n$ grow by about $\sigma / \sqrt 2$ each with ReLU.

Raghu, Poole, Kleinberg, Ganguli, Sohl-Dickstein, "On the Expressive Power of Deep Neural Networks",
ICML 2017, section on trajectory length.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import PathMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.network import Network, differentiating
from lightning_effcx.options import check_switch
from lightning_effcx.paths import Paths, Segment
from lightning_effcx.piecewise import Rows, pieces
from lightning_effcx.tags import STDERR, site_key
from lightning_effcx.tracing import Site, listen


def trajectory_length(
    network: Network, path: Float[Tensor, "s p ..."], *, exact: bool = False
) -> dict[str, Float[Tensor, " s"]]:
    """Length of each path's image at `input`, after every site, and at `output`.

    Differentiable, unless it is `exact`.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently; for the exact length,
            by operations that are affine or piecewise linear in the input.
        path: The paths, whose vertices are joined by chords.
        exact: Whether to find the knots between the vertices; in float64, not differentiable.

    Example:
        >>> path = torch.tensor([[[-3.0], [3.0]]])
        >>> trajectory_length(torch.abs, path)["output"]  # there and back
        tensor([0.])
        >>> trajectory_length(torch.abs, path, exact=True)["output"]
        tensor([6.], dtype=torch.float64)
    """
    check_paths(network, path)
    check_switch("exact", exact)
    if exact:
        return pieces(network, path, measure=_steps).measured
    paths, points = path.shape[:2]

    def measure(site: Site) -> Tensor | None:
        if not site.output.is_floating_point():
            return None  # a comparison has no length
        return _chords(site.value.unflatten(0, (paths, points)))

    with differentiating():
        y, sites = listen(network, path.flatten(0, 1), measure)
        lengths = {name: length for name, length in sites.items() if length is not None}
        output = _chords(y.unflatten(0, (paths, points)))
        return {"input": _chords(path), **lengths, "output": output}


class TrajectoryLength(PathMetric):
    """Mean length of the paths' images at the output; and at the input and every site.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        exact: As in `trajectory_length`; its name then ends in `_exact`.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "trajectory_length"

    def __init__(self, paths: Paths | None = None, *, exact: bool = False, **kwargs: Any) -> None:
        check_switch("exact", exact)
        super().__init__(Segment(points=2) if exact and paths is None else paths, **kwargs)
        self.exact = exact

    @property
    def name(self) -> str:
        return super().name + "_exact" * self.exact

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, draws
        lengths = trajectory_length(network, x, exact=self.exact)
        return lengths.pop("output"), lengths


class TrajectoryGrowth(TrajectoryLength):
    """Length of all images at the output over that of the paths; at a site, over the one before.

    Args:
        paths: As in `TrajectoryLength`.
        exact: As in `TrajectoryLength`.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "trajectory_growth"

    def compute(self) -> dict[str, Tensor]:
        output, start, *others = dim_zero_cat(self.scores).T
        if not start.any():
            raise ValueError(
                "all paths have length 0, so nothing can grow: use samples that differ."
            )
        growth = output.mean() / start.mean()
        # The error of a ratio of means, to first order.
        _, stderr = self.average((output - growth * start) / start.mean())
        found = {self.name: growth}
        if stderr is not None:
            found[self.name + STDERR] = stderr
        for site, (before, after) in zip(self.sites[1:], pairwise([start, *others]), strict=True):
            if before.any():  # else there is nothing to grow from, such as after dead units
                found[site_key(self.name, site)] = after.mean() / before.mean()
        return found


def _steps(site: str, rows: Rows, values: Tensor) -> Tensor:
    """Length of the straight way from each row to the next."""
    del site, rows
    return torch.linalg.vector_norm(values.diff(dim=0), dim=1)


def _chords(points: Tensor) -> Tensor:
    """Sum of the distances between neighbouring points, `(s, p, ...)` to `(s,)`."""
    return torch.linalg.vector_norm(points.diff(dim=1).flatten(2), dim=2).sum(1)
