r"""Trajectory length: how long the image of a path is, layer by layer.

For a path $x(t)$ in input space, the length of its image $z(t)$ after a site is
$\int \|dz/dt\|\,dt$, in units of activation. The identity and every isometry keep the length of the
input; a constant map has length 0; $cf$ has $|c|$ times the length of $f$. It rises as the network
stretches and folds the space between samples, and grows at most as the product of what each layer
adds. Cost: one forward pass over all vertices.

Here it is the sum of the chords between neighbouring vertices, a lower bound that grows with their
number: exact where the image is straight between them, short by the folds that fit between two
vertices otherwise.

Raghu, Poole, Kleinberg, Ganguli, Sohl-Dickstein, "On the Expressive Power of Deep Neural Networks",
ICML 2017, section on trajectory length.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightning_effcx.metrics.base import PathMetric
from lightning_effcx.observe import Network, differentiating
from lightning_effcx.units import Site, listen


def trajectory_length(
    network: Network, path: Float[Tensor, "s p ..."]
) -> dict[str, Float[Tensor, " s"]]:
    """Length of each path's image at `input`, after every site, and at `output`; differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        path: The paths, whose vertices are joined by chords.

    Example:
        >>> path = torch.tensor([[[0.0], [3.0]]])
        >>> trajectory_length(lambda x: torch.cat([x, x.relu()], 1), path)["output"]  # 3 * sqrt(2)
        tensor([4.2426])
    """
    paths, points = path.shape[:2]
    lengths = {"input": _chords(path)}

    def measure(site: Site) -> None:
        if site.output.is_floating_point():  # a comparison has no length
            lengths[site.name] = _chords(site.value.unflatten(0, (paths, points)))

    with differentiating():
        y = listen(network, path.flatten(0, 1), measure)
        lengths["output"] = _chords(y.unflatten(0, (paths, points)))
    return lengths


class TrajectoryLength(PathMetric):
    """Mean length of the paths' images at the output; and at the input and every site.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "trajectory_length"

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, generator
        lengths = trajectory_length(network, x)
        return lengths.pop("output"), lengths


def _chords(points: Tensor) -> Tensor:
    """Sum of the distances between neighbouring points, `(s, p, ...)` to `(s,)`."""
    return torch.linalg.vector_norm(points.diff(dim=1).flatten(2), dim=2).sum(1)
