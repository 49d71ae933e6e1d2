"""Parts of paths: if the knots of some paths do not fit into memory, the paths are cut.

Each part has a pass of its own. A pass that does not fit says how many rows it came to. So the
number of passes is known before the first cut, and too many of them are refused.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_effcx.network import Network
from lightning_effcx.piecewise.engine import Engine, TooLargeError
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.tolerances import nearness

PASSES = 1000
"""How many passes are made at most for one call: a pass over a full budget takes about a second."""

_SHORTEST = 1e-9  # of a segment, in float64: between nearer rows there is no cut
_WHERE = 0.4877  # off the middle, so that no symmetry puts a kink there
_STEPS = 2**20  # of a segment, between which cuts lie


def in_parts(
    network: Network, rows: Rows, x: Tensor, engine: Callable[[Rows, Tensor, bool], Engine]
) -> list[Engine]:
    """Run passes over the parts of some paths, few enough that each fits into memory.

    Args:
        network: What is passed through.
        rows: All vertices.
        x: The inputs there.
        engine: Returns the pass over some rows. Its last argument says whether the pass may take
            more memory than others.
    """
    done: list[Engine] = []
    waiting = [(rows, x, False)]
    passes = 0
    while waiting:
        rows, x, is_free = waiting.pop()
        current = engine(rows, x, is_free)
        passes += 1
        try:
            y = current.run(network)
        except TooLargeError as large:
            count = -(-large.rows // large.fitting)
            needed = passes + len(waiting) + count
            if is_free or needed > PASSES:
                raise ValueError(_too_many(large, max(needed, PASSES + 1))) from None
            # Twice as many, since later operations find more knots.
            parts = _cut(current.rows, rows, x, 2 * count)
            waiting += [(*part, len(parts) == 1) for part in reversed(parts)]
        else:
            current.claim(y).confirm(network)
            done.append(current)
    return done


def _too_many(large: TooLargeError, count: int) -> str:
    return (
        f"the paths have at least {large.rows:,} vertices and knots, each of which takes "
        f"{large.bytes / 2**20:,.3g} MB in this network, so finding all linear regions would take "
        f"at least {count:,} passes, but at most {PASSES:,} are made: take shorter or fewer paths, "
        "or estimate from a share of each, such as with LinearRegions(share=0.001)."
    )


def _cut(refined: Rows, rows: Rows, x: Tensor, parts: int) -> list[tuple[Rows, Tensor]]:
    """Cut paths so that each part has about equally many of the rows known now.

    Args:
        refined: The rows that a pass came to.
        rows: Those that it started from.
        x: The inputs at these.
        parts: How many are wanted; there are fewer where rows are too near to each other.
    """
    count = len(refined.path) * len(rows.path) // refined.counts[0]  # without copies of the rows
    left, fraction = (each[:count] for each in refined.origin())
    shortest = max(_SHORTEST, nearness(refined.position.dtype))
    joined, apart = refined.joined()[: count - 1], refined.position.diff()[: count - 1] > shortest
    (places,) = (~joined | apart).nonzero(as_tuple=True)
    if not len(places):
        return [(rows, x)]
    wanted = torch.linspace(0, count - 1, parts + 1, device=places.device)[1:-1]
    chosen = places[torch.searchsorted(places, wanted.long()).clamp(max=len(places) - 1)].unique()
    inside = chosen[joined[chosen]]
    end = torch.where(left[inside + 1] == left[inside], fraction[inside + 1], 1.0)
    cut = Rows(rows.path, rows.position)
    new = cut.insert(left[inside], _within(fraction[inside], end))
    x = cut.bring(x, 0)
    between = cut.moved(left[chosen[~joined[chosen]]], 0)  # after the last row of a path
    stops = torch.cat([new, between, new.new_tensor([len(x) - 1])]).tolist()
    starts = [0, *new.tolist(), *(between + 1).tolist()]
    return [
        (Rows(cut.path[start : stop + 1], cut.position[start : stop + 1]), x[start : stop + 1])
        for start, stop in zip(sorted(starts), sorted(stops), strict=True)
    ]


def _within(start: Tensor, end: Tensor) -> Tensor:
    """Return where to cut between two fractions of a segment.

    Half a step of a grid has few digits, so that a unit which stays exactly on its kink does so at
    the cut as well, and simple fractions, where kinks may be, are on the grid itself.
    """
    where = start.lerp(end, _WHERE)
    rounded = ((where * _STEPS).floor() + 0.5) / _STEPS
    return torch.where((start < rounded) & (rounded < end), rounded, where)
