r"""Linear regions: how many affine pieces the network has along a path, and how often units bend.

A network of affine and piecewise-linear operations is affine on each of its *activation regions*,
the sets of inputs on which every unit stays in one linear piece. `linear_regions` counts how many
of them a path crosses, exactly: one more than there are different knots inside of it. A linear
network scores 1; one ReLU scores 2 on a segment that crosses its hyperplane; $k$ ReLUs with
different thresholds score $k + 1$. Repeated, reversed and differently cut paths score the same.
Cost: about one forward pass over the vertices and knots. Where that is too dear,
`estimated_linear_regions` counts exactly on random parts of each path and scales up, without bias.

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

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from lightning_effcx.metrics.base import PathMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.network import Network, to_precision
from lightning_effcx.options import check_count, check_number
from lightning_effcx.paths import Paths, Segment
from lightning_effcx.piecewise import pieces
from lightning_effcx.tracing import Site, listen, without_units

_WINDOWS = 8  # in which an estimate looks at a path
_PILOT = 1 / 64  # of a path, to see how dense its knots are


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
    check_paths(network, path)
    return pieces(network, path).regions()


def estimated_linear_regions(
    network: Network,
    path: Float[Tensor, "s p ..."],
    *,
    budget: int | None = None,
    share: float | None = None,
    generator: Generator | Draws | None = None,
) -> Float[Tensor, " s"]:
    """Estimate `linear_regions` from a part of each path, unbiased: of given size, or given cost.

    With a `share`, each path is searched in one place of that length, which is drawn. With a
    `budget` of knots, it is searched in eight places at equal distances, the first of which is
    drawn; how long they are follows from the number of knots that such a search finds on a small
    share of the path. Paths with far fewer knots than the budget are counted in full.

    Args:
        network: As in `linear_regions`.
        path: As in `linear_regions`.
        budget: How many knots of each path to find, about.
        share: What share of each path to search, instead.
        generator: Source of the draws, or those of each path.

    Example:
        >>> path = torch.tensor([[[-1.0], [2.0]]])
        >>> estimated_linear_regions(lambda x: torch.relu(x) - torch.relu(x - 1), path, budget=99)
        tensor([3.], dtype=torch.float64)
    """
    check_paths(network, path)
    return _estimated(network, path, budget, share, generator)[0]


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
    per_site = transitions_per_site(network, path)
    return sum(per_site.values(), _none(path))


def transitions_per_site(
    network: Network, path: Float[Tensor, "s p ..."]
) -> dict[str, Int[Tensor, " s"]]:
    """Count the transitions on each path as `transitions` does, for every site that has codes."""
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


class LinearRegions(PathMetric):
    """Mean `linear_regions` per path, and the mean number of knots per site.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        budget: Estimate them from about as many knots of each path, as `estimated_linear_regions`
            does; its name then ends in `_estimated`. By default all are counted.
        share: Estimate them from such a share of each path, instead.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure = "linear_regions"
    by_default = Segment(points=2)  # what is between is found

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
            _check(budget, share)
        self.budget = budget
        self.share = share

    @property
    def name(self) -> str:
        return super().name + "_estimated" * self.estimates

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y
        if self.estimates:
            return _estimated(network, x, self.budget, self.share, draws)
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
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y, draws
        per_site = transitions_per_site(network, x)
        return sum(per_site.values(), _none(x)), per_site


def _estimated(
    network: Network,
    path: Tensor,
    budget: int | None,
    share: float | None,
    generator: Generator | Draws | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Estimate the regions of each path, and its knots at each site."""
    _check(budget, share)
    path = to_precision(path, torch.float64)
    draws = Draws.of(len(path), generator, rows="path")
    first, second = draws.rand(2, dtype=torch.float64).to(path.device).unbind(1)
    windows = 1 if budget is None else _WINDOWS

    def summed(counts: Tensor) -> Tensor:
        return counts.unflatten(0, (-1, 2 * windows)).sum(1)

    if budget is not None:
        pilot = torch.full_like(first, _PILOT)
        knots = summed(pieces(network, _windows(path, first, pilot, windows)).transitions())
        shares = (budget / ((knots + 1) / pilot)).clamp(max=1.0)
    else:
        shares = torch.full_like(first, share or 0.0)
    found = pieces(network, _windows(path, second, shares, windows))
    regions = 1 + summed(found.regions() - 1) / shares
    return regions, {site: summed(found.transitions(site)) / shares for site in found.sites}


def _windows(path: Tensor, start: Tensor, share: Tensor, windows: int) -> Tensor:
    """Cut a share of each path out in equidistant windows; one that runs over the end goes on.

    What is to be cut from `(s, p, ...)`, at positions that are shares of the way, is returned as
    `(s * 2 * windows, p, ...)`: the part before the end and the part after the start, where a part
    has fewer vertices filled up with its ends, which count once.
    """
    last = path.shape[1] - 1
    begin = (start[:, None] + torch.arange(windows, device=path.device) / windows) % 1 * last
    end = begin + share[:, None] / windows * last
    begin = torch.stack([begin, torch.zeros_like(begin)], 2).flatten(1)
    end = torch.stack([end.clamp(max=last), (end - last).clamp(min=0)], 2).flatten(1)
    vertices = torch.arange(last + 1, device=path.device)
    position = torch.minimum(torch.maximum(vertices, begin[..., None]), end[..., None]).flatten(1)
    before = position.long().clamp(max=last - 1)
    fraction = (position - before).reshape(*position.shape, *[1] * (path.dim() - 2))
    rows = torch.arange(len(path), device=path.device)[:, None]
    cut = torch.lerp(path[rows, before], path[rows, before + 1], fraction)
    return cut.unflatten(1, (-1, last + 1)).flatten(0, 1)


def _check(budget: int | None, share: float | None) -> None:
    if (budget is None) == (share is None):
        raise ValueError(
            f"budget={budget}, share={share}: expected one of them, a number of knots of each path "
            "or a share of its length."
        )
    if budget is not None:
        check_count("budget", budget, of=" knot of each path")
    if share is not None:
        expected = "a share of more than 0 and at most 1, the whole path"
        check_number("share", share, lambda given: 0 < given <= 1, expected)


def _none(path: Tensor) -> Tensor:
    return torch.zeros(len(path), dtype=torch.long, device=path.device)
