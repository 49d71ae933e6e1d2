"""Lines: the exact pieces of a piecewise-linear network along polylines, found in one pass.

The rows of the batch are points on the paths (`rows.py`). Between two neighbouring rows, every
pre-activation is affine. So if a unit passes a kink there, linear interpolation gives the exact
position. The pass inserts a row at this position, and sets the unit's pre-activation to the kink.
All other operations are affine, so their values at the new row are exact, too. The cost is about
that of one forward pass over the vertices and the knots. At the end, a plain
evaluation at one point of each segment confirms the outputs (`confirmation.py`). On paths with few
knots it costs as much as the pass.

A unit is above a kink if its pre-activation is strictly greater than the kink. A *knot* is a
position inside a path at which a unit changes from not above to above, or back. A unit that only
touches a kink has no knot there. A unit that stays on its kink, up to rounding, is not above it
(`rounding.py`). Repeated vertices count once. Counts do not depend on the direction of a path, nor
on how it is cut.

A window of max pooling is a unit, and so is each position of what a sort or a running maximum
returns. It has a knot where the element that it picks changes. So two elements that swap in a sort
make two knots, at one position. Elements that are equal along a stretch make none.

The sampling of Hanin and Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019, and
the exact line restrictions of Sotoudeh and Thakur, "Computing Linear Restrictions of Neural
Networks", NeurIPS 2019, are for sequences of layers; here any graph of operations will do.
"""

import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_effcx.network import Network, in_precision, to_precision
from lightning_effcx.piecewise.crossings import cross_once
from lightning_effcx.piecewise.engine import Engine, IdleError, Integrate
from lightning_effcx.piecewise.jump_check import check_jumps
from lightning_effcx.piecewise.path_parts import in_parts
from lightning_effcx.piecewise.rounding import RoundingError
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.tolerances import nearness

BUDGET = 2**28
"""Bytes that the activations of one pass may take, unless eight rows take more."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Every knot on some paths. A knot at which several units bend has one entry for each unit.

    Attributes:
        path: The index of the path, `(k,)`; ascending.
        position: The position on the path, `(k,)`: the index of a vertex, plus the fraction of the
            way to the next vertex; ascending on each path.
        arc_length: The length of the path from its start to the knot, in units of input, `(k,)`.
        site: The index in `sites` of the nonlinearity, `(k,)`.
        unit: The index of the unit among those of its site, flattened, `(k,)`.
        kink: The index of the kink among the kinks of the unit, which ascend, `(k,)`; 0 for a
            maximum, a minimum, and what is picked by rank.
        sites: The names of the nonlinearities, in order of execution.
        paths: The number of paths.
        values: For each site in `keep`, its outputs at the knots, flattened, `(k, v)`.
        integrals: For each site, and `input` and `output`, the sum over the intervals of each path,
            `(s,)`, of what `integrate` returned.
    """

    path: Tensor
    position: Tensor
    arc_length: Tensor
    site: Tensor
    unit: Tensor
    kink: Tensor
    sites: tuple[str, ...]
    paths: int
    values: dict[str, Tensor]
    integrals: dict[str, Tensor]

    def transitions(self, site: str | None = None) -> Int[Tensor, " s"]:
        """Count the knots on each path, of all units or of the units at one site."""
        chosen = slice(None) if site is None else self.site == self.sites.index(site)
        return self.path[chosen].bincount(minlength=self.paths)

    def regions(self, site: str | None = None) -> Int[Tensor, " s"]:
        """Count the pieces of each path: one more than it has different knots.

        Knots that are closer than rounding, 10^-12 of a segment in float64, count as one, at which
        several units bend.

        Args:
            site: The site whose knots count. By default the knots of all sites count.
        """
        chosen = slice(None) if site is None else self.site == self.sites.index(site)
        path, position = self.path[chosen], self.position[chosen]
        if not len(path):
            return torch.ones(self.paths, dtype=torch.long, device=path.device)
        apart = (position.diff() > nearness(position.dtype)) | (path.diff() > 0)
        first = torch.cat([apart.new_ones(1), apart])
        return 1 + path[first].bincount(minlength=self.paths)


def pieces(  # noqa: PLR0913 each is one thing that users may choose
    network: Network,
    path: Float[Tensor, "s p ..."],
    *,
    dtype: torch.dtype = torch.float64,
    budget: int = BUDGET,
    keep: Collection[str] = (),
    integrate: Integrate | None = None,
) -> Pieces:
    """Find every knot of `network` on each path. The result is not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently. Its operations must
            be affine or piecewise linear in the input.
        path: The paths.
        dtype: The precision of the pass. Parameters are cast to it when they are used.
        budget: How many bytes the activations may take. Operations make copies while they run, so
            the peak is up to four times as much. Paths with too many knots for the budget are cut
            into parts, which are done one after the other. A path that would need more than a
            thousand passes is refused.
        keep: The sites whose values at the knots are wanted; `input` and `output` are possible,
            too. The values take memory that grows with the number of knots.
        integrate: Given a site's name, rows, and the site's values `(r, v)` there, returns one
            number for each interval between rows, `(r - 1,)`. The values are affine on each
            interval. The result has the sums in `integrals`.

    Example:
        >>> path = torch.tensor([[[-1.0], [3.0]]])
        >>> found = pieces(lambda x: torch.relu(x).clamp(max=1), path, keep=["output"])
        >>> found.arc_length, found.values["output"].flatten()  # the kinks at 0 and 1
        (tensor([1., 2.], dtype=torch.float64), tensor([0., 1.], dtype=torch.float64))
    """
    network = in_precision(network, dtype)
    path = to_precision(path, dtype)
    kept = _kept(path)
    rows, x = _start(path, kept)
    idle: frozenset[str] = frozenset()
    is_careful = False
    while True:
        sites: dict[str, int] = {}

        def engine(rows: Rows, x: Tensor, is_free: bool) -> Engine:  # noqa: FBT001 one of two
            return Engine(
                rows,
                x,
                sites,  # noqa: B023 used at once, as the two below
                budget=max(budget, BUDGET) if is_free else budget,
                idle=idle,  # noqa: B023
                integrate=integrate,
                keep=keep,
                is_careful=is_careful,  # noqa: B023
            )

        try:
            found = in_parts(network, rows, x, engine)
        except IdleError as error:
            # Only the end of a pass tells that the outputs do not depend on some sites. Their
            # knots do not count, so another pass runs without them.
            idle |= error.sites
        except RoundingError:
            is_careful = True
        else:
            return _gathered(found, path, kept, tuple(sites), keep)


