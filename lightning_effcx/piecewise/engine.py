"""The engine: a pass that inserts a row wherever a unit bends between two rows.

At a nonlinearity the operands are brought to the current rows. Rows are inserted where units pass a
kink. There the unit is set to the kink exactly, so that rounding makes no second crossing.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from typing_extensions import override

from lightning_effcx.network import Network
from lightning_effcx.piecewise.confirmation import Claim, claim_between
from lightning_effcx.piecewise.crossings import FindCrossings, find_crossings
from lightning_effcx.piecewise.failures import StoppedError
from lightning_effcx.piecewise.orders import find_swaps
from lightning_effcx.piecewise.passes import Pass
from lightning_effcx.piecewise.rounding import Copies, RoundingError, Scale
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.sides import split
from lightning_effcx.piecewise.winners import count_rounds, find_changes, find_ties
from lightning_effcx.tracing import Operation, OperatorCall, tying

Integrate: TypeAlias = Callable[[str, Rows, Tensor], Tensor | None]
"""Maps a site, the rows so far and the site's values `(r, v)` there to one number for each interval
between neighbouring rows, `(r - 1,)`. The values are affine between rows. It returns `None` for a
site of which no integral is wanted."""

_LEAST = 8  # rows of a pass, whatever they take
_FEWEST_BITS = 32  # of a number: half precision has three digits, so that too many elements tie


class TooLargeError(StoppedError):
    """The activations at all rows take more than the budget.

    Args:
        rows: How many rows there would be, before later operations find more knots.
        fitting: How many fit into the budget.
        bytes: How many bytes the activations take at each row.
    """

    def __init__(self, rows: int, fitting: int, bytes: float) -> None:  # noqa: A002 what it is
        super().__init__(rows, fitting, bytes)
        self.rows = rows
        self.fitting = fitting
        self.bytes = bytes


class IdleError(StoppedError):
    """The outputs do not depend on some sites: the next pass has to leave them out.

    Args:
        sites: Their names.
    """

    def __init__(self, sites: frozenset[str]) -> None:
        super().__init__(sites)
        self.sites = sites


class Knots(NamedTuple):
    """Where units bend, one entry each: the row, the site, the unit, and the index of its kink."""

    row: Tensor
    site: Tensor
    unit: Tensor
    kink: Tensor


class Engine(Pass):
    """A pass over points on paths, refined wherever a unit bends between two of them.

    Attributes:
        flat_sites: The sites of comparisons, which have knots but no values at them.
        integrals: For `input`, each site, and `output`, the path of each interval and its number.
    """

    def __init__(  # noqa: PLR0913 what one pass is told
        self,
        rows: Rows,
        x: Tensor,
        sites: dict[str, int],
        *,
        budget: float,
        idle: frozenset[str] = frozenset(),
        integrate: Integrate | None = None,
        keep: Collection[str] = (),
        find_crossings: FindCrossings = find_crossings,
        is_careful: bool = False,
    ) -> None:
        self._copies = Copies(is_careful=is_careful)
        super().__init__(*self._copies.repeat(rows, x), idle)
        self.steps.blocks = self._copies.blocks
        self._first = x
        self._scale = Scale(x)
        self._find_crossings = find_crossings
        self.sites = sites
        self.flat_sites: set[str] = set()
        self._entered: set[str] = set()
        self.budget = budget
        self.integrate = integrate
        self.integrals: dict[str, tuple[Tensor, Tensor]] = {}
        self._knots: list[tuple[Knots, int]] = []  # with the version that they count rows at
        self._keep = keep
        self._kept: dict[str, tuple[Tensor, int]] = {}

    @override
    def run(self, network: Network) -> Tensor:
        self._visit("input", self.x)
        y = super().run(network)
        idle = frozenset(self._entered - self.needed)
        if idle:
            raise IdleError(idle)
        self._visit("output", y)
        return y

    def claim(self, y: Tensor) -> Claim:
        """Return what the pass says about points between its first rows, given what it returned."""
        first = torch.arange(len(self._first), device=self.x.device)
        claim = claim_between(
            self._copies.rows_without(self.rows),
            self.rows.moved(first, 0),
            self._first,
            self._copies.without(self._by_row(y)),
            self.output,
        )
        return replace(claim, size=self._scale.size)

    def knots(self) -> Knots:
        """Return all knots, with the current indices of their rows, in the order of the rows."""
        nothing = torch.zeros(0, dtype=torch.long, device=self.x.device)
        found = [(nothing,) * 4]
        for knots, version in self._knots:
            found.append((self.rows.moved(knots.row, version), *knots[1:]))
        row, *others = (torch.cat(column) for column in zip(*found, strict=True))
        row, order = row.sort(stable=True)
        return Knots(row, *(column[order] for column in others))

    def values(self) -> dict[str, Tensor]:
        """Return the values of the sites to keep at the current rows, `(r, v)`."""
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
        self._visit(name, values)

    @override
    def _follow(self, call: OperatorCall) -> Any:
        out = super()._follow(call)
        for tensor in self._made(call, out):
            self._scale.see(tensor)
            self._copies.change(tensor)
        return out

    @override
    def _bend(self, call: OperatorCall, name: str) -> Tensor:
        crossed, is_pinned = self._cross(call, name)
        if is_pinned:
            # The operand is ours, so the call may overwrite it: memory takes time.
            func = _in_place_form(call.func, call.name)
            crossed = replace(crossed, func=func)
        return crossed.run()

    @override
    def _split(self, call: OperatorCall, name: str) -> tuple[Tensor, Tensor]:
        self.flat_sites.add(name)
        (target, *_) = call.args
        call, is_pinned = self._cross(call, name)
        if is_pinned:
            origins = self.lineage.of(target)
            self._writes.hold(target, call.args[0], self.rows.version)
            self.lineage.add(origins, target)  # which has other memory now
        return split(call.run(), self._move_between(call).run(), self.rows)

    def _cross(self, call: OperatorCall, name: str) -> tuple[OperatorCall, bool]:
        """Insert rows where units pass kinks.

        Returns:
            The call at these rows; and whether units of its first operand are set to their kinks.
        """
        call = self.followed.bring_call(call, self.rows.version)
        operation = self._read(call)
        z, kinks = self._by_row(operation.z), operation.kinks
        between, at_rows, nearest = self._find_crossings(
            self._copies.without(z),
            kinks,
            self._copies.rows_without(self.rows),
            self._copies.spread(z),
        )
        if self._copies.blocks == 1 and self._scale.is_near(nearest):
            raise RoundingError
        self._record(name, *at_rows)
        is_pinned = len(between.left) > 0
        if is_pinned:
            new = self._insert(between.left, between.fraction)
            self._record(name, new, between.unit, between.kink)
            call = self.followed.bring_call(call, self.rows.version)
            kink = z.new_tensor(kinks)[between.kink]
            pinned = self._pin(self._read(call), call.args[0], new, between.unit, kink)
            call = replace(call, args=(pinned, *call.args[1:]))
        return call, is_pinned

    def _pin(
        self, operation: Operation, first: Tensor, rows: Tensor, unit: Tensor, kink: Tensor
    ) -> Tensor:
        """Return the first operand with units set to their kinks exactly."""
        if not self.followed.depends(first):
            first = first.clone()  # it is the network's; the others were just made by bring
        pinned = first.expand(operation.z.shape).contiguous()
        rows = self._copies.with_copies(rows, self.rows)
        unit, kink = (each.repeat(self._copies.blocks) for each in (unit, kink))
        if operation.bound is not None:
            kink = self._by_row(operation.bound.expand(pinned.shape))[rows, unit]
        self._by_row(pinned)[rows, unit] = kink
        self.followed.versions[pinned] = self.rows.version
        return pinned

    @override
    def _choose(self, call: OperatorCall, name: str) -> Any:
        """Refine until the winner of every window changes at ties only."""
        if torch.finfo(self.x.dtype).bits < _FEWEST_BITS:
            raise tying(name, call.name)
        call = self.followed.bring_call(call, self.rows.version)
        for _ in range(count_rounds(self._read(call))):
            out = call.run()
            left, fraction = self._find_ties(call, out)
            first = self._copies.are_first(left, self.rows)
            left, fraction = left[first], fraction[first]
            if not len(left):
                break
            self._insert(left, fraction)
            call = self.followed.bring_call(call, self.rows.version)
        else:
            raise tying(name, call.name)
        between = self._move_between(call)
        row, window = find_changes(self._read(between), between.run(), self.rows)
        first = self._copies.are_first(row, self.rows)
        row, window = row[first], window[first]
        self._record(name, row, window, torch.zeros_like(window))
        return out

    def _find_ties(self, call: OperatorCall, out: Any) -> tuple[Tensor, Tensor]:
        operation = self._read(call)
        if operation.choice.of != "order":
            return find_ties(operation, out, self.rows)
        between = self._move_between(call)
        return find_swaps(operation, self._read(between), between.run(), self.rows)

    def _move_between(self, call: OperatorCall) -> OperatorCall:
        """Return a call in the middle between each two neighbouring rows."""
        args, kwargs = tree_map(
            lambda a: self._between(a) if self.followed.depends(a) else a, (call.args, call.kwargs)
        )
        return replace(call, args=args, kwargs=kwargs)

    # -- rows

    def _between(self, values: Tensor) -> Tensor:
        """Return what stands in the middle between neighbouring rows."""
        by_row = self._by_row(values)
        between = ((by_row[1:] + by_row[:-1]) / 2).reshape(-1, *values.shape[1:])
        self.followed.versions[between] = self.rows.version
        return between

    def _insert(self, left: Tensor, fraction: Tensor) -> Tensor:
        """Insert rows, and their copies; return the indices of the rows."""
        lefts = self._copies.with_copies(left, self.rows)
        self._fit(len(self.rows.path) + len(lefts))
        return self.rows.insert(lefts, fraction.repeat(self._copies.blocks))[: len(left)]

    def _fit(self, count: int) -> None:
        """Give up where the tensors in use, with `count` rows, would not fit into the budget."""
        versions = self.followed.versions
        used = {t.untyped_storage().data_ptr(): t for t in versions}.values()
        per_row = sum(t.nbytes / self.rows.counts[versions[t]] for t in used)
        per_row += self.steps.bytes_per_row()
        count, per_row = count // self._copies.blocks, per_row * self._copies.blocks
        if count > _LEAST and count * per_row > self.budget:
            raise TooLargeError(count, max(_LEAST, int(self.budget // per_row)), per_row)

    def _record(self, name: str, rows: Tensor, unit: Tensor, kink: Tensor) -> None:
        site = torch.full_like(unit, self.sites[name])
        self._knots.append((Knots(rows, site, unit, kink), self.rows.version))

    def _visit(self, name: str, values: Tensor) -> None:
        if name in self._keep:
            self._kept[name] = values.detach(), self.rows.version  # the network may write there
        if self.integrate is not None:
            rows = self._copies.rows_without(self.rows)
            numbers = self.integrate(name, rows, self._copies.without(self._by_row(values)))
            if numbers is not None:
                joined = rows.joined()
                self.integrals[name] = rows.path[1:][joined], numbers[joined]


def _in_place_form(func: Any, name: str) -> Any:
    """Return the form of a nonlinearity that overwrites its first operand, if there is one."""
    packet = getattr(torch.ops.aten, name + "_", None)
    return getattr(packet, func._overloadname, func)  # noqa: SLF001
