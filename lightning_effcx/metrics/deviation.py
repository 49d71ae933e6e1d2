r"""Linear deviation: how far the outputs are from a straight line between two points.

On a segment from $a$ to $b$, the chord of a network $f$ goes straight from $f(a)$ to $f(b)$. The
linear deviation is the mean over the segment of $\|f(x) - \text{chord}(x)\|$, in units of output.
It is 0 where $f$ is affine, and $r / 2$ for $|x|$ on $[-r, r]$. On a path of several segments each
segment has its own chord and is weighted by its length. It scales with the outputs.

It is exact for piecewise-linear networks: between two knots the difference is affine, and the mean
of its norm has a closed form. Cost: about one forward pass over the vertices and knots.

It sees what the density of regions does not see. In overparameterised networks the number of
regions says little about how much the slope changes from one region to the next. The deviation
rises as the network bends instead of interpolating between samples.

Gamba, Chmielewski-Anders, Sullivan, Azizpour, Björkman, "Are All Linear Regions Created Equal?",
AISTATS 2022: the absolute deviation of each logit. Here it is the Euclidean norm over all outputs.
"""

from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_effcx.metrics.path_metric import PathMetric
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.metrics.scoring import Chunk, Scores
from lightning_effcx.network import Network, in_precision, to_precision
from lightning_effcx.paths import Segment
from lightning_effcx.piecewise import Rows, pieces

# Where a difference changes by less than this share, Simpson's rule is exact up to rounding. The
# closed form would lose digits there.
_SHORT = 1e-3


def linear_deviation(network: Network, path: Float[Tensor, "s p ..."]) -> Float[Tensor, " s"]:
    """Return the mean distance of the outputs from the chords; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently. Its operations must be
            affine or piecewise linear in the input. Another one raises `ValueError` with its site.
        path: The paths. Their vertices are the ends of the chords. A path of length 0 scores 0.

    Example:
        >>> path = torch.tensor([[[-3.0], [3.0]]])
        >>> linear_deviation(torch.abs, path)  # the chord is at 3
        tensor([1.5000], dtype=torch.float64)
    """
    check_paths(network, path)
    path = to_precision(path, torch.float64)
    if path.shape[1] == 1:
        return path.new_zeros(len(path))  # one vertex has no chord
    segments = torch.stack([path[:, :-1], path[:, 1:]], 2).flatten(0, 1)
    y = _outputs(network, path.flatten(0, 1)).unflatten(0, path.shape[:2])
    start, end = y[:, :-1].flatten(0, 1), y[:, 1:].flatten(0, 1)

    def deviation(site: str, rows: Rows, values: Tensor) -> Tensor | None:
        if site != "output":
            return None
        chord = torch.lerp(start[rows.path], end[rows.path], rows.position[:, None])
        away = values - chord
        return _mean_norm(away[:-1], away[1:]) * rows.position.diff()

    mean = pieces(network, segments, integrate=deviation).integrals["output"]
    length = torch.linalg.vector_norm((segments[:, 1] - segments[:, 0]).flatten(1), dim=1)
    mean, length = mean.unflatten(0, (len(path), -1)), length.unflatten(0, (len(path), -1))
    total = length.sum(1)
    return (mean * length).sum(1) / torch.where(total > 0, total, 1.0)


def _outputs(network: Network, x: Tensor) -> Tensor:
    """Evaluate the network in the precision of `x`."""
    exact = in_precision(network, x.dtype)
    if exact is not network:
        # A network that casts its input cannot be converted. Then only the exact pass can do it.
        # The pass also knows which of several outputs is measured.
        with torch.no_grad(), suppress(RuntimeError):
            y: object = exact(x)
            if isinstance(y, Tensor) and not y.is_complex():
                return y.flatten(1)
    found: list[Tensor] = []

    def take(site: str, _: Rows, values: Tensor) -> None:
        if site == "output":
            found.append(values)

    pieces(network, x[:, None], integrate=take)  # each sample a path of its own
    return torch.cat(found)


def _mean_norm(a: Float[Tensor, "r k"], b: Float[Tensor, "r k"]) -> Float[Tensor, " r"]:
    """Return the mean of the Euclidean norm on the segment from each `a` to its `b`."""
    step = b - a
    length = torch.linalg.vector_norm(step, dim=1)
    norm_a, norm_b = (torch.linalg.vector_norm(end, dim=1) for end in (a, b))
    short = length <= _SHORT * (norm_a + norm_b)
    along = step / torch.where(length > 0, length, 1.0)[:, None]
    u, v = (
        (a * along).sum(1),
        (b * along).sum(1),
    )  # positions of the ends, from the foot of the perpendicular
    height = torch.linalg.vector_norm(a - u[:, None] * along, dim=1)
    foot = torch.where(height > 0, height, 1.0)  # the second term vanishes with the height
    integral = v * norm_b - u * norm_a + height.square() * ((v / foot).asinh() - (u / foot).asinh())
    simpson = (norm_a + 4 * torch.linalg.vector_norm(a + b, dim=1) / 2 + norm_b) / 6
    return torch.where(short, simpson, integral / torch.where(short, 1.0, 2 * length))


class LinearDeviation(PathMetric):
    """The mean `linear_deviation` over paths.

    Args:
        paths: How to draw paths: a class of `lightning_effcx.paths`, or anything with its methods.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "linear_deviation"
    by_default = Segment(points=2)  # knots between the vertices are found

    def score(self, network: Network, chunk: Chunk) -> Scores:
        return Scores(linear_deviation(network, chunk.x))
