"""The engine: runs a network on rows, and refines them wherever a unit bends between two of them.

It sees what the dispatcher sees. Affine operations run as they are, at the latest version of the
rows that their operands belong to. At a nonlinearity its operands are brought to the rows of now,
rows are inserted where units pass a kink, and there the unit is set to the kink exactly, so that
rounding makes no second crossing.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from lightning_effcx.batches import mixes_samples, mixing
from lightning_effcx.envelope import overtakings, successions
from lightning_effcx.observe import Network, differentiating
from lightning_effcx.operations import FRESH, Operation, check_continuous, nonlinearity, tensors
from lightning_effcx.rows import Rows
from lightning_effcx.sites import SiteNames

Measure: TypeAlias = Callable[[str, Rows, Tensor], Tensor | None]
"""Maps a site, the rows so far and its values `(r, v)` there, which are affine between them, to one
number for each interval between neighbours, `(r - 1,)`; or to `None` where it is not concerned."""

_SIZED = frozenset(
    {"expand", "new_full", "new_ones", "new_zeros", "reshape", "unsafe_view", "view"}
)
_ANSWERS = frozenset({"eq", "equal", "local_scalar_dense", "ne"})  # what control flow asks for
_FEW = 32  # rows
_SHORTEST = 1e-9  # of a segment: shorter ones are not cut again, whatever the budget


class TooLargeError(Exception):
    """The activations at all rows take more than the budget."""


class Knots(NamedTuple):
    """Where units bend, one entry each: the rows there, sites, units, and which of their kinks."""

    row: Tensor
    site: Tensor
    unit: Tensor
    kink: Tensor


class Engine(TorchDispatchMode):
    """One pass of a network over rows.

    Attributes:
        rows: The rows as they are refined.
        measured: What `measure` gave, and on which paths, at `input`, each site, and `output`.
    """

    def __init__(  # noqa: PLR0913 what one pass is told
        self,
        rows: Rows,
        x: Tensor,
        sites: dict[str, int],
        *,
        budget: int,
        measure: Measure | None = None,
        keep: Collection[str] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = Rows(rows.path, rows.position)
        with torch.inference_mode(False):  # else the network could not write in place
            self.x = x.clone()
        self.sites = sites
        self.budget = budget
        self.measure = measure
        self.names = SiteNames()
        self.measured: dict[str, tuple[Tensor, Tensor]] = {}
        self._knots: list[tuple[Knots, int]] = []  # with the version that they count rows at
        self._keep = keep
        self._kept: dict[str, tuple[Tensor, int]] = {}
        self.versions = WeakIdKeyDictionary()  # of the tensors that depend on x
        self.versions[self.x] = 0
        self._indices = WeakIdKeyDictionary()  # which element a choice took

    def run(self, network: Network) -> None:
        """Pass all rows through the network."""
        self._measure("input", self.x)
        try:
            with torch.no_grad(), differentiating(), self.names, _Reshapes(self), self:
                y = network(self.x)
        except RuntimeError as error:
            if not self.rows.version:
                raise  # it has nothing to do with the rows that were inserted
            raise ValueError(
                "the network does not go on where rows are inserted, probably since it read the "
                f"batch size before: use -1 for it, or count transitions instead ({error})."
            ) from error
        for output in tree_leaves(y):  # of whatever class
            if isinstance(output, Tensor) and output in self.versions:
                self._measure("output", self.rows.bring(output, self.versions[output]))
                return
        raise ValueError("the network returned no tensor that depends on its input.")

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

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        operands = list(tensors(args, kwargs))
        depends = any(map(self._depends, operands))
        if any(operand in self._indices for operand in operands):
            return self._index(func, args, kwargs)
        if not depends:
            return func(*args, **kwargs)
        if "out" in kwargs:
            self._overwrite(None, kwargs["out"], func.overloadpacket.__name__, 0)
        operation = nonlinearity(func, args, kwargs, self._depends)
        if operation is None:
            return self._affine(func, args, kwargs)
        name = self.names.name(operation.name)
        check_continuous(name, operation)
        if operation.chooses and _is_across_samples(operation):
            raise mixing(name)
        self._fit(len(self.rows.path))
        self.sites.setdefault(name, len(self.sites))
        run = self._choose if operation.chooses else self._bend
        out = self._put(func, args, run(func, args, kwargs, name), name)
        self._measure(name, out if isinstance(out, Tensor) else out[0])
        return out

    def _index(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the indices of what was chosen be rearranged, but nothing else be made of them."""
        alone = not any(map(self._depends, tensors(args, kwargs)))
        out = func(*args, **kwargs) if alone else None
        made = list(tensors(out))
        if not made or any(tensor.is_floating_point() for tensor in made):
            raise _deciding(func.overloadpacket.__name__.strip("_"))
        self._indices.update(dict.fromkeys(made, True))
        return out

    # -- what depends on x

    def _depends(self, argument: Any) -> bool:
        if isinstance(argument, (list, tuple)):
            return any(map(self._depends, argument))
        return isinstance(argument, Tensor) and argument in self.versions

    def _bring(self, arguments: Any, version: int) -> Any:
        """Bring what depends on x to the rows of `version`, and the rest to its precision."""
        if isinstance(arguments, dict):
            return {name: self._bring(value, version) for name, value in arguments.items()}
        if isinstance(arguments, (list, tuple)):
            return type(arguments)([self._bring(argument, version) for argument in arguments])
        if not isinstance(arguments, Tensor):
            return arguments
        if arguments in self.versions:
            brought = self.rows.bring(arguments, self.versions[arguments], version)
            self.versions[brought] = version
            return brought
        return arguments.to(self.x.dtype) if arguments.is_floating_point() else arguments

    def _put(self, func: Any, args: tuple[Any, ...], out: Any, name: str, at: int = -1) -> Any:
        """Register what an operation returned; where it works in place, in the caller's tensor."""
        version = self.rows.version if at < 0 else at
        if func._schema.is_mutable:  # noqa: SLF001
            self._overwrite(args[0], out, name, version)
            out = args[0]
        for tensor in tensors(out):
            if not tensor.numel():
                continue  # such as the statistics that batch normalisation did not take
            if tensor.is_floating_point() or tensor.is_complex():
                # Samples may be in parts: linear layers cut those of several dimensions.
                if not tensor.dim() or len(tensor) % self.rows.counts[version]:
                    raise mixing(name)
                self.versions[tensor] = version
            else:
                self._indices[tensor] = True
        return out

    def _overwrite(self, target: Any, value: Tensor, name: str, version: int) -> None:
        shared = self._sharing(target) if self._depends(target) else []
        if not self._depends(target) or not all(_is_whole(t, target) for t in shared):
            raise ValueError(
                f"site {name!r} writes in place into a part of a tensor, which cannot be followed: "
                "use torch.cat, torch.stack or an operation that is not in place."
            )
        rows = self.rows.counts[self.versions[target]]
        now = self.rows.counts[version]
        value = value.contiguous() if shared else value
        target.set_(value)
        for other in shared:  # such as what a view was taken of
            other.set_(value.view(len(other) // rows * now, *other.shape[1:]))
            self.versions[other] = version

    def _sharing(self, target: Tensor) -> list[Any]:
        """Return the other tensors still in use that share the target's memory."""
        storage = target.untyped_storage().data_ptr()
        others = (t for t in self.versions if t is not target and t.numel())
        return [t for t in others if t.untyped_storage().data_ptr() == storage]

    # -- affine operations

    def _affine(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operator = func.overloadpacket.__name__.strip("_")
        if operator in _ANSWERS or operator.startswith("rand") or _to_integers(func, kwargs):
            raise _deciding(operator)
        if mixes_samples(func, args, self._depends):
            raise mixing(operator)
        used = [a for a in tensors(args, kwargs) if self._depends(a)]
        version = max(self.versions[a] for a in used)
        given, named = self._bring((args, kwargs), version)
        if operator in _SIZED:
            given = (given[0], self.resized(given[1], version), *given[2:])
        if operator == "view":
            out = given[0].reshape(given[1])
        elif operator == "to_copy":  # the pass keeps its own precision
            out = given[0].clone()
        else:
            if func._schema.is_mutable and given[0] is args[0]:  # noqa: SLF001
                given = (given[0].clone(), *given[1:])
            is_convolution = operator == "convolution"
            out = _convolve(func, *given) if is_convolution else func(*given, **named)
        if operator in FRESH and (not out.dim() or len(out) != self.rows.counts[version]):
            return out  # a constant
        return self._put(func, args, out, operator, version)

    def resized(self, size: Any, version: int) -> Any:
        """Correct a batch size that the network read before rows were inserted."""
        if not isinstance(size, (list, tuple)) or not size:
            return size
        for stale in reversed(self.rows.counts[:version]):
            if size[0] == stale:
                return [self.rows.counts[version], *size[1:]]
        return size

    # -- nonlinear operations

    def _bend(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Tensor:
        given, named = self._bring((args, kwargs), self.rows.version)
        operation = self._read(func, given, named)
        z, kinks = self._by_row(operation.z), operation.kinks
        left, unit, kink, fraction = self._crossings(z, kinks, name)
        if len(left):
            new = self._insert(left, fraction)
            self._record(name, new, unit, kink)
            given, named = self._bring((given, named), self.rows.version)
            at = torch.tensor(kinks).to(z)[kink]
            pinned = self._pinned(self._read(func, given, named), given[0], new, unit, at)
            given = (pinned, *given[1:])
            func = _in_place(func, operation.name)  # it is ours, and memory takes time
        return func(*given, **named)

    def _read(self, func: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Operation:
        operation = nonlinearity(func, given, named, self._depends)
        assert operation is not None  # noqa: S101 it was one before its operands were brought here
        return operation

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
        first = first if self._depends(first) else first.clone()  # else it was just made by bring
        pinned = first.expand(operation.z.shape).contiguous()
        if operation.bound is not None:
            kink = self._by_row(operation.bound.expand(pinned.shape))[rows, unit]
        self._by_row(pinned)[rows, unit] = kink
        self.versions[pinned] = self.rows.version
        return pinned

    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        """Refine until the winner of every window changes at ties only."""
        given, named = self._bring((args, kwargs), self.rows.version)
        while True:
            out = func(*given, **named)
            left, fraction = overtakings(self._read(func, given, named), out, self.rows)
            if not len(left):
                break
            self._insert(left, fraction)
            given, named = self._bring((given, named), self.rows.version)
        between, named = tree_map(
            lambda a: self._between(a) if self._depends(a) else a, (given, named)
        )
        operation = self._read(func, between, named)
        row, window = successions(operation, func(*between, **named), self.rows)
        self._record(name, row, window, torch.zeros_like(window))
        return out

    # -- rows

    def _by_row(self, values: Tensor) -> Tensor:
        return values.reshape(len(self.rows.path), -1)

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
        apart = (self.rows.position[-1] - self.rows.position[0]) > _SHORTEST
        if count * per_row > self.budget and (apart or self.rows.path[0] != self.rows.path[-1]):
            raise TooLargeError

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


class _Reshapes(TorchFunctionMode):
    """Corrects the batch size of reshapes, which are checked before they are dispatched."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func in {Tensor.reshape, torch.reshape} and args[0] in self.engine.versions:
            x, *size = args
            if not size or not isinstance(size[0], int):
                (size,) = size or [kwargs["shape"]]
            return func(x, self.engine.resized(size, self.engine.versions[x]))
        return func(*args, **kwargs)


def _is_across_samples(choice: Operation) -> bool:
    """Tell whether a maximum is taken across samples, as it is without dimensions."""
    if "pool" in choice.name:
        return False
    return not choice.dims or 0 in {dim % choice.z.dim() for dim in choice.dims}


def _in_place(func: Any, name: str) -> Any:
    """Return the form of a nonlinearity that overwrites its first operand, if there is one."""
    packet = getattr(torch.ops.aten, name + "_", None)
    return getattr(packet, func._overloadname, func)  # noqa: SLF001


def _convolve(func: Any, x: Tensor, *rest: Any) -> Tensor:
    """Convolve a few rows at a time.

    A convolution unfolds its input, which takes many times as much memory: of few rows it stays in
    the caches, which makes this several times faster than all rows at once, and is soon freed.
    """
    first = func(x[:_FEW], *rest)
    out = first.new_empty(len(x), *first.shape[1:])
    out[:_FEW] = first
    for start in range(_FEW, len(x), _FEW):
        out[start : start + _FEW] = func(x[start : start + _FEW], *rest)
    return out


def _deciding(operator: str) -> ValueError:
    return ValueError(
        f"{operator!r} lets what the network does depend on its input, or on chance, in ways that "
        "are not continuous and piecewise linear: count transitions instead."
    )


def _to_integers(func: Any, kwargs: dict[str, Any]) -> bool:
    dtype = kwargs.get("dtype")
    return func is torch.ops.aten._to_copy.default and not (  # noqa: SLF001
        dtype is None or dtype.is_floating_point or dtype.is_complex
    )


def _is_whole(tensor: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of the same memory are the same numbers in the same order."""
    contiguous = tensor.is_contiguous() and other.is_contiguous()
    same_place = tensor.storage_offset() == other.storage_offset()
    return contiguous and same_place and tensor.numel() == other.numel()
