"""Rewrites: calls of which the dispatcher sees too little, changed above it.

Reshapes are checked before they are dispatched, so a batch size that the network read too early is
corrected here. Circular padding arrives below as writes into parts of a tensor: here it is a
concatenation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions that write in place, as Python's own operators do.
_WRITING = frozenset({"iadd", "idiv", "imul", "isub", "itruediv", "setitem"})


class Rewrites(TorchFunctionMode):
    """Changes the calls of a network as they are made.

    Args:
        depends: Whether an argument depends on the input.
        resized: Maps a tensor and the size that it is to have to the size that is meant.
        failed: Called with a call that fails, its arguments and its error; returns what the call
            is to return instead, or raises the error.
    """

    def __init__(
        self,
        depends: Callable[[Any], bool],
        resized: Callable[[Tensor, Any], Any],
        failed: Callable[..., Any],
    ) -> None:
        super().__init__()
        self.depends = depends
        self.resized = resized
        self.failed = failed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        try:
            return self._changed(func, args, kwargs)
        except (RuntimeError, ValueError) as error:
            return self.failed(func, args, kwargs, error)

    def _changed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in {Tensor.reshape, torch.reshape} and self.depends(args[0]):
            x, *size = args
            if not size or not isinstance(size[0], int):
                (size,) = size or [kwargs["shape"]]
            return func(x, self.resized(x, size))
        if func is torch.nn.functional.pad and "circular" in {*args[2:3], kwargs.get("mode")}:
            return _wrapped(*args[:2])
        return func(*args, **kwargs)


def writes(func: Any, kwargs: dict[str, Any]) -> bool:
    """Tell by its name whether a function of torch writes to what it is given."""
    name = getattr(func, "__name__", "")
    plain = name.strip("_")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or "out" in kwargs or plain in _WRITING


def _wrapped(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Pad with what is at the other end; `padding` starts with the last dimension."""
    for last, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True), start=1):
        end = x.narrow(-last, x.shape[-last] - before, before)
        x = torch.cat([end, x, x.narrow(-last, 0, after)], -last)
    return x
