"""Replace the tensors of a network for a time, and put the very tensors back.

A network holds a tensor in containers: under a name among a module's parameters, in a list, as an
attribute. One tensor may be in several containers, and one module may be registered under several
names. Every container gets the same new value for the same tensor, so that tied weights stay tied.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning_effcx.network.state.containers import Container


@contextmanager
def replacing_tensors(containers: Iterable[Container], values: Mapping[int, Any]) -> Iterator[None]:
    """Put other values into containers, and put everything back afterwards.

    Whatever else the containers get meanwhile is taken out again, such as a tensor that a hook
    computes from the new values.

    Args:
        containers: All containers of a network.
        values: The new value of each tensor, by the tensor's identity.

    Example:
        >>> import torch
        >>> from lightning_effcx.network.state.walk import find_state
        >>> layer = torch.nn.Linear(1, 1)
        >>> network = torch.nn.Sequential(layer, layer)
        >>> containers = find_state(network).containers()
        >>> with replacing_tensors(containers, {id(layer.weight): torch.zeros(1, 1)}):
        ...     bool(network(torch.ones(1, 1)) == layer.bias)
        True
        >>> isinstance(layer.weight, torch.nn.Parameter)
        True
    """
    containers = list(containers)
    contents = [container.read() for container in containers]
    with ExitStack() as stack:  # which restores the others where one raises
        for container, content in zip(containers, contents, strict=True):
            stack.callback(container.restore, content)
        for container in containers:
            replace_in(container, values)
        yield


def replace_in(container: Container, values: Mapping[int, Any]) -> None:
    """Put other values into one container. The caller restores it."""
    content = container.read()
    new = {key: _replaced(value, values) for key, value in content.items()}
    if any(new[key] is not value for key, value in content.items()):
        container.write(new)


def _replaced(value: Any, values: Mapping[int, Any]) -> Any:
    """Return the new value. A tuple that holds replaced objects becomes another tuple."""
    if id(value) in values:
        return values[id(value)]
    if type(value) is not tuple:
        return value
    parts = tuple(_replaced(part, values) for part in value)
    return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
