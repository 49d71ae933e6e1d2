r"""Linear regions: how many affine pieces the network has along a path, and how often units bend.

A network of affine and piecewise-linear operations is affine on each of its *activation regions*,
the sets of inputs on which every unit stays in one linear piece. `linear_regions` counts how many
of them a path crosses, exactly: one more than there are different knots inside of it. A linear
network scores 1; one ReLU scores 2 on a segment that crosses its hyperplane; $k$ ReLUs with
different thresholds score $k + 1$. Repeated, reversed and differently cut paths score the same.
Cost: about one forward pass over the vertices and knots.

`transitions` is the sampled sibling for any network. The code of a unit is the index of the linear
piece of its activation in which its pre-activation lies: off or on for ReLU, three for hard tanh.
Along the vertices of a path, transitions sum the absolute change of all codes between neighbours.
What happens between two vertices and is undone there is missed, so this is a lower bound that grows
with the number of vertices. Curves have no pieces: of tanh, sigmoid, GELU the changes of sign are
counted. Networks whose nonlinearities are all of another sort have no transitions. Cost: one
forward pass over all vertices.

Both rise as a network folds its input to fit, and do not see how *much* its slope changes: in
overparameterised networks density alone says little. Neighbouring regions may share one affine map
where what differs is not used further on; they count as two.

Raghu, Poole, Kleinberg, Ganguli, Sohl-Dickstein, "On the Expressive Power of Deep Neural Networks",
ICML 2017; Novak et al., "Sensitivity and Generalization in Neural Networks", ICLR 2018, which
averages transitions over closed paths near the data; Hanin and Rolnick, "Complexity of Linear
Regions in Deep Networks", ICML 2019, which counts activation regions along lines.
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from lightning_effcx.metrics.base import PathMetric
from lightning_effcx.observe import Network
from lightning_effcx.paths import Segment
from lightning_effcx.pieces import pieces
from lightning_effcx.units import Site, listen, without_units


def linear_regions(network: Network, path: Float[Tensor, "s p ..."]) -> Int[Tensor, " s"]:
    """Count the activation regions that each path crosses, exactly; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently, by operations that are
            affine or piecewise linear in the input. Anything else raises, naming the site.
        path: The paths; their vertices are no boundaries.

    Example:
        >>> path = torch.tensor([[[-1.0], [2.0]]])
        >>> linear_regions(lambda x: torch.relu(x) - torch.relu(x - 1), path)  # kinks at 0 and 1
        tensor([3])
    """
    return pieces(network, path).regions()


def transitions(network: Network, path: Float[Tensor, "s p ..."]) -> Int[Tensor, " s"]:
    """Count the transitions of all units between the vertices of each path; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        path: The paths; the vertices should lie close together.

    Example:
        >>> path = torch.linspace(-1, 1, 5)[None, :, None]
        >>> transitions(torch.nn.functional.relu, path)  # the kink at 0
        tensor([1])
    """
    return sum(transitions_per_site(network, path).values(), _none(path))


def transitions_per_site(
    network: Network, path: Float[Tensor, "s p ..."]
) -> dict[str, Int[Tensor, " s"]]:
    """Count the transitions on each path as `transitions` does, for every site that has codes."""
    found: dict[str, Tensor] = {}
    others: list[str] = []
    paths, points = path.shape[:2]

    def count(site: Site) -> None:
        if site.kind == "other":
            others.append(f"{site.name} ({site.operation})")
            return
        steps = torch.nn.functional.pad(site.transitions(), (0, 1))  # (s * p)
        found[site.name] = steps.unflatten(0, (paths, points))[:, :-1].sum(1)

    with torch.no_grad():
        listen(network, path.flatten(0, 1), count)
    if others and not found:
        raise without_units("a code", others)
    return found


class LinearRegions(PathMetric):
    """Mean `linear_regions` per path, and the mean number of knots per site.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "linear_regions"
    by_default = Segment(points=2)  # what is between is found

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, generator
        found = pieces(network, x)
        return found.regions(), {site: found.transitions(site) for site in found.sites}


class Transitions(PathMetric):
    """Mean `transitions` per path, and per site.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "transitions"

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, generator
        per_site = transitions_per_site(network, x)
        return sum(per_site.values(), _none(x)), per_site


def _none(path: Tensor) -> Tensor:
    return torch.zeros(len(path), dtype=torch.long, device=path.device)
