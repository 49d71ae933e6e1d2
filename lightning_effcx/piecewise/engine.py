"""The engine: runs a network on rows, and refines them wherever a unit bends between two of them.

At a nonlinearity its operands are brought to the rows of now, rows are inserted where units pass a
kink, and there the unit is set to the kink exactly, so that rounding makes no second crossing.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from typing_extensions import override

from lightning_effcx.network import Network
from lightning_effcx.piecewise.envelope import overtakings, successions
from lightning_effcx.piecewise.passes import Pass
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.tracing import Operation

Measure: TypeAlias = Callable[[str, Rows, Tensor], Tensor | None]
"""Maps a site, the rows so far and its values `(r, v)` there, which are affine between them, to one
number for each interval between neighbours, `(r - 1,)`; or to `None` where it is not concerned."""

_LEAST = 8  # rows of a pass, whatever they take


class TooLargeError(Exception):
    """The activations at all rows take more than the budget.

    Args:
        rows: How many rows there would be, before later operations find more knots.
        fitting: How many fit into the budget.
        bytes: What the activations take at each.
    """

    def __init__(self, rows: int, fitting: int, bytes: float) -> None:  # noqa: A002 what it is
        super().__init__(rows, fitting, bytes)
        self.rows = rows
        self.fitting = fitting
        self.bytes = bytes


class IdleError(Exception):
    """The outputs do not depend on some sites, which are to be left out.

    Args:
        sites: Their names.
    """

    def __init__(self, sites: frozenset[str]) -> None:
        super().__init__(sites)
        self.sites = sites


class Knots(NamedTuple):
    """Where units bend, one entry each: the rows there, sites, units, and which of their kinks."""

    row: Tensor
    site: Tensor
    unit: Tensor
    kink: Tensor


class Engine(Pass):
    """A pass over points on paths, refined wherever a unit bends between two of them.

    Attributes:
        measured: What `measure` gave, and on which paths, at `input`, each site, and `output`.
    """

    def __init__(  # noqa: PLR0913 what one pass is told
        self,
        rows: Rows,
        x: Tensor,
        sites: dict[str, int],
        *,
        budget: float,
        idle: frozenset[str] = frozenset(),
        measure: Measure | None = None,
        keep: Collection[str] = (),
    ) -> None:
        super().__init__(rows, x, idle)
        self.sites = sites
        self._entered: set[str] = set()
        self.budget = budget
        self.measure = measure
        self.measured: dict[str, tuple[Tensor, Tensor]] = {}
        self._knots: list[tuple[Knots, int]] = []  # with the version that they count rows at
        self._keep = keep
        self._kept: dict[str, tuple[Tensor, int]] = {}

    @override
    def run(self, network: Network) -> Tensor:
        self._measure("input", self.x)
        y = super().run(network)
        idle = frozenset(self._entered - self.needed)
        if idle:
            raise IdleError(idle)
        self._measure("output", y)
        return y

    def knots(self) -> Knots:
        """Return all knots found, by the rows of now."""
        nothing = torch.zeros(0, dtype=torch.long, device=self.x.device)
        found = [(nothing,) * 4]
        for knots, version in self._knots:
            found.append((self.rows.moved(knots.row, version), *knots[1:]))
        return Knots(*(torch.cat(column) for column in zip(*found, strict=True)))

    def values(self) -> dict[str, Tensor]:
        """Return the values of the sites to keep at the rows of now, `(r, v)`."""
        brought = {name: self.rows.bring(*kept) for name, kept in self._kept.items()}
        return {name: self._by_row(values) for name, values in brought.items()}

    # -- nonlinear operations

    @override
    def _enter(self, name: str) -> None:
        self._fit(len(self.rows.path))
        self.sites.setdefault(name, len(self.sites))
        self._entered.add(name)

    @override
    def _leave(self, name: str, values: Tensor) -> None:
        self._measure(name, values)

    @override
    def _bend(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Tensor:
        given, named = self.followed.bring((args, kwargs), self.rows.version)
        operation = self._read(func, given, named)
        z, kinks = self._by_row(operation.z), operation.kinks
        left, unit, kink, fraction = self._crossings(z, kinks, name)
        if len(left):
            new = self._insert(left, fraction)
            self._record(name, new, unit, kink)
            given, named = self.followed.bring((given, named), self.rows.version)
            at = z.new_tensor(kinks)[kink]
            pinned = self._pinned(self._read(func, given, named), given[0], new, unit, at)
            given = (pinned, *given[1:])
            func = _in_place(func, operation.name)  # it is ours, and memory takes time
        return func(*given, **named)

    def _crossings(
        self, z: Tensor, kinks: tuple[float, ...], name: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return after which rows, and how far, which units pass which kinks between two rows.

        Units that pass a kink at a row, where they are on it, are recorded; those that only touch
        it are not.
        """
        joined = self.rows.joined()
        found = []
        for index, kink in enumerate(kinks):
            above = z > kink
            left, unit = (above[1:] != above[:-1]).nonzero(as_tuple=True)
            inside = joined[left]
            left, unit = left[inside], unit[inside]
            start, end = z[left, unit], z[left + 1, unit]
            between = (start != kink) & (end != kink)
            row, on_kink = self._on_kink(
                above, left[~between], unit[~between], end[~between] == kink
            )
            self._record(name, row, on_kink, torch.full_like(row, index))
            left, unit, start, end = (t[between] for t in (left, unit, start, end))
            found.append((left, unit, torch.full_like(left, index), (kink - start) / (end - start)))
        left, unit, which, fraction = (torch.cat(column) for column in zip(*found, strict=True))
        return left, unit, which, fraction

    def _on_kink(
        self, above: Tensor, left: Tensor, unit: Tensor, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return rows and units that are on a kink there, after they were above it, or before."""
        row = left + ends.long()
        beyond = row + 2 * ends.long() - 1  # the neighbour on the other side
        joined = (beyond >= 0) & (beyond < len(above))
        row, unit, beyond = row[joined], unit[joined], beyond[joined]
        passes = (self.rows.path[row] == self.rows.path[beyond]) & ~above[beyond, unit]
        return row[passes], unit[passes]

    def _pinned(
        self, operation: Operation, first: Tensor, rows: Tensor, unit: Tensor, kink: Tensor
    ) -> Tensor:
        """Return the first operand, its units set to their kinks exactly."""
        first = (
            first if self.followed.depends(first) else first.clone()
        )  # else it was just made by bring
        pinned = first.expand(operation.z.shape).contiguous()
        if operation.bound is not None:
            kink = self._by_row(operation.bound.expand(pinned.shape))[rows, unit]
        self._by_row(pinned)[rows, unit] = kink
        self.versions[pinned] = self.rows.version
        return pinned

    @override
    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        """Refine until the winner of every window changes at ties only."""
        given, named = self.followed.bring((args, kwargs), self.rows.version)
        while True:
            out = func(*given, **named)
            left, fraction = overtakings(self._read(func, given, named), out, self.rows)
            if not len(left):
                break
            self._insert(left, fraction)
            given, named = self.followed.bring((given, named), self.rows.version)
        between, named = tree_map(
            lambda a: self._between(a) if self.followed.depends(a) else a, (given, named)
        )
        operation = self._read(func, between, named)
        row, window = successions(operation, func(*between, **named), self.rows)
        self._record(name, row, window, torch.zeros_like(window))
        return out

    # -- rows

    def _between(self, values: Tensor) -> Tensor:
        """Return what stands in the middle between neighbouring rows."""
        by_row = self._by_row(values)
        between = ((by_row[1:] + by_row[:-1]) / 2).reshape(-1, *values.shape[1:])
        self.versions[between] = self.rows.version
        return between

    def _insert(self, left: Tensor, fraction: Tensor) -> Tensor:
        self._fit(len(self.rows.path) + len(left))
        return self.rows.insert(left, fraction)

    def _fit(self, count: int) -> None:
        """Give up where the tensors in use, with `count` rows, would not fit into the budget."""
        used = {t.untyped_storage().data_ptr(): t for t in self.versions}.values()
        per_row = sum(t.nbytes / self.rows.counts[self.versions[t]] for t in used)
        if count > _LEAST and count * per_row > self.budget:
            raise TooLargeError(count, max(_LEAST, int(self.budget // per_row)), per_row)

    def _record(self, name: str, rows: Tensor, unit: Tensor, kink: Tensor) -> None:
        site = torch.full_like(unit, self.sites[name])
        self._knots.append((Knots(rows, site, unit, kink), self.rows.version))

    def _measure(self, name: str, values: Tensor) -> None:
        if name in self._keep:
            self._kept[name] = values.detach(), self.rows.version  # the network may write there
        if self.measure is not None:
            measured = self.measure(name, self.rows, self._by_row(values))
            if measured is not None:
                joined = self.rows.joined()
                self.measured[name] = self.rows.path[1:][joined], measured[joined]


class Rehearsal(Engine):
    """A pass over two equal rows that inserts one where the first unit could bend, to see it go on.

    Args:
        x: One sample, `(1, ...)`.
    """

    def __init__(self, x: Tensor) -> None:
        position = torch.arange(2).to(x)
        rows = Rows(torch.zeros_like(position, dtype=torch.long), position)
        super().__init__(rows, x.expand(2, *x.shape[1:]), {}, budget=math.inf)

    @override
    def _crossings(
        self, z: Tensor, kinks: tuple[float, ...], name: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = torch.zeros(int(not self.rows.version), dtype=torch.long, device=z.device)
        return first, first, first, torch.full_like(first, 0.5, dtype=self.rows.position.dtype)


def _in_place(func: Any, name: str) -> Any:
    """Return the form of a nonlinearity that overwrites its first operand, if there is one."""
    packet = getattr(torch.ops.aten, name + "_", None)
    return getattr(packet, func._overloadname, func)  # noqa: SLF001
