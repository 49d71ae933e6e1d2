"""Lending: other values for the tensors of a network, for a time.

A network holds a tensor in slots: under a name among a module's parameters, in a list, as an
attribute. One tensor may be in several slots, and one module may be registered under several
names. Every slot that holds a tensor gets the value that is lent for it, so that ties stay ties,
and gets the very tensor back, also after an exception.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning_effcx.network.state.holders import Holder


@contextmanager
def lent(holders: Iterable[Holder], values: Mapping[int, Any]) -> Iterator[None]:
    """Let holders hold other values, by the identity of what they hold.

    What else is assigned to them meanwhile, such as what a hook computes from lent values, is taken
    away again.

    Example:
        >>> import torch
        >>> from lightning_effcx.network.state.reach import Reach
        >>> layer = torch.nn.Linear(1, 1)
        >>> network = torch.nn.Sequential(layer, layer)
        >>> with lent(Reach(network).holders(), {id(layer.weight): torch.zeros(1, 1)}):
        ...     bool(network(torch.ones(1, 1)) == layer.bias)
        True
        >>> isinstance(layer.weight, torch.nn.Parameter)
        True
    """
    holders = list(holders)
    for holder in holders:
        holder.keep()
    with ExitStack() as stack:  # which goes on where one of them raises
        for holder in holders:
            stack.callback(holder.restore)
        for holder in holders:
            lend(holder, values)
        yield


def lend(holder: Holder, values: Mapping[int, Any]) -> None:
    """Let one holder, which was kept, hold other values; nobody takes them back."""
    instead = {key: _exchanged(value, values) for key, value in holder.kept.items()}
    if any(instead[key] is not value for key, value in holder.kept.items()):
        holder.write(instead)


def _exchanged(value: Any, values: Mapping[int, Any]) -> Any:
    """Return what is lent for a value; for a tuple, another one where parts of it are lent."""
    if id(value) in values:
        return values[id(value)]
    if type(value) is not tuple:
        return value
    parts = tuple(_exchanged(part, values) for part in value)
    return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
