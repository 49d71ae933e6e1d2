r"""Linear deviation: how far the network is, on the way between two points, from a straight line.

On a segment from $a$ to $b$ the chord of a network $f$ goes straight from $f(a)$ to $f(b)$. Linear
deviation is the mean over the segment of $\|f(x) - \text{chord}(x)\|$, in units of output: 0 where
$f$ is affine on it, $r / 2$ for $|x|$ on $[-r, r]$. On a path of several segments each has a chord
of its own, and counts with its length.

Exact for piecewise-linear networks, since between two knots the difference is affine and the mean
of its norm known in closed form. Cost: about one forward pass over the vertices and knots.

It sees what the density of regions does not: in overparameterised networks the number of regions
says little about how much the slope changes from one to the next. It rises as the network bends
away from interpolating between samples, and scales with the outputs.

Gamba, Chmielewski-Anders, Sullivan, Azizpour, Björkman, "Are All Linear Regions Created Equal?",
AISTATS 2022: the absolute deviation, there for each logit by itself, here as a Euclidean norm.
"""

from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_effcx.metrics.base import PathMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.network import Network, in_precision, to_precision
from lightning_effcx.paths import Segment
from lightning_effcx.piecewise import Rows, pieces

_SHORT = 1e-3  # relative: where a difference changes by less, Simpson's rule is exact to rounding


def linear_deviation(network: Network, path: Float[Tensor, "s p ..."]) -> Float[Tensor, " s"]:
    """Mean distance of the outputs from the chords of each path; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently, by operations that are
            affine or piecewise linear in the input. Anything else raises, naming the site.
        path: The paths, whose vertices are the ends of the chords. A path of length 0 scores 0.

    Example:
        >>> path = torch.tensor([[[-3.0], [3.0]]])
        >>> linear_deviation(torch.abs, path)  # the chord is at 3
        tensor([1.5000], dtype=torch.float64)
    """
    check_paths(network, path)
    path = to_precision(path, torch.float64)
    segments = torch.stack([path[:, :-1], path[:, 1:]], 2).flatten(0, 1)
    y = _outputs(network, path.flatten(0, 1)).unflatten(0, path.shape[:2])
    start, end = y[:, :-1].flatten(0, 1), y[:, 1:].flatten(0, 1)

    def deviation(site: str, rows: Rows, values: Tensor) -> Tensor | None:
        if site != "output":
            return None
        chord = torch.lerp(start[rows.path], end[rows.path], rows.position[:, None])
        away = values - chord
        return _mean_norm(away[:-1], away[1:]) * rows.position.diff()

    mean = pieces(network, segments, measure=deviation).measured["output"]
    length = torch.linalg.vector_norm((segments[:, 1] - segments[:, 0]).flatten(1), dim=1)
    mean, length = mean.unflatten(0, (len(path), -1)), length.unflatten(0, (len(path), -1))
    total = length.sum(1)
    return (mean * length).sum(1) / torch.where(total > 0, total, 1.0)


def _outputs(network: Network, x: Tensor) -> Tensor:
    """Evaluate the network in the precision of `x`, of which the exact pass knows how."""
    exact = in_precision(network, x.dtype)
    if exact is not network:
        # A network that casts what it is given is not in that precision.
        with torch.no_grad(), suppress(RuntimeError):
            return exact(x).flatten(1)
    found: list[Tensor] = []

    def take(site: str, rows: Rows, values: Tensor) -> None:
        del rows
        if site == "output":
            found.append(values)

    pieces(network, x[:, None], measure=take)  # each sample a path of its own
    return torch.cat(found)


def _mean_norm(a: Float[Tensor, "r k"], b: Float[Tensor, "r k"]) -> Float[Tensor, " r"]:
    """Mean of the Euclidean norm on the straight ways from `a` to `b`."""
    step = b - a
    length = torch.linalg.vector_norm(step, dim=1)
    norm_a, norm_b = (torch.linalg.vector_norm(end, dim=1) for end in (a, b))
    short = length <= _SHORT * (norm_a + norm_b)
    along = step / torch.where(length > 0, length, 1.0)[:, None]
    u, v = (a * along).sum(1), (b * along).sum(1)  # the ends, from the foot of the perpendicular
    height = torch.linalg.vector_norm(a - u[:, None] * along, dim=1)
    foot = torch.where(height > 0, height, 1.0)  # the second term vanishes with the height
    integral = v * norm_b - u * norm_a + height.square() * ((v / foot).asinh() - (u / foot).asinh())
    simpson = (norm_a + 4 * torch.linalg.vector_norm(a + b, dim=1) / 2 + norm_b) / 6
    return torch.where(short, simpson, integral / torch.where(short, 1.0, 2 * length))


class LinearDeviation(PathMetric):
    """Mean `linear_deviation` over paths.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "linear_deviation"
    by_default = Segment(points=2)  # what is between is found

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, draws
        return linear_deviation(network, x), {}
