"""Keeping: a module is after it was looked at as it was before, whatever its forward does.

What forwards do regularly is put back without a word: they count calls, cache tables, collect what
they compute, draw from generators of their own. What no forward should do, such as to write to
parameters or to leave a hook, is put back too, and said in one warning.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import nn

from lightning_effcx.network.state.contents import Content
from lightning_effcx.network.state.lending import lend
from lightning_effcx.network.state.reach import Found, Kind, Reach
from lightning_effcx.network.state.standins import stand_in

_WHAT = {
    Kind.PARAMETERS: "the parameters of",
    Kind.HOOKS: "the hooks of",
    Kind.PARAMETER: "the values of the parameter",
}
_SHOWN = 3
_COPIED = 2**30  # bytes of parameters


class Changed(NamedTuple):
    """What differed afterwards, in words, and whether it could not be put back."""

    what: str
    is_lost: bool


_watched: ContextVar[frozenset[int]] = ContextVar("watched", default=frozenset())
_outer: ContextVar[Reach | None] = ContextVar("outer", default=None)
_warned: "WeakSet[nn.Module]" = WeakSet()


@contextmanager
def kept(*roots: Any) -> Iterator[list[nn.Module]]:
    """Put back all that a forward may change; yield the modules that it reaches, in eval mode.

    Within another `kept` that has the same modules, only their modes are put back. Parameters are
    compared by their bytes, and their gradients are put aside. `network.eval()` and
    `network.train()` are avoided, since users override them and since they would wake parts that
    the user froze.

    Args:
        *roots: The module, and what else is at work beside it.
    """
    reach = reach_of(*roots)
    if reach is _outer.get():  # all is put back further out, and the walk takes time
        with _evaluating(reach.modules):
            yield reach.modules
        return
    new = reach.tensors.keys() - _watched.get()
    states = [found for found in _thinned(reach.states) if _is_due(found, new) and _keeps(found)]
    own = [t for key, t in reach.tensors.items() if key in new and isinstance(t, nn.Parameter)]
    gradients = [(parameter, parameter.grad) for parameter in own if parameter.is_leaf]
    changed: list[Changed] = []
    token = _watched.set(_watched.get() | new)
    with ExitStack() as stack:  # which goes on where something raises
        stack.callback(_warn, reach.modules, changed)
        stack.callback(_watched.reset, token)
        stack.callback(_outer.reset, _outer.set(reach))
        stack.enter_context(_evaluating(reach.modules))
        for parameter, gradient in gradients:
            stack.callback(setattr, parameter, "grad", gradient)
            parameter.grad = None
        for found in states:
            stack.callback(_restore, found, changed)
        instead = {key: stand_in(name, value) for key, (name, value) in reach.odd.items()}
        for holder in reach.holders() if instead else ():
            lend(holder, instead)
        yield reach.modules


def reach_of(*roots: Any) -> Reach:
    """Return all that a module reaches; as it was found further out, if it was."""
    outer = _outer.get()
    return outer if outer is not None and all(map(outer.covers, roots)) else Reach(*roots)


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    modes = [part.training for part in modules]
    try:
        for part in modules:
            part.training = False
        yield
    finally:
        for part, mode in zip(modules, modes, strict=True):
            part.training = mode


def _is_due(found: Found, new: set[int]) -> bool:
    """Tell whether a state is to be kept here, since it is not further out."""
    state = found.state
    return not (found.kind is Kind.PARAMETER and isinstance(state, Content)) or id(state.of) in new


def _thinned(states: list[Found]) -> list[Found]:
    """Copy no more than some parameters, and of the others know whether they changed."""
    left = _COPIED
    for found in states:
        if found.kind is Kind.PARAMETER and isinstance(found.state, Content):
            left -= found.state.of.nbytes
            found.state.copies = left >= 0
    return states


def _keeps(found: Found) -> bool:
    """Keep a state; tell whether that is possible."""
    try:
        found.state.keep()
    except Exception:  # noqa: BLE001 objects of users may do anything
        return False
    return True


def _restore(found: Found, changed: list[Changed]) -> None:
    lost = isinstance(found.state, Content) and not found.state.copies
    try:
        with torch.no_grad():
            differed = found.state.restore() and found.kind in _WHAT
    except Exception:  # noqa: BLE001 objects of users may do anything
        differed = lost = True
    if differed:
        changed.append(Changed(f"{_WHAT.get(found.kind, '')} {found.name or 'the module'!r}", lost))


def _warn(modules: list[nn.Module], changed: list[Changed]) -> None:
    """Say what was put back that no forward should change, once for each module."""
    ours = __name__.partition(".")[0]
    theirs = [m for m in modules if type(m).__module__.partition(".")[0] != ours]
    module = (theirs or modules)[0]
    if not changed or module in _warned:
        return
    _warned.add(module)
    changed.reverse()  # as they were put back from the last to the first
    shown = [one.what.strip() for one in changed[:_SHOWN]]
    if len(changed) > _SHOWN:
        shown.append(f"{len(changed) - _SHOWN} more")
    lost = any(one.is_lost for one in changed)
    warnings.warn(
        f"effcx: evaluating {type(module).__name__} changed {', '.join(shown)}; "
        f"{'not all of it could be' if lost else 'all of it was'} put back: measure a part, or a "
        "function, that changes nothing, with network=.",
        stacklevel=2,
    )
