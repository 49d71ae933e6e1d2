"""Nested structures: tuples, lists, mappings and dataclasses, and the tensors inside them."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Place: TypeAlias = tuple[Any, ...]
"""The keys, indices and names that lead to a tensor, from the outside in."""

_SHOWN = 4


def parts(value: Any) -> dict[Any, Any]:
    """Return the parts of a structure by key, index or name. Anything else has no parts."""
    match value:
        case Mapping():
            return dict(value)
        case tuple() if hasattr(value, "_fields"):
            return dict(zip(value._fields, value, strict=True))
        case list() | tuple():
            return dict(enumerate(value))
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """Yield every tensor in a structure with its place, in order.

    Example:
        >>> import torch
        >>> [place for place, _ in leaves(({"image": torch.zeros(2, 3)}, torch.zeros(2)))]
        [(0, 'image'), (1,)]
    """
    if isinstance(value, Tensor):
        yield place, value
    for key, part in parts(value).items():
        yield from leaves(part, (*place, key))


def is_empty(value: Any) -> bool:
    """Return whether a structure has tensors, but no numbers in them, as a batch of no samples.

    Example:
        >>> import torch
        >>> is_empty({"x": torch.zeros(0, 3)}), is_empty([torch.zeros(0, 3), torch.zeros(1)])
        (True, False)
    """
    sizes = [tensor.numel() for _, tensor in leaves(value)]
    return bool(sizes) and not any(sizes)


def map_tensors(value: Any, change: Callable[[Place, Tensor], Any], place: Place = ()) -> Any:
    """Return the same structure with every tensor changed. Other parts stay the same objects."""
    if isinstance(value, Tensor):
        return change(place, value)
    new = {key: map_tensors(part, change, (*place, key)) for key, part in parts(value).items()}
    if all(new[key] is part for key, part in parts(value).items()):
        return value
    match value:
        case tuple() if hasattr(value, "_fields"):
            return type(value)(**new)
        case list() | tuple():
            return type(value)(new.values())
    changed = copy.copy(value)
    for key, part in new.items():
        if isinstance(value, Mapping):
            changed[key] = part
        else:
            object.__setattr__(changed, key, part)  # dataclasses may be frozen
    return changed


def at(value: Any, place: Place) -> Any:
    """Return the part of a structure at a place."""
    for key in place:
        value = parts(value)[key]
    return value


def describe(value: Any) -> str:
    """Describe a structure in one line.

    Example:
        >>> import torch
        >>> describe({"image": torch.zeros(2, 3), "names": ["a", "b"]})
        "{'image': float32 (2, 3), 'names': [str, str]}"
    """
    name = type(value).__name__
    if isinstance(value, Tensor):
        shape = f"nested ({value.size(0)}, ...)" if value.is_nested else f"{tuple(value.shape)}"
        sparse = "" if value.layout == torch.strided or value.is_nested else "sparse "
        return f"{str(value.dtype).removeprefix('torch.')} {sparse}{shape}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        items = [describe(part) for part in value[:_SHOWN]] + ["..."] * (len(value) > _SHOWN)
        return "[" + ", ".join(items) + "]"
    inside = {key: part for key, part in _inside(value).items() if not key.startswith("_")}
    shown = ", ".join(f"{key}={describe(part)}" for key, part in inside.items())
    return f"{name}({shown})" if shown else name


def _inside(value: Any) -> Mapping[str, Any]:
    """Return the attributes of an object, if there are tensors among them.

    Some objects keep their tensors in a mapping, whose items are returned then.
    """
    attributes = parts(value) or getattr(value, "__dict__", {})
    mappings = [part for part in attributes.values() if isinstance(part, Mapping)]
    for held in (attributes, *mappings):
        if any(isinstance(part, Tensor) for part in held.values()):
            return held
    return {}
