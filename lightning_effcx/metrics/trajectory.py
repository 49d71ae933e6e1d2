r"""Trajectory length: how long the image of a path is, layer by layer.

A path $x(t)$ in input space has the image $z(t)$ after a site. The length of the image is
$\int \|dz/dt\|\,dt$, in units of activation. The identity and every isometry keep the length of the
input. A constant map has length 0, and $cf$ has $|c|$ times the length of $f$. The length rises as
the network stretches and folds the space between samples. A layer multiplies it at most by the
layer's Lipschitz constant. Cost: one forward pass over all vertices.

The length is the sum of the chords between neighbouring vertices. This is exact where the image is
straight between them, and else a lower bound, which rises with the number of vertices. It holds for
any network and is differentiable. If the network is piecewise linear, `exact=True` sums the chords
between all knots instead, at the cost of one forward pass over the knots.

The *growth* is the length at the output divided by the length at the input, and at each site the
length divided by the length at the site before. It is 1 where nothing is stretched. Random ReLU
layers whose weights have variance $\sigma^2 / n$ for a fan-in $n$ grow by about
$\sigma / \sqrt 2$ each.

Raghu, Poole, Kleinberg, Ganguli, Sohl-Dickstein, "On the Expressive Power of Deep Neural Networks",
ICML 2017, section on trajectory length.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.path_metric import PathMetric
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.metrics.scoring import Chunk, Scores
from lightning_effcx.network import Network, differentiating
from lightning_effcx.options import check_switch
from lightning_effcx.paths import Paths, Segment
from lightning_effcx.piecewise import pieces
from lightning_effcx.tracing import Site, listen


def trajectory_length(
    network: Network, path: Float[Tensor, "s p ..."], *, exact: bool = False
) -> dict[str, Float[Tensor, " s"]]:
    """Return the length of each path's image at `input`, after every site, and at `output`.

    Differentiable, unless it is `exact`.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently. For the exact length its
            operations must be affine or piecewise linear in the input.
        path: The paths. Straight chords join their vertices.
        exact: Whether to find the knots between the vertices, in float64.

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
        by_interval = pieces(network, path, integrate=lambda _site, _rows, values: _steps(values))
        return by_interval.integrals
    paths, points = path.shape[:2]

    def length_after(site: Site) -> Tensor | None:
        if not site.output.is_floating_point():
            return None  # a comparison has no length
        return _chords(site.value.unflatten(0, (paths, points)))

    with differentiating():
        y, sites = listen(network, path.flatten(0, 1), length_after)
        lengths = {name: length for name, length in sites.items() if length is not None}
        output = _chords(y.unflatten(0, (paths, points)))
        return {"input": _chords(path), **lengths, "output": output}


class _TrajectoryMetric(PathMetric):
    """What the metrics of trajectories have in common: their options and their scores."""

    def __init__(self, paths: Paths | None = None, *, exact: bool = False, **kwargs: Any) -> None:
        check_switch("exact", exact)
        # Two vertices do where the knots between them are found.
        super().__init__(Segment(points=2) if exact and paths is None else paths, **kwargs)
        self.exact = exact
        self.words = ("exact",) if exact else ()

    def score(self, network: Network, chunk: Chunk) -> Scores:
        lengths = trajectory_length(network, chunk.x, exact=self.exact)
        return Scores(lengths.pop("output"), sites=lengths)


class TrajectoryLength(_TrajectoryMetric):
    """The mean length of the paths' images at the output, at the input and after every site.

    Args:
        paths: How to draw paths: a class of `lightning_effcx.paths`, or anything with its methods.
        exact: As in `trajectory_length`. The name of the metric then ends in `_exact`.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "trajectory_length"


class TrajectoryGrowth(_TrajectoryMetric):
    """The total length of all images at the output, divided by the total length of the paths.

    At each site it is the total length there divided by the total length at the site before.

    Args:
        paths: As in `TrajectoryLength`.
        exact: As in `TrajectoryLength`.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "trajectory_growth"

    def summarize(self, scores: Scores) -> Measurement:
        sites = dict(scores.sites)
        start = sites.pop("input")
        if not start.any():
            raise ValueError(
                "all paths have length 0, so nothing can grow: use samples that differ."
            )
        growth = scores.value.mean() / start.mean()
        # The standard error of a ratio of means, to first order.
        residuals = self.mean((scores.value - growth * start) / start.mean())
        steps = zip(sites, pairwise([start, *sites.values()]), strict=True)
        return Measurement(
            growth,
            residuals.stderr,
            sites={
                site: after.mean() / before.mean()
                for site, (before, after) in steps
                if before.any()  # else there is nothing to grow from, as after dead units
            },
        )


def _steps(values: Tensor) -> Tensor:
    """Return the distance from each row to the next."""
    return torch.linalg.vector_norm(values.diff(dim=0), dim=1)


def _chords(points: Tensor) -> Tensor:
    """Sum the distances between neighbouring points, `(s, p, ...)` to `(s,)`."""
    return torch.linalg.vector_norm(points.diff(dim=1).flatten(2), dim=2).sum(1)
