"""Sharding: hold whole parameters while a network is measured whose parameters are sharded.

FSDP2 and tensor parallelism keep a shard of each parameter in each process, and hooks gather the
parameters that a forward needs. Then every process must do the same forwards, in the same order.
Measures give each process other samples instead. So while they look at the network, its modules
hold whole parameters, and no such hook runs.
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
def unsharded(modules: list[nn.Module]) -> Iterator[None]:
    """Give modules their whole parameters, in their own precision, without torch's sharding hooks.

    Their shards are put back afterwards. If something is sharded, every process must enter, in the
    same order, and then holds the whole network. Parameters that are whole stay as they are.
    """
    shards = _find_shards(modules)
    gathered: dict[int, Tensor] = {}  # by identity, so that ties stay ties
    changes: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []  # before and after
    with torch.inference_mode(False), torch.no_grad():
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                after = _gathered(module, shards, gathered) | _without_hooks(module)
                changes.append((module, {name: vars(module)[name] for name in after}, after))
    try:
        for module, _, after in changes:
            vars(module).update(after)
        yield
    finally:
        for module, before, _ in changes:
            vars(module).update(before)


def _find_shards(modules: list[nn.Module]) -> dict[_Place, Tensor]:
    """Find the shards of parameters for which FSDP leaves something else in modules.

    After a forward it may leave a whole parameter, in the precision of mixed training, in some of
    the processes.
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


def _gathered(
    module: nn.Module, shards: dict[_Place, Tensor], gathered: dict[int, Tensor]
) -> dict[str, dict[str, Tensor | None]]:
    """Return the parameters and buffers of a module, all whole, if some were sharded."""
    found = {}
    for kind in ("_parameters", "_buffers"):
        held: dict[str, Tensor | None] = vars(module)[kind]
        own = {name: shards.get((module, name), value) for name, value in held.items()}
        sharded = {name: shard for name, shard in own.items() if hasattr(shard, "full_tensor")}
        for shard in sharded.values():
            if id(shard) not in gathered:
                gathered[id(shard)] = _full(shard)
        if sharded:
            found[kind] = copy(held)
            found[kind].update({name: gathered[id(shard)] for name, shard in sharded.items()})
    return found


def _full(shard: Any) -> Tensor:
    full = shard.full_tensor()
    return nn.Parameter(full, shard.requires_grad) if isinstance(shard, nn.Parameter) else full


def _without_hooks(module: nn.Module) -> dict[str, Any]:
    """Return the hooks and methods of a module without those that torch added for sharding."""
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
    """Return whether torch.distributed defined a function, or a wrapper around it."""
    where = getattr(getattr(function, "__func__", function), "__globals__", {})
    names = (getattr(function, "__module__", None), where.get("__name__"))
    return any(str(name).startswith("torch.distributed.") for name in names)
