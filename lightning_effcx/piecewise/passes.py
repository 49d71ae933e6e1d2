"""Passes: run a network at the dispatcher, and follow what depends on its input.

Below Python all spellings of an operation look the same. Affine operations run as they are, at the
latest version of the rows that their operands belong to. What happens at a nonlinearity is for
subclasses. What is not piecewise linear, or does not treat each row by itself, is refused by name
if the outputs depend on it. Whether they do is known at the end only, so until then it is evaluated
beside the pass (`beside.py`), and so is all that follows from it.
"""

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from lightning_effcx.network import Network, differentiating
from lightning_effcx.piecewise.beside import SIZED, Beside, to_integers
from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.piecewise.rewrites import Rewrites, writes
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.tracing import (
    FRESH,
    CurveError,
    Leaving,
    Lineage,
    Operation,
    RefusedError,
    SiteNames,
    check_continuous,
    deciding,
    mixes_samples,
    mixing,
    nonlinearity,
    tensors,
)

_ANSWERS = frozenset({"eq", "equal", "local_scalar_dense", "ne"})  # what control flow asks for
_FEW = 32  # rows


class Pass(TorchDispatchMode):
    """One pass of a network over rows, which may be refined on the way.

    Args:
        rows: The rows.
        x: The inputs there, in the precision of the pass.
        idle: Sites that the outputs are known not to depend on.

    Attributes:
        rows: The rows as they are refined.
        versions: The version of the rows of each tensor that depends on `x` and is followed.
        needed: After the pass, the sites that the outputs depend on, among other origins.
    """

    def __init__(self, rows: Rows, x: Tensor, idle: frozenset[str] = frozenset()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = Rows(rows.path, rows.position)
        with torch.inference_mode(False):  # else the network could not write in place
            self.x = x.clone()
        self.names = SiteNames()
        self.followed = Followed(self.rows, self.x)
        self.versions = self.followed.versions
        self.idle = idle
        self.needed: frozenset[Any] = frozenset()
        self.lineage = Lineage()
        self.lineage.add(frozenset({"input"}), self.x)
        self._beside = Beside(self.rows, self.versions, self.x.dtype, self.lineage)
        self._refused: list[RefusedError] = []
        self._stale = False
        self._origins: frozenset[Any] = frozenset()  # of what runs now

    def run(self, network: Network) -> Tensor:
        """Pass all rows through the network; return its outputs at the rows of the end."""
        try:
            with (
                torch.no_grad(),
                differentiating(),
                self.names,
                Rewrites(self.followed.depends, self.followed.resized, self._failed),
                Leaving(self._read_by_network),
                self,
            ):
                y = network(self.x)
        except RuntimeError as error:
            if self._refused:
                raise self._refusal(self._refused) from error
            if not self.rows.version:
                raise  # it has nothing to do with the rows that were inserted
            raise ValueError(self._stuck(error)) from error
        for output in tree_leaves(y):  # of whatever class
            if isinstance(output, Tensor) and (
                self.followed.depends(output) or self.lineage.of(output)
            ):
                return self._reached(output)
        raise ValueError("the network returned no tensor that depends on its input.")

    def _reached(self, output: Tensor) -> Tensor:
        """Return the outputs at the rows of the end, or say what cannot be followed in them."""
        self.needed = self.lineage.needed(output)
        refused = [refusal for refusal in self._refused if refusal in self.needed]
        if refused:
            raise self._refusal(refused)
        return self.rows.bring(output, self.versions[output])

    @staticmethod
    def _refusal(refused: list[RefusedError]) -> RefusedError:
        """Choose what to say of several refusals: a curve first, which would stay in any case."""
        curves = (refusal for refusal in refused if isinstance(refusal, CurveError))
        return next(curves, refused[0])

    @abstractmethod
    def _bend(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Tensor:
        """Return what units with kinks make of all rows, of which there may be more afterwards."""

    @abstractmethod
    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        """Return what a maximum makes of all rows, of which there may be more afterwards."""

    def _enter(self, name: str) -> None:
        """Come to a nonlinearity."""

    def _leave(self, name: str, values: Tensor) -> None:
        """Go on from a nonlinearity with these values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        operands = list(tensors(args, kwargs))
        self._origins = self.lineage.of(operands)
        if not self._origins and not any(map(self.followed.depends, operands)):
            return func(*args, **kwargs)
        try:
            out = self._run(func, args, kwargs)
        except RuntimeError:
            self._fail(args, kwargs)
            raise
        self.lineage.ran(func, args, kwargs, out, self._origins)
        if self._is_beside(self._origins):
            self.lineage.add(self._origins, out)  # also of noise that has only the shape of x
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator: follow it, or evaluate it beside the pass."""
        if not self._is_beside(self._origins):
            try:
                return self._follow(func, args, kwargs)
            except RefusedError as refusal:
                self._refuse(refusal)
        else:
            self._look(func, args, kwargs)
        out = self._beside(func, args, kwargs)
        if not any(True for _ in tensors(out)):  # a number, by which the network may decide
            operator = func.overloadpacket.__name__.strip("_")
            refused = [refusal for refusal in self._refused if refusal in self._origins]
            raise self._refusal(refused or [deciding(operator)])
        return out

    def _is_beside(self, origins: frozenset[Any]) -> bool:
        return not origins.isdisjoint(self.idle) or not origins.isdisjoint(self._refused)

    def _read_by_network(self, argument: Any, reader: str) -> None:
        """Note that the network reads numbers itself: what it makes of them cannot be followed."""
        if any(map(self.followed.depends, tensors(argument))):
            refusal = deciding(reader)
            self._refused.append(refusal)
            self.lineage.asked |= {refusal}
        self.lineage.read(argument, reader)

    def _refuse(self, refusal: RefusedError) -> None:
        self._refused.append(refusal)
        self._origins |= {refusal}

    def _look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Name a nonlinearity beside the pass, as it is named where it is followed."""
        if not any(map(self._is_number, tensors(args, kwargs))):
            return
        operation = nonlinearity(func, args, kwargs, self._is_number)
        if operation is None:
            return
        name = self.names.name(operation.name)
        self._origins |= {name}
        try:
            check_continuous(name, operation)
        except RefusedError as refusal:
            self._refuse(refusal)

    def _is_number(self, argument: Any) -> bool:
        """Tell whether an argument depends on the input and holds numbers, no truth values."""
        if isinstance(argument, (list, tuple)):
            return any(map(self._is_number, argument))
        if not isinstance(argument, Tensor) or self.followed.depends(argument):
            return isinstance(argument, Tensor)
        numbers = argument.is_floating_point() or argument.is_complex()
        return numbers and bool(self.lineage.of(argument))

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = list(tensors(args, kwargs))
        if any(operand in self.followed.indices for operand in operands):
            return self._index(func, args, kwargs)
        if any(map(self._is_lost, operands)):
            raise deciding(func.overloadpacket.__name__.strip("_"))
        if not any(map(self.followed.depends, operands)):
            return func(*args, **kwargs)
        if "out" in kwargs:
            self.followed.overwrite(None, kwargs["out"], func.overloadpacket.__name__, 0)
        operation = nonlinearity(func, args, kwargs, self.followed.depends)
        if operation is None:
            return self._affine(func, args, kwargs)
        name = self.names.name(operation.name)
        self._origins |= {name}
        if name in self.idle:
            return self._beside(func, args, kwargs)
        check_continuous(name, operation)
        if operation.chooses and _is_across_samples(operation):
            raise mixing(name)
        self._enter(name)
        run = self._choose if operation.chooses else self._bend
        out = self.followed.put(func, args, run(func, args, kwargs, name), name)
        self._leave(name, out if isinstance(out, Tensor) else out[0])
        return out

    def _is_lost(self, argument: Tensor) -> bool:
        """Tell whether an argument has numbers that depend on the input, but at unknown rows."""
        is_number = bool(argument.numel()) and self._is_number(argument)
        return is_number and not self.followed.depends(argument)

    def _index(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the indices of what was chosen be rearranged, but nothing else be made of them."""
        alone = not any(map(self.followed.depends, tensors(args, kwargs)))
        out = func(*args, **kwargs) if alone else None
        made = list(tensors(out))
        if not made or any(tensor.is_floating_point() for tensor in made):
            raise deciding(func.overloadpacket.__name__.strip("_"))
        self.followed.indices.update(dict.fromkeys(made, True))
        return out

    # -- affine operations

    def _affine(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operator = func.overloadpacket.__name__.strip("_")
        if operator in _ANSWERS or operator.startswith("rand") or to_integers(func, kwargs):
            raise deciding(operator)
        if mixes_samples(func, args, self.followed.depends):
            raise mixing(operator)
        used = [a for a in tensors(args, kwargs) if self.followed.depends(a)]
        version = max(self.versions[a] for a in used)
        given, named = self.followed.bring((args, kwargs), version)
        if operator in SIZED:
            given = (given[0], self.followed.resized(given[0], given[1]), *given[2:])
        if operator == "view":
            out = given[0].reshape(given[1])
        elif operator == "to_copy":  # the pass keeps its own precision
            out = given[0].clone()
        else:
            if func._schema.is_mutable and given[0] is args[0]:  # noqa: SLF001
                given = (given[0].clone(), *given[1:])
            is_convolution = operator == "convolution"
            run = partial(_convolve, func) if is_convolution else func
            out = self.followed.fitting(run, given, named, version)
        if operator in FRESH and (not out.dim() or len(out) != self.rows.counts[version]):
            return out  # a constant
        return self.followed.put(func, args, out, operator, version)

    def _fail(self, *arguments: Any) -> None:
        """Note whether a call that failed was given the number of rows of before."""
        self._stale = self._stale or any(map(self.followed.is_stale, tree_leaves(arguments)))

    def _failed(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> Any:
        """Evaluate beside the pass a call that failed since it was given rows of before.

        Such is a loss with labels for each sample, which the outputs may not depend on.
        """
        self._fail(args, kwargs)
        leaves = tree_leaves((args, kwargs))
        followed = any(map(self.followed.depends, leaves))
        known = followed and any(map(self.followed.is_stale, leaves))
        if isinstance(error, RefusedError) or not known or writes(func, kwargs):
            raise error
        refusal = RefusedError(self._stuck(error))
        self._refused.append(refusal)

        def at_start(argument: Any) -> Any:
            if not self.followed.depends(argument):
                return argument
            copy = self._beside.copy(argument)
            self.lineage.add(self.lineage.of(argument) | {refusal}, copy)
            return copy

        with _disable_current_modes():  # the copies are ours
            given, named = tree_map(at_start, (args, kwargs))
        return func(*given, **named)

    def _stuck(self, error: Exception) -> str:
        """Say why the network does not go on, as far as that was seen."""
        if self._stale:
            return (
                "the network does not go on where rows are inserted, since it read the batch size "
                f"before: use -1 for it, or count transitions instead ({error})."
            )
        return (
            "the network does not go on where rows are inserted, so its linear regions cannot be "
            f"counted: count transitions instead ({error})."
        )

    def _read(self, func: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Operation:
        operation = nonlinearity(func, given, named, self.followed.depends)
        assert operation is not None  # noqa: S101 it was one before its operands were brought here
        return operation

    def _by_row(self, values: Tensor) -> Tensor:
        return values.reshape(len(self.rows.path), -1)


def _is_across_samples(choice: Operation) -> bool:
    """Tell whether a maximum is taken across samples, as it is without dimensions."""
    if "pool" in choice.name:
        return False
    return not choice.dims or 0 in {dim % choice.z.dim() for dim in choice.dims}


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
