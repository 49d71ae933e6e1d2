"""Python calls: functions of torch that are changed before they reach the dispatcher.

Torch compares some sizes before it dispatches a call: those of a reshape, those of what is written
into a part of a tensor, and those of a mask and what it indexes. The network may have read a size
before rows were inserted. So such calls get the present rows here. An einsum would reach the
dispatcher as many operators, some of which put the samples along another dimension. Here it stays
one operator.
"""

import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from lightning_effcx.piecewise.failures import Failures, StoppedError
from lightning_effcx.piecewise.unfollowed import Unfollowed
from lightning_effcx.piecewise.writes import Writes
from lightning_effcx.tracing import RefusedError, SiteNames, choose_refusal, tensors

_INDEXING = frozenset({Tensor.__getitem__, Tensor.__setitem__})
# Names of Python's functions that write in place, such as `Tensor.__iadd__`; no operators of torch.
_WRITING = frozenset({"iadd", "idiv", "imul", "isub", "itruediv", "setitem"})

_RESHAPING = frozenset({Tensor.reshape, Tensor.reshape_as, torch.reshape})


class PythonCalls(TorchFunctionMode):
    """Changes the calls of a network as they are made.

    Args:
        unfollowed: Runs what the pass does not follow.
        writes: Writes to what the pass follows.
        failures: Notes the calls that failed.
        dispatch: Runs a call as if it had reached the dispatcher.
        names: The names of the sites.
    """

    def __init__(
        self,
        unfollowed: Unfollowed,
        writes: Writes,
        failures: Failures,
        dispatch: Callable[..., Any],
        names: SiteNames,
    ) -> None:
        super().__init__()
        self.unfollowed = unfollowed
        self.followed = unfollowed.followed
        self.writes = writes
        self.failures = failures
        self.dispatch = dispatch
        self.refused = failures.refused
        self.names = names

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        before, named = len(self.refused), self.names.count()
        try:
            return self._run(func, args, kwargs)
        except (RefusedError, StoppedError):
            raise
        except Exception as error:  # noqa: BLE001 torch raises many sorts
            self.names.take_back(named)
            return self._run_again(func, args, kwargs, error, self.refused[before:])

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x: Any = args[0] if args else kwargs.get("input")
        if func in _RESHAPING and self.followed.depends(x):
            size: Any = args[1:] or [kwargs.get("shape", kwargs.get("other"))]
            if not isinstance(size[0], int):
                (size,) = size
            size = size.shape if isinstance(size, Tensor) else size
            return torch.reshape(x, self.followed.resized(size, self.followed.versions[x]))
        if func in _INDEXING and self.followed.depends(args[1]):
            return _index_by_mask(*args)
        if func is Tensor.__setitem__ and self.followed.depends([args[0], args[2]]):
            return func(*self._at_equal_rows(*args))
        if func is torch.einsum and isinstance(args[0], str) and self.followed.depends(args[1:]):
            # It would reach the dispatcher in parts, which put the samples elsewhere for a while.
            operands = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
            with _disable_current_modes():
                return self.dispatch(torch.ops.aten.einsum.default, (), (args[0], [*operands]))
        return func(*args, **kwargs)

    def _at_equal_rows(self, target: Tensor, index: Any, value: Any) -> tuple[Tensor, Any, Any]:
        """Bring a tensor, and what is to be written into it, to the current rows.

        Torch compares their sizes before it dispatches the call.
        """
        followed, lineage = self.followed, self.unfollowed.lineage
        was, origins = lineage.of(target), lineage.of(value)
        with _disable_current_modes():  # the new rows are ours
            if any(map(self.unfollowed.is_lost, tensors(value))):
                lineage.add(origins, target)
                return self.unfollowed.copy(target), index, value
            with suppress(RefusedError):  # the dispatched call will be refused, too
                if not followed.depends(target):
                    self.writes.adopt(target, "copy")
                self.writes.refresh(target)
                version = followed.rows.version
                value = followed.fitted(followed.bring(value, version), version)
        lineage.add(was, target)
        lineage.add(origins, value)
        return target, index, value

    def _run_again(
        self, func: Any, args: Any, kwargs: Any, error: Exception, refused: list[RefusedError]
    ) -> Any:
        """Run a call again that failed because of what its arguments are in a pass.

        If some have another precision than the pass, they get it. If constants have as many rows
        as there are, or were, the call runs unfollowed, at the rows of the start. An example is a
        loss with a label for each sample, which the outputs may not depend on.
        """
        self.failures.note(args, kwargs)
        count = self.names.count()
        leaves = tree_leaves((args, kwargs))
        if not any(map(self.unfollowed.depends, leaves)) or _may_write(func, kwargs):
            raise error
        precise, named = tree_map(self._precise, (args, kwargs))
        if not all(map(operator.is_, tree_leaves((precise, named)), leaves)):
            with suppress(RuntimeError, ValueError):
                return func(*precise, **named)
            self.names.take_back(count)
        if not self.followed.rows.version or not self.failures.has_rows(args, kwargs):
            raise error
        refusal = choose_refusal(refused) if refused else self.failures.refusal(error)
        self.refused.append(refusal)
        try:
            return self._run_at_start(func, args, kwargs, refusal)
        except (RefusedError, StoppedError):
            raise
        except Exception:  # noqa: BLE001 torch raises many sorts
            self.names.take_back(count)
            return self._run_at_start(func, args, kwargs, refusal, with_constants=True)

    def _run_at_start(
        self, func: Any, args: Any, kwargs: Any, refusal: RefusedError, **options: bool
    ) -> Any:
        with _disable_current_modes():  # the copies are ours
            given, named = self.unfollowed.copy_all((args, kwargs), refusal, **options)
        return func(*given, **named)

    def _precise(self, argument: Any) -> Any:
        """Return a tensor that is not followed in the precision of the pass."""
        is_constant = isinstance(argument, Tensor) and not self.followed.depends(argument)
        return self.followed.cast(argument) if is_constant else argument


def _index_by_mask(x: Tensor, mask: Any, *value: Any) -> Tensor | None:
    """Call the operator itself; Python would first compare numbers of rows, which may be stale."""
    masks = list(mask) if isinstance(mask, (list, tuple)) else [mask]
    if not value:
        return torch.ops.aten.index(x, masks)
    torch.ops.aten.index_put_(x, masks, torch.as_tensor(value[0], dtype=x.dtype, device=x.device))
    return None


def _may_write(func: Any, kwargs: dict[str, Any]) -> bool:
    """Tell by its name whether a function of torch writes to what it is given."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or "out" in kwargs or name.strip("_") in _WRITING
