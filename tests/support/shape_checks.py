"""Which functions of the package have their shape annotations checked in the tests."""

import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check functions that declare shapes; the others answer a wrong type in their own words."""
    return beartype(function) if declares(function) else function


def declares(function: Callable[..., Any]) -> bool:
    """Whether an argument or the result of a function is annotated with its shape."""
    annotations = inspect.get_annotations(function).values()
    return any(issubclass(type(a), type(jaxtyping.AbstractArray)) for a in annotations)


def sparing(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Spare the other functions jaxtyping's wrapper, which costs every call and checks nothing."""

    def jaxtyped_if_it_declares_shapes(*, typechecker: Any) -> Callable[[Any], Any]:
        wrap = jaxtyped(typechecker=typechecker)
        return lambda it: it if inspect.isfunction(it) and not declares(it) else wrap(it)

    return jaxtyped_if_it_declares_shapes
