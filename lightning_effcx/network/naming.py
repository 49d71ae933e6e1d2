"""Arguments: what users call those of a module, and the parts of what is given for them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_effcx.network.nested import Place, at


def named(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a module, by the names that its forward has for them."""
    return {**dict(zip(_positional(part, len(args)), args, strict=True)), **kwargs}


def name(part: nn.Module, given: tuple[tuple[Any, ...], Mapping[str, Any]], place: Place) -> str:
    """Return what a user would write for something among the arguments, such as `x['image']`."""
    args, kwargs = given
    kind, key, *inside = place
    if kind == 0:
        return spelled(_positional(part, len(args))[key], args[key], tuple(inside))
    return spelled(key, kwargs[key], tuple(inside))


def spelled(root: str, value: Any, place: Place) -> str:
    """Return what a user would write for a place of a structure that is named `root`.

    Example:
        >>> spelled("batch", {"x": [1, 2]}, ("x", 1))
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
        part = inner  # what is around it takes any arguments
    try:
        parameters = [*inspect.signature(part.forward).parameters.values()]
    except (TypeError, ValueError):  # forward is not written in Python
        parameters = []
    own = [p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return [own[i] if i < len(own) else f"{rest}[{i - len(own)}]" for i in range(count)]
