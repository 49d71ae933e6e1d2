r"""Transitions: how often units change their linear piece along a path, at its vertices.

The code of a unit is the index of the linear piece that its pre-activation is in: off or on for
ReLU, three pieces for hard tanh. Along the vertices of a path, transitions sum the absolute changes
of all codes between neighbours. A change between two vertices that is undone there is missed. So
this is a lower bound, which rises with the number of vertices. It is the sampled sibling of
`linear_regions`, for any network.

Curves such as tanh, sigmoid and GELU have no pieces: the changes of the sign of their
pre-activation count. A network whose nonlinearities are all of another kind has no transitions.
The number rises as a network folds its input to fit. Cost: one forward pass over all vertices.

Raghu, Poole, Kleinberg, Ganguli, Sohl-Dickstein, "On the Expressive Power of Deep Neural Networks",
ICML 2017. Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in
Neural Networks", ICLR 2018, average transitions over closed paths near the data.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_effcx.metrics.path_metric import PathMetric
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.metrics.scoring import Chunk, Scores, total
from lightning_effcx.network import Network
from lightning_effcx.tracing import Site, listen, without_units


def transitions(network: Network, path: Float[Tensor, "s p ..."]) -> Int[Tensor, " s"]:
    """Return the number of transitions of all units on each path; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently.
        path: The paths. Their vertices should lie close together.

    Example:
        >>> path = torch.linspace(-1, 1, 5)[None, :, None]
        >>> transitions(torch.nn.functional.relu, path)  # the kink at 0
        tensor([1])
    """
    return total(transitions_per_site(network, path), path)


def transitions_per_site(
    network: Network, path: Float[Tensor, "s p ..."]
) -> dict[str, Int[Tensor, " s"]]:
    """Return the number of transitions on each path for every site whose units have codes."""
    check_paths(network, path)
    paths, points = path.shape[:2]

    def count(site: Site) -> Tensor | str:
        if site.kind == "other":
            return site.operation
        steps = torch.nn.functional.pad(site.transitions(), (0, 1))  # (s * p)
        return steps.unflatten(0, (paths, points))[:, :-1].sum(1)

    with torch.no_grad():
        sites = listen(network, path.flatten(0, 1), count).sites
    found = {name: counts for name, counts in sites.items() if isinstance(counts, Tensor)}
    if sites and not found:
        raise without_units("a code", sites)
    return found


class Transitions(PathMetric):
    """The mean `transitions` per path, and per site.

    Args:
        paths: How to draw paths: a class of `lightning_effcx.paths`, or anything with its methods.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "transitions"

    def score(self, network: Network, chunk: Chunk) -> Scores:
        per_site = transitions_per_site(network, chunk.x)
        return Scores(total(per_site, chunk.x), sites=per_site)
