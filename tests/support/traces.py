"""Traces: all that whoever looks at a network must leave as it was, compared object by object."""

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_effcx.network.state import keeping, replacing


class Trace:
    """What a network, and what is global, is now.

    Args:
        network: A module.
        slots_only: Only which parameters and buffers there are, and their bytes.
    """

    def __init__(self, network: nn.Module, *, slots_only: bool = False) -> None:
        self.objects: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        for i, module in enumerate(modules_of(network)):
            self._slots(f"{i} {type(module).__name__}", module)
            if not slots_only:
                self._module(f"{i} {type(module).__name__}", module)
        if not slots_only:
            self._globals()
            if hasattr(network, "seen"):
                self.values["seen"] = plain(network.seen())

    def _slots(self, name: str, module: nn.Module) -> None:
        for kind in ("_parameters", "_buffers"):
            for key, tensor in getattr(module, kind).items():
                self.objects[f"{name} {kind} {key}"] = tensor
                if tensor is not None:
                    self.objects[f"{name} {key} grad"] = tensor.grad
                    self.values[f"{name} {key}"] = plain(tensor)

    def _module(self, name: str, module: nn.Module) -> None:
        self.values[f"{name} mode"] = module.training
        self.values[f"{name} attributes"] = sorted(vars(module))
        for key, value in vars(module).items():
            self.objects[f"{name}.{key}"] = value
            if isinstance(value, (dict, list, set)) and not key.startswith("_flat_weight"):
                parts = value.items() if isinstance(value, dict) else enumerate(value)
                self.objects |= {f"{name}.{key}[{k!r}]": part for k, part in parts}
                self.values[f"{name}.{key} length"] = len(value)

    def _globals(self) -> None:
        self.values |= {
            "torch": plain(torch.get_rng_state()),
            "numpy": plain(np.random.get_state()),  # noqa: NPY002 the global state
            "python": random.getstate(),
            "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "autocast": torch.is_autocast_enabled("cpu"),
            "kernels": (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled),
            "global hooks": [
                len(hooks)
                for name, hooks in vars(nn.modules.module).items()
                if name.startswith("_global_") and name.endswith("hooks")
            ],
        }

    def differences(self, other: "Trace") -> list[str]:
        """Name what is not the same object, or not of the same bytes."""
        objects = self.objects.keys() | other.objects.keys()
        return sorted(
            [n for n in objects if self.objects.get(n) is not other.objects.get(n, ...)]
            + [n for n, value in self.values.items() if value != other.values.get(n)]
        )


def modules_of(network: nn.Module) -> list[nn.Module]:
    """All modules, also those in lists and dictionaries, in order."""
    found: dict[int, nn.Module] = {}
    waiting: list[Any] = [network]
    while waiting:
        value = waiting.pop()
        if isinstance(value, nn.Module) and id(value) not in found:
            found[id(value)] = value
            waiting += value.children()
            waiting += [v for v in vars(value).values() if isinstance(v, (list, dict, nn.Module))]
        elif isinstance(value, (list, dict)):
            parts = value.values() if isinstance(value, dict) else value
            waiting += [part for part in parts if isinstance(part, nn.Module)]
    return list(found.values())


def plain(value: Any) -> Any:
    """The same as something that compares by value, and to the bit."""
    match value:
        case Tensor():
            return str(value.dtype), value.requires_grad, value.detach().numpy().tobytes()
        case np.ndarray():
            return str(value.dtype), value.tobytes()
        case Mapping():
            return type(value).__name__, [(key, plain(part)) for key, part in value.items()]
        case list() | tuple():
            return [plain(part) for part in value]
        case _ if hasattr(value, "__dict__"):
            return plain(vars(value))
        case _:
            return value


OURS = {keeping.__file__, replacing.__file__}  # on the stack while they keep and put back


class FailedError(Exception):
    """Raised by a `FailsAt`."""


class FailsAt(TorchDispatchMode):
    """Counts operations, but not those that keep and put back, and raises at one of them."""

    def __init__(self, operation: float = float("inf")) -> None:
        super().__init__()
        self.operation = operation
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        frame = sys._getframe()
        while frame is not None and frame.f_code.co_filename not in OURS:
            frame = frame.f_back
        if frame is None:
            self.count += 1
            if self.count == self.operation:
                raise FailedError
        return func(*args, **(kwargs or {}))