def check_piecewise_linear(network: Network, x: Float[Tensor, "n ..."]) -> None:
    """Raise the error with which `pieces` would refuse a network; one pass over one sample.

    A network that compares is also followed on a short path. Elsewhere it may still jump: only
    `pieces` sees that.
    """
    x = to_precision(x[:2], torch.float64)
    network = in_precision(network, x.dtype)
    first = x[:1]
    position = torch.arange(2).to(first)
    rows = Rows(torch.zeros_like(position, dtype=torch.long), position)
    twice = first.expand(2, *x.shape[1:])
    engine = Engine(rows, twice, {}, budget=math.inf, find_crossings=cross_once)
    with suppress(IdleError):  # raised at the end of a pass, so nothing was refused
        engine.run(network)
    if engine.steps.were_seen:
        check_jumps(network, x)


def _gathered(
    parts: list[Engine],
    path: Tensor,
    kept: Tensor,
    sites: tuple[str, ...],
    keep: Collection[str],
) -> Pieces:
    """Join the knots of all parts of the paths."""
    known = {"input", *sites, "output"}.difference(*(part.flat_sites for part in parts))
    for name in keep:
        if name not in known:
            raise ValueError(f"keep has {name!r}, expected some of {', '.join(sorted(known))}.")
    knots = [part.knots() for part in parts]  # parts follow the paths, and so do their rows
    rows = [(p.rows.path[k.row], p.rows.position[k.row]) for p, k in zip(parts, knots, strict=True)]
    where, position = (torch.cat(column) for column in zip(*rows, strict=True))
    position = _at_vertices(position, where, kept)
    _, site, unit, kink = (torch.cat(column) for column in zip(*knots, strict=True))
    values = [part.values() for part in parts]
    return Pieces(
        where,
        position,
        _arc_length(path, where, position),
        site,
        unit,
        kink,
        sites,
        len(path),
        {
            name: torch.cat([v[name][k.row] for v, k in zip(values, knots, strict=True)])
            for name in keep
        },
        _summed([part.integrals for part in parts], len(path)),
    )


def _arc_length(path: Tensor, where: Tensor, position: Tensor) -> Tensor:
    """Return the lengths of the paths from their starts to the positions."""
    segments = torch.linalg.vector_norm(path.diff(dim=1).flatten(2), dim=2)
    segments = torch.nn.functional.pad(segments, (1, 1))  # none before the first vertex
    before = position.long()
    start = segments.cumsum(1)[where, before]
    return start + segments[where, before + 1] * (position - before)


def _summed(parts: list[dict[str, tuple[Tensor, Tensor]]], paths: int) -> dict[str, Tensor]:
    """Add up the numbers of the intervals of each path."""
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, (path, numbers) in part.items():
            total.setdefault(name, numbers.new_zeros(paths)).index_add_(0, path, numbers)
    for name, sums in total.items():
        if not sums.isfinite().all():
            raise ValueError(
                f"the values at {name!r} are infinite or not numbers on some path, so they have no "
                "length: measure networks whose values are finite, or linear_regions."
            )
    return total


def _kept(path: Tensor) -> Tensor:
    """Tell which vertices differ from the vertex before, `(s, p)`."""
    moves = (path[:, 1:] != path[:, :-1]).flatten(2).any(2)
    return torch.cat([moves.new_ones(len(path), 1), moves], 1)


def _start(path: Tensor, kept: Tensor) -> tuple[Rows, Tensor]:
    """Return the rows of all vertices without repetitions, and the inputs there.

    The positions of the rows count the vertices that are kept.
    """
    where, _ = kept.nonzero(as_tuple=True)
    position = (kept.cumsum(1) - 1)[kept]
    return Rows(where, position.to(path.dtype)), path[kept]


def _at_vertices(position: Tensor, where: Tensor, kept: Tensor) -> Tensor:
    """Turn positions among the kept vertices into positions among all vertices."""
    ordinal = kept.cumsum(1) - 1
    index = torch.arange(kept.shape[1], device=kept.device).expand_as(ordinal)
    last = torch.zeros_like(index).scatter_reduce(1, ordinal, index, "amax")
    before = position.floor()
    return position + (last[where, before.long()] - before)
