"""Estimates of the number of linear regions along a path, from exact counts on random parts of it.

The parts are placed uniformly on the path, as if its end were joined to its start. So each point of
the path is in a part with the same probability, and the number of knots in the parts, divided by
their share of the path, is unbiased.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_paths
from lightning_effcx.metrics.scoring import Scores
from lightning_effcx.network import Network, to_precision
from lightning_effcx.options import check_count, check_number
from lightning_effcx.piecewise import pieces

_WINDOWS = 8  # parts of a path in which an estimate with a budget looks for knots
_PILOT = 1 / 64  # share of a path on which it first looks how dense the knots are


def estimated_linear_regions(
    network: Network,
    path: Float[Tensor, "s p ..."],
    *,
    budget: int | None = None,
    share: float | None = None,
    generator: Generator | Draws | None = None,
) -> Float[Tensor, " s"]:
    """Estimate `linear_regions` from a part of each path, without bias; not differentiable.

    With a `share`, one random part of that length is searched for knots. With a `budget` of knots,
    eight parts at equal distances are searched, from a random start. Their length follows from the
    number of knots that a first search finds on 1/64 of the path. A path with far fewer knots than
    the budget is counted in full.

    Args:
        network: As in `linear_regions`.
        path: As in `linear_regions`.
        budget: About how many knots of each path to find.
        share: The share of each path to search, instead of a budget.
        generator: The source of the random places, or the draws of each path.

    Example:
        >>> path = torch.tensor([[[-1.0], [2.0]]])
        >>> estimated_linear_regions(lambda x: torch.relu(x) - torch.relu(x - 1), path, budget=99)
        tensor([3.], dtype=torch.float64)
    """
    check_paths(network, path)
    check_effort(budget, share)
    draws = Draws.of(len(path), generator, rows="path")
    return estimate_regions(network, path, budget, share, draws).value


def check_effort(budget: int | None, share: float | None) -> None:
    """Refuse anything but one of the two: a number of knots, or a share of the path."""
    if (budget is None) == (share is None):
        raise ValueError(
            f"budget={budget}, share={share}: expected one of the two, a number of knots of each "
            "path or a share of its length."
        )
    if budget is not None:
        check_count("budget", budget, of=" knot of each path")
    if share is not None:
        expected = "a share of more than 0 and at most 1, the whole path"
        check_number("share", share, lambda given: 0 < given <= 1, expected)


def estimate_regions(
    network: Network, path: Tensor, budget: int | None, share: float | None, draws: Draws
) -> Scores:
    """Estimate the regions of each path, and its knots at each site."""
    path = to_precision(path, torch.float64)
    first, second = draws.rand(2, dtype=path.dtype).to(path.device).unbind(1)
    windows = 1 if budget is None else _WINDOWS

    def summed(counts: Tensor) -> Tensor:
        return counts.unflatten(0, (-1, 2 * windows)).sum(1)

    shares = torch.ones_like(first)
    if share is not None:
        shares = shares * share
    if budget is not None:
        pilot = torch.full_like(first, _PILOT)
        knots = summed(pieces(network, _windows(path, first, pilot, windows)).transitions())
        shares = (budget / ((knots + 1) / pilot)).clamp(max=1.0)
    found = pieces(network, _windows(path, second, shares, windows))
    regions = 1 + summed(found.regions() - 1) / shares
    return Scores(regions, sites={s: summed(found.transitions(s)) / shares for s in found.sites})


def _windows(path: Tensor, start: Tensor, share: Tensor, windows: int) -> Tensor:
    """Cut a share of each path out, in windows at equal distances.

    A window that exceeds the end of the path continues at its start, so it has two parts. Each part
    is padded to `p` vertices by repeating its ends. A repeated vertex adds no knots.

    Args:
        path: The paths, `(s, p, ...)`.
        start: Where the first window begins, as a share of the path, `(s,)`.
        share: The length of all windows together, as a share of the path, `(s,)`.
        windows: The number of windows.

    Returns:
        Both parts of each window, `(s * windows * 2, p, ...)`.
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
