"""Outputs: find the output of interest, and check that each row depends on one sample alone."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_effcx.network.naming import expression, join_words
from lightning_effcx.network.nested import Place, at, describe, leaves, parts
from lightning_effcx.network.views import View, matrix, select_samples

ChooseOutput: TypeAlias = str | int

_CLOSE = 1e-3  # relative: kernels for other numbers of rows round differently, by less than this


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
        raise ValueError(
            f"the network returned {describe(raw)} for {samples} samples, expected a "
            f"floating-point tensor ({samples}, ...), or a structure with one"
        )
    return place


def output_name(raw: Any, place: Place) -> str:
    """Return what a user would write for an output; an empty string if it is the only one.

    Example:
        >>> output_name({"logits": torch.zeros(2)}, ("logits",)), output_name([1, 2], (1,))
        ('logits', 'output[1]')
    """
    if not place:
        return ""
    first, *inside = place
    if isinstance(first, str):
        return expression(first, parts(raw)[first], tuple(inside))
    return expression("output", raw, place)


def check_samples_independent(network: View, x: Tensor, raw: Any) -> None:
    """Raise if the output for a sample depends on the other samples of its batch.

    Args:
        network: The network, which knows the place of the output.
        x: The samples.
        raw: Everything that it returned for them.
    """
    # The first half would not do: if rows are steps of time, they do not depend on later rows.
    half = torch.arange(1, len(x), 2, device=x.device)
    if not len(half):
        return
    outputs = network.matrix(raw)
    try:
        some = select_samples(network, half)(x[half])
    except Exception as error:
        raise ValueError(
            f"the network cannot be evaluated at {len(half)} of the {len(x)} samples alone "
            f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}), but measures "
            "need a function of one sample: choose such a part with network="
        ) from error
    if _close(some, outputs[half]):
        return
    again = network.all_outputs(x)
    if not _close(network.matrix(again), outputs):
        raise ValueError(_say_random(network.place, raw, again, len(x)))
    raise ValueError(
        "the network's outputs for a sample change with the other samples in its batch, but "
        "measures need a function of one sample: choose such a part with network="
    )


def _say_random(place: Place, raw: Any, again: Any, samples: int) -> str:
    """Say which output is random, and which others are not."""
    name = output_name(raw, place)
    steady = []
    for key in parts(raw) if place else ():
        other = next(_places(raw, samples, (key,)), None)
        if other is not None and _close(matrix(at(again, other)), matrix(at(raw, other))):
            steady.append(f"output={key!r}")
    return (
        f"the network's outputs {f'`{name}` ' if name else ''}are random: evaluated twice at the "
        "same samples, they differ"
        + (f"; choose others with {join_words(steady, 'or')}, which are not" if steady else "")
    )


def _places(raw: Any, samples: int, start: Place) -> Iterator[Place]:
    """Yield the places of floating-point outputs with a row for each sample."""
    for place, y in leaves(at(raw, start), start):
        if y.is_floating_point() and y.dim() and len(y) == samples:
            yield place


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.abs().nan_to_num().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)
