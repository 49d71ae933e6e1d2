"""Keep the state of a network: afterwards it is as it was before, whatever its forward does.

Many forwards change something regularly: they count calls, cache tables, collect what they compute,
draw from generators of their own. That is put back without a message. No forward should write to
parameters or leave a hook behind. That is put back as well, and one warning says so.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import nn

from lightning_effcx.network.state.data import TensorData
from lightning_effcx.network.state.network_state import Found, NetworkState, StateKind
from lightning_effcx.network.state.ownership import is_of_this_package
from lightning_effcx.network.state.replacing import replace_in
from lightning_effcx.network.state.unrestorable import substitute
from lightning_effcx.network.state.walk import find_state

_REPORTED = {
    StateKind.PARAMETER_NAMES: "the parameters of",
    StateKind.HOOKS: "the hooks of",
    StateKind.PARAMETER_DATA: "the values of the parameter",
}
_SHOWN = 3


class Changed(NamedTuple):
    """A change in words, and whether it could not be put back."""

    what: str
    is_lost: bool


_kept_now: ContextVar[tuple[NetworkState, ...]] = ContextVar("kept_now", default=())
"""The states that are kept at this moment, the innermost last."""
_warned: "WeakSet[nn.Module]" = WeakSet()


@contextmanager
def keeping_state(*roots: Any) -> Iterator[list[nn.Module]]:
    """Put back all that a forward may change. Yield all modules, which are in eval mode inside.

    Parameters are compared by their bytes, and their gradients are put aside. Within another
    `keeping_state` of the same modules, only the modes are put back.

    Args:
        *roots: The module, and what else is at work beside it.
    """
    state, outer = state_of(*roots), _kept_now.get()
    if outer and state is outer[-1]:  # which puts back the rest, and keeping it takes time
        with _in_eval_mode(state.modules):
            yield state.modules
        return
    known = {key for each in outer for key in each.tensors}
    new = [found for found in state.states if not _is_parameter_among(found, known)]
    kept = [(found, content) for found in new for content in _read(found)]
    parameters = [t for t in state.tensors.values() if isinstance(t, nn.Parameter) and t.is_leaf]
    changed: list[Changed] = []
    with ExitStack() as stack:  # which restores the others where one raises
        stack.callback(_warn, state.modules, changed)
        stack.callback(_kept_now.reset, _kept_now.set((*outer, state)))
        stack.enter_context(_in_eval_mode(state.modules))
        for parameter in (p for p in parameters if id(p) not in known):
            stack.callback(setattr, parameter, "grad", parameter.grad)
            parameter.grad = None
        for found, content in kept:
            stack.callback(_restore, found, content, changed)
        _substitute_unrestorable(state)
        yield state.modules


def state_of(*roots: Any) -> NetworkState:
    """Return all that a forward may change. It is found once for nested calls."""
    return _kept_now.get()[-1] if all(map(is_kept, roots)) else find_state(*roots)


def is_kept(root: Any) -> bool:
    """Return whether the innermost `keeping_state` keeps the state of a network."""
    outer = _kept_now.get()
    return bool(outer) and outer[-1].covers(root)


@contextmanager
def _in_eval_mode(modules: list[nn.Module]) -> Iterator[None]:
    """Put every module in eval mode, then back in its own mode.

    `network.eval()` and `network.train()` are not called: users override them, and they would wake
    parts that the user froze.
    """
    modes = [part.training for part in modules]
    try:
        for part in modules:
            part.training = False
        yield
    finally:
        for part, mode in zip(modules, modes, strict=True):
            part.training = mode


def _is_parameter_among(found: Found, known: set[int]) -> bool:
    """Return whether a state is the data of a tensor that is kept further out."""
    return (
        found.kind is StateKind.PARAMETER_DATA
        and isinstance(found.state, TensorData)
        and id(found.state.of) in known
    )


def _read(found: Found) -> list[Any]:
    """Return the content of a state, or nothing if it cannot be read."""
    try:
        return [found.state.read()]
    except Exception:  # noqa: BLE001 an object of a user's class may raise anything
        return []


def _restore(found: Found, content: Any, changed: list[Changed]) -> None:
    lost = isinstance(found.state, TensorData) and not found.state.copies
    try:
        with torch.no_grad():
            differed = found.state.restore(content) and found.kind in _REPORTED
    except Exception:  # noqa: BLE001 an object of a user's class may raise anything
        differed = lost = True
    if differed:
        what = f"{_REPORTED.get(found.kind, '')} {found.name or 'the module'!r}"
        changed.append(Changed(what.strip(), lost))


def _substitute_unrestorable(state: NetworkState) -> None:
    """Let the network hold substitutes for what cannot be put back once it is used."""
    values = {key: substitute(name, value) for key, (name, value) in state.unrestorable.items()}
    for container in state.containers() if values else ():
        replace_in(container, values)


def _warn(modules: list[nn.Module], changed: list[Changed]) -> None:
    """Say what no forward should change, once for each network."""
    module = next((m for m in modules if not is_of_this_package(m)), modules[0])
    if not changed or module in _warned:
        return
    _warned.add(module)
    changed.reverse()  # they were put back from the last to the first
    shown = [one.what for one in changed[:_SHOWN]]
    if len(changed) > _SHOWN:
        shown.append(f"{len(changed) - _SHOWN} more")
    lost = any(one.is_lost for one in changed)
    warnings.warn(
        f"effcx: evaluating {type(module).__name__} changed {', '.join(shown)}; "
        f"{'not all of it could be' if lost else 'all of it was'} put back: measure a part, or a "
        "function, that changes nothing, with network=.",
        stacklevel=2,
    )
