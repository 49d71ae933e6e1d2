"""Which functions of the package have their annotations executed in the tests."""

import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check functions that declare shapes; the others answer a wrong type in their own words."""
    annotations = inspect.get_annotations(function).values()
    has_shapes = any(issubclass(type(a), type(jaxtyping.AbstractArray)) for a in annotations)
    return beartype(function) if has_shapes else function
