"""Names: what a user would write for an argument of a module, or for a part of a structure."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_effcx.network.nested import Place, at


def name_arguments(
    part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by the names that the module's forward has for them."""
    return {**dict(zip(_positional(part, len(args)), args, strict=True)), **kwargs}


def argument_name(
    part: nn.Module, given: tuple[tuple[Any, ...], Mapping[str, Any]], place: Place
) -> str:
    """Return what a user would write for a place among the arguments, such as `x['image']`."""
    args, kwargs = given
    kind, key, *inside = place
    if kind == 0:
        return expression(_positional(part, len(args))[key], args[key], tuple(inside))
    return expression(key, kwargs[key], tuple(inside))


def expression(root: str, value: Any, place: Place) -> str:
    """Return what a user would write for a place of a structure.

    Args:
        root: The name of the structure.
        value: The structure.
        place: The place in it.

    Example:
        >>> expression("batch", {"x": [1, 2]}, ("x", 1))
        "batch['x'][1]"
    """
    for depth, key in enumerate(place):
        outer = at(value, place[:depth])
        by_key = isinstance(outer, (Mapping, list, tuple)) and not hasattr(outer, "_fields")
        root += f"[{key!r}]" if by_key else f".{key}"
    return root


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Join words as in a sentence.

    Example:
        >>> join_words(["a", "b", "c"])
        'a, b and c'
    """
    *before, end = words
    return f"{', '.join(before)} {last} {end}" if before else end


def _positional(part: nn.Module, count: int) -> list[str]:
    """Return the names of the first positional arguments."""
    while isinstance(inner := getattr(part, "_orig_mod", None), nn.Module):
        part = inner  # the forward of a wrapper takes any arguments
    try:
        parameters = [*inspect.signature(part.forward).parameters.values()]
    except (TypeError, ValueError):  # its forward is not written in Python
        parameters = []
    own = [p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return [own[i] if i < len(own) else f"{rest}[{i - len(own)}]" for i in range(count)]
