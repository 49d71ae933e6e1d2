"""Shards: a network whose parameters are spread over processes, made whole while it is looked at.

FSDP2 and tensor parallelism keep a part of each parameter in each process, and hooks gather what a
forward needs: every process must then do the same forwards, in the same order. Measures share the
samples out instead, so while they look, the modules hold whole parameters and no such hook runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from types import MethodType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

_Place: TypeAlias = tuple[nn.Module, str]


@contextmanager
def whole(modules: list[nn.Module]) -> Iterator[None]:
    """Give modules their whole parameters, in their own precision, and no hooks of torch's own.

    What they hold is put aside as it is, and put back. Where something is spread over processes, to
    enter is collective: every process enters, in the same order. Each then holds the whole network.
    What is whole already stays as it is, and costs nothing.
    """
    aside = _put_aside(modules)
    gathered: dict[int, Tensor] = {}  # by identity, so that ties stay ties
    shadows: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
    with torch.inference_mode(False), torch.no_grad():
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                shadow = _spread_out(module, aside, gathered) | _without_hooks(module)
                shadows.append((module, {name: vars(module)[name] for name in shadow}, shadow))
    try:
        for module, _, shadow in shadows:
            vars(module).update(shadow)
        yield
    finally:
        for module, kept, _ in shadows:
            vars(module).update(kept)


def _put_aside(modules: list[nn.Module]) -> dict[_Place, Tensor]:
    """Find the shards behind what FSDP leaves in modules after a forward.

    It may be a whole parameter in the precision of mixed training, and on a part of the processes.
    """
    found: dict[_Place, Tensor] = {}
    for module in modules:
        state: Any = getattr(module, "_get_fsdp_state", lambda: None)()
        groups = getattr(state, "_fsdp_param_groups", None)
        if groups is None:  # older than torch 2.12
            groups = filter(None, [getattr(state, "_fsdp_param_group", None)])
        for parameter in (parameter for group in groups for parameter in group.fsdp_params):
            info = parameter._module_info  # noqa: SLF001
            tied = zip(info.shared_modules, info.shared_param_names, strict=True)
            places = [(info.module, info.param_name), *tied]
            found |= dict.fromkeys(places, parameter.sharded_param)
    return found


def _spread_out(
    module: nn.Module, aside: dict[_Place, Tensor], gathered: dict[int, Tensor]
) -> dict[str, dict[str, Tensor | None]]:
    """Return the parameters and buffers of a module, all whole, where some were not."""
    found = {}
    for kind in ("_parameters", "_buffers"):
        held: dict[str, Tensor | None] = vars(module)[kind]
        shards = {name: aside.get((module, name), value) for name, value in held.items()}
        spread = {name: shard for name, shard in shards.items() if hasattr(shard, "full_tensor")}
        for shard in spread.values():
            if id(shard) not in gathered:
                gathered[id(shard)] = _full(shard)
        if spread:
            found[kind] = copy(held)
            found[kind].update({name: gathered[id(shard)] for name, shard in spread.items()})
    return found


def _full(shard: Any) -> Tensor:
    full = shard.full_tensor()
    return nn.Parameter(full, shard.requires_grad) if isinstance(shard, nn.Parameter) else full


def _without_hooks(module: nn.Module) -> dict[str, Any]:
    """Return what calls a module without the hooks that gather, scatter and cast for it."""
    found: dict[str, Any] = {}
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        hooks = vars(module)[kind]
        others = {key: hook for key, hook in hooks.items() if not _is_of_torch(hook)}
        if len(others) < len(hooks):
            found[kind] = type(hooks)(others)
    for name, value in vars(module).items():  # by register_fsdp_forward_method
        if isinstance(value, MethodType) and hasattr(value, "__wrapped__") and _is_of_torch(value):
            found[name] = value.__wrapped__
    return found


def _is_of_torch(function: Callable[..., Any]) -> bool:
    """Tell whether torch.distributed defined a function, or the wrapper that it is."""
    where = getattr(getattr(function, "__func__", function), "__globals__", {})
    names = (getattr(function, "__module__", None), where.get("__name__"))
    return any(str(name).startswith("torch.distributed.") for name in names)
