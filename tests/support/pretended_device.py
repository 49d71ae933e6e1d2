"""A pretended device without float64: its tensors lie on the CPU, and are of type meta."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")  # unlike "mps", torch accepts it where it has no such backend
MOVING = {torch.ops.aten._to_copy, torch.ops.aten.to, torch.ops.aten.copy_}


class OnDevice(Tensor):
    """A tensor that says that it is on the device."""

    @staticmethod
    def __new__(cls, content: Tensor):
        if content.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return Tensor._make_wrapper_subclass(
            cls, content.shape, content.stride(), 0, dtype=content.dtype, device=DEVICE
        )

    def __init__(self, content: Tensor) -> None:
        self.content = content

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU what the device would, and refuse to mix tensors of both."""
    given = tree_leaves((args, kwargs))
    tensors = [each for each in given if isinstance(each, Tensor)]
    on_device = [isinstance(tensor, OnDevice) for tensor in tensors]
    moves = func.overloadpacket in MOVING
    others = [each for each in tensors if not isinstance(each, OnDevice) and each.dim()]
    if any(on_device) and others and not moves and "index" not in func.__name__:
        raise RuntimeError(f"expected all tensors on the same device in {func}")
    named = [each for each in given if isinstance(each, torch.device)]
    args, kwargs = tree_map_only(OnDevice, lambda each: each.content, (args, kwargs))
    args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    found = func(*args, **kwargs)
    is_there = DEVICE in named if named else any(on_device[:1] if moves else on_device)
    if is_there and func._schema.is_mutable:
        return tensors[0]  # it was written in place
    return tree_map_only(Tensor, OnDevice, found) if is_there else found


class _Factories(TorchDispatchMode):
    """Lets the device make new tensors, too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class _Constructor(TorchFunctionMode):
    """`torch.tensor` makes tensors without asking a dispatch mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == DEVICE:
            return OnDevice(func(*args, **kwargs | {"device": "cpu"}))
        return func(*args, **kwargs)


@contextmanager
def pretending() -> Iterator[None]:
    """Let the device be there."""
    with _Factories(), _Constructor():
        yield


def moved(network: nn.Module) -> nn.Module:
    """Move a network to the device."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnDevice(parameter.detach()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)
    return network
