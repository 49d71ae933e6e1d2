"""Outputs: find the output of interest, and name it."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from torch import Tensor

from lightning_effcx.network.naming import expression, join_words
from lightning_effcx.network.nested import Place, at, describe, leaves, parts
from lightning_effcx.network.precision import is_close
from lightning_effcx.network.views import matrix

ChooseOutput: TypeAlias = str | int


def find_output(raw: Any, samples: int, choice: ChooseOutput | None) -> Place:
    """Find the place of the output of interest in everything that a network returned.

    Args:
        raw: Everything that it returned.
        samples: The number of samples.
        choice: The user's `output=`, a name or an index.
    """
    if isinstance(choice, int) and choice < 0:
        choice += len(parts(raw))
    start: Place = () if choice is None else (choice,)
    if choice is not None and choice not in parts(raw):
        raise ValueError(
            f"output={choice!r}: the network returned {describe(raw)}, which has no such part"
        )
    place = next(_places(raw, samples, start), None)
    if place is None:
        empty = any(not y.numel() for _, y in leaves(raw))
        raise ValueError(
            f"the network returned {describe(raw)} for {samples} samples, expected a "
            f"floating-point tensor ({samples}, ...), or a structure with one"
            + (", with at least one number for each sample" if empty else "")
        )
    return place


def output_name(raw: Any, place: Place) -> str:
    """Return what a user would write for an output; an empty string if it is the only one.

    Example:
        >>> import torch
        >>> output_name({"logits": torch.zeros(2)}, ("logits",)), output_name([1, 2], (1,))
        ('logits', 'output[1]')
    """
    if not place:
        return ""
    first, *inside = place
    if isinstance(first, str):
        return expression(first, parts(raw)[first], tuple(inside))
    return expression("output", raw, place)


def say_random(place: Place, raw: Any, again: Any, x: Tensor) -> str:
    """Say which output is random, and which others are not.

    Args:
        place: The place of the output.
        raw: Everything that the network returned.
        again: What it returned for the same samples once more.
        x: The samples.
    """
    name = output_name(raw, place)
    steady = []
    for key in parts(raw) if place else ():
        other = next(_places(raw, len(x), (key,)), None)
        if other is not None and is_close(matrix(at(again, other)), matrix(at(raw, other)), x=x):
            steady.append(f"output={key!r}")
    return (
        f"the network's outputs {f'`{name}` ' if name else ''}are random: evaluated twice at the "
        "same samples, they differ"
        + (
            f"; choose others with {join_words(steady, 'or')}, which are not"
            if steady
            else ", but measures need a function: choose a part that is not random with network="
        )
    )


def _places(raw: Any, samples: int, start: Place) -> Iterator[Place]:
    """Yield the places of floating-point outputs with numbers for each sample."""
    for place, y in leaves(at(raw, start), start):
        if y.is_floating_point() and y.numel() and y.dim() and len(y) == samples:
            yield place
