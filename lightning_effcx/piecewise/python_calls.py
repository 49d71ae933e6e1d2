"""Python calls: functions of torch that are changed before they reach the dispatcher.

Torch checks the sizes of a reshape before it dispatches the call. So a batch size that the network
read before rows were inserted is corrected here.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.tracing import Lineage, RefusedError

# Names of Python's functions that write in place, such as `Tensor.__iadd__`; no operators of torch.
_WRITING = frozenset({"iadd", "idiv", "imul", "isub", "itruediv", "setitem"})

_RESHAPING = frozenset({Tensor.reshape, Tensor.reshape_as, torch.reshape})


class PythonCalls(TorchFunctionMode):
    """Changes the calls of a network as they are made.

    Args:
        followed: The tensors that the pass follows.
        lineage: The lineage of the tensors of the pass.
        dispatch: Runs a call as if it had reached the dispatcher.
        run_failed: Called with a call that failed, its arguments and its error; returns what the
            call is to return instead, or raises the error.
    """

    def __init__(
        self,
        followed: Followed,
        lineage: Lineage,
        dispatch: Callable[..., Any],
        run_failed: Callable[..., Any],
    ) -> None:
        super().__init__()
        self.followed = followed
        self.lineage = lineage
        self.dispatch = dispatch
        self.run_failed = run_failed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        try:
            return self._run(func, args, kwargs)
        except (RuntimeError, ValueError) as error:
            return self.run_failed(func, args, kwargs, error)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x: Any = args[0] if args else kwargs.get("input")
        if func in _RESHAPING and self.followed.depends(x):
            size: Any = args[1:] or [kwargs.get("shape", kwargs.get("other"))]
            if not isinstance(size[0], int):
                (size,) = size
            size = size.shape if isinstance(size, Tensor) else size
            return torch.reshape(x, self.followed.resized(x, size))
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
        version, origins = self.followed.rows.version, self.lineage.of(value)
        was = self.lineage.of(target)
        # The dispatched call will be refused if this one is. The new rows are ours.
        with suppress(RefusedError), _disable_current_modes():
            if not self.followed.depends(target):
                self.followed.adopt(target, "copy")
            self.followed.refresh(target)
            value = self.followed.fitted(self.followed.bring(value, version), version)
        self.lineage.add(was, target)
        self.lineage.add(origins, value)
        return target, index, value


def writes(func: Any, kwargs: dict[str, Any]) -> bool:
    """Tell by its name whether a function of torch writes to what it is given."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or "out" in kwargs or name.strip("_") in _WRITING
