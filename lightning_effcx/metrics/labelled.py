"""Labelled samples: what users give as training samples, read once and checked."""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, default_collate

from lightning_effcx.network import describe, observing, to_precision

_READ_TWICE = 8  # items, to see whether the dataset returns the same each time


def read_samples(
    data: tuple[Tensor, Tensor] | Dataset[Any], samples: int | None, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return the inputs `(n, ...)` and classes `(n,)` of random samples, in their order.

    Args:
        data: Tensors `(x, y)`, or a dataset with a length and items `(x, y)`.
        samples: How many samples to take; `None` for all.
        generator: The source of the choice.
    """
    chosen = torch.randperm(_count(data), generator=generator)[:samples].sort().values
    if isinstance(data, tuple):
        x, y = data
        if len(x) != len(y):
            raise ValueError(
                f"there are {len(x)} inputs and {len(y)} labels: expected one label for each input."
            )
        x, y = x[chosen.to(x.device)].detach(), y[chosen.to(y.device)].detach()
    else:
        x, y = _read(data, chosen.tolist())
    exact = to_precision(y, torch.float64)
    if y.numel() != len(y) or not torch.equal(exact, exact.round()):
        raise ValueError(
            f"the labels are {describe(y)}: expected a class for each sample, as a whole number; "
            "the training error of other targets is not defined."
        )
    return x, y.flatten().long()


def _count(data: Any) -> int:
    """Return how many samples there are, or say what is wrong with the data."""
    if isinstance(data, tuple) and [isinstance(part, Tensor) for part in data] != [True, True]:
        raise TypeError(f"data is {describe(data)}: expected two tensors (x, y), or a dataset.")
    try:
        total = len(data[0] if isinstance(data, tuple) else data)
    except TypeError:
        raise TypeError(
            f"data={data!r} has no length: expected tensors (x, y), or a dataset with a length."
        ) from None
    if not hasattr(data, "__getitem__"):
        raise TypeError(
            f"data is a {type(data).__name__}, which has no items: expected tensors (x, y), or a "
            "dataset whose samples can be read by their index."
        )
    if not total:
        raise ValueError("data has no samples: expected at least one.")
    return total


def _read(dataset: Dataset[Any], chosen: list[int]) -> tuple[Tensor, Tensor]:
    """Read samples of a dataset. It must return the same each time."""
    # A dataset that augments draws random numbers. It must not draw the training's.
    with observing(dataset.__getitem__):
        items = [dataset[i] for i in chosen]
        again = [dataset[i] for i in chosen[:_READ_TWICE]]
    item = items[0]
    if not isinstance(item, (tuple, list)) or len(item) != 2:  # noqa: PLR2004 x and y
        raise ValueError(f"the dataset's items are {describe(item)}: expected pairs (x, y).")
    x, y = _together(items)
    for first, second in zip((x, y), _together(again), strict=True):
        if not torch.equal(first[: len(second)], second):
            raise ValueError(
                "the dataset returns another sample each time: give it without augmentation."
            )
    return x, y


def _together(items: list[Any]) -> tuple[Tensor, Tensor]:
    """Join items `(x, y)` to tensors of all inputs and all labels."""
    try:
        x, y = default_collate([tuple(item) for item in items])
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x, y
    except (RuntimeError, TypeError):  # different shapes, or images that are not tensors
        pass
    raise ValueError(
        f"the dataset's items, such as {describe(items[0])}, cannot be joined to tensors "
        "(n, ...) and (n,): expected tensors or numbers of one shape."
    )
