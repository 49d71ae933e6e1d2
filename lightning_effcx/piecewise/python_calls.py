"""Python calls: functions of torch that are changed before they reach the dispatcher.

Torch checks the sizes of a reshape before it dispatches the call. So a batch size that the network
read before rows were inserted is corrected here. Circular padding would reach the dispatcher as
writes into parts of a tensor. Here it becomes a concatenation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_effcx.piecewise.followed import Followed

# Names of Python's functions that write in place, such as `Tensor.__iadd__`; no operators of torch.
_WRITING = frozenset({"iadd", "idiv", "imul", "isub", "itruediv", "setitem"})


class PythonCalls(TorchFunctionMode):
    """Changes the calls of a network as they are made.

    Args:
        followed: The tensors that the pass follows.
        run_failed: Called with a call that failed, its arguments and its error; returns what the
            call is to return instead, or raises the error.
    """

    def __init__(self, followed: Followed, run_failed: Callable[..., Any]) -> None:
        super().__init__()
        self.followed = followed
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
        if func in {Tensor.reshape, torch.reshape} and self.followed.depends(args[0]):
            x, *size = args
            if not size or not isinstance(size[0], int):
                (size,) = size or [kwargs["shape"]]
            return func(x, self.followed.resized(x, size))
        if func is torch.nn.functional.pad and "circular" in {*args[2:3], kwargs.get("mode")}:
            return _pad_circularly(*args[:2])
        return func(*args, **kwargs)


def writes(func: Any, kwargs: dict[str, Any]) -> bool:
    """Tell by its name whether a function of torch writes to what it is given."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or "out" in kwargs or name.strip("_") in _WRITING


def _pad_circularly(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Pad with what is at the other end; `padding` starts with the last dimension."""
    for last, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True), start=1):
        end = x.narrow(-last, x.shape[-last] - before, before)
        x = torch.cat([end, x, x.narrow(-last, 0, after)], -last)
    return x
