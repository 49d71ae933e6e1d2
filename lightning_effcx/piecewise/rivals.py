"""Rivals: pairs of elements of a choice that bound the region in which it picks the same ones.

In this region no two rivals tie. The winner of a window has all other elements of the window as its
rivals. What is picked by rank has these rivals: each two neighbours in the order, and the last that
is picked with each element, where not all are picked.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_effcx.tracing import Operation


class Rivals(NamedTuple):
    """The rivals of one choice at some samples.

    Attributes:
        pairs: Given elements, `(..., n, groups, elements)`, returns the first and the second of
            each pair, which have equal shapes or broadcast.
        kinks: How often rivals can tie on a straight line, at most, in all groups together.
    """

    pairs: Callable[[Tensor], tuple[Tensor, Tensor]]
    kinks: int


def find_rivals(
    operation: Operation, winners: Tensor, elements: int, pool: Callable[[Tensor], Tensor]
) -> Rivals:
    """Return the rivals of a choice.

    Args:
        operation: The choice.
        winners: What it picks, `(n, groups, windows)`.
        elements: How many elements a group has.
        pool: If the choice is a pooling, returns what it makes of images.
    """
    _, groups, count = winners.shape
    if operation.choice.of == "order":
        kinks = groups * math.comb(elements, 2)  # each two elements swap once
        return Rivals(partial(in_order, winners=winners), kinks)
    windows = _windows(pool, operation, elements).to(winners.device)
    kinks = groups * (int((windows >= 0).sum()) - count)
    return Rivals(partial(_in_windows, winners=winners, windows=windows), kinks)


def in_order(values: Tensor, winners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rivals among elements that are picked by rank.

    Args:
        values: The elements, `(..., groups, elements)`.
        winners: What is picked, in order, `(..., groups, windows)`.

    Returns:
        The first and the second elements, `(..., groups, pairs)`. The first `windows - 1` pairs are
        neighbours in the order.
    """
    picked = values.gather(-1, winners.expand(*values.shape[:-1], -1))
    others = values if winners.shape[-1] < values.shape[-1] else values[..., :0]
    first = torch.cat([picked[..., :-1], picked[..., -1:].expand_as(others)], -1)
    return first, torch.cat([picked[..., 1:], others], -1)


def _in_windows(values: Tensor, winners: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the winner of each window, and each element of it; the winner where there is none."""
    first = values.gather(-1, winners.expand(*values.shape[:-1], -1))[..., None]
    second = values[..., windows.clamp(min=0)]
    return first, torch.where(windows < 0, first, second)


def _windows(pool: Callable[[Tensor], Tensor], operation: Operation, elements: int) -> Tensor:
    """Return which elements are in each window, `(windows, elements)`; -1 where one has fewer.

    Along each dimension the pooling itself is asked which windows see a one in a certain place.
    """
    choice = operation.choice
    if choice.is_running:
        every = torch.arange(elements).expand(elements, -1)
        return every.masked_fill(every > every.T, -1)
    if not choice.window:
        return torch.arange(elements)[None]
    grid = operation.z.shape[-choice.window :]
    windows = torch.zeros(1, 1, dtype=torch.long)
    for dim, size in enumerate(grid, start=1):
        shape = [size if i == dim else 1 for i in range(1, 1 + len(grid))]
        ones = torch.eye(size, dtype=operation.z.dtype).reshape(size, *shape).expand(size, *grid)
        seen = pool(ones[:, None].to(operation.z.device))[:, 0].movedim(dim, 1)
        seen = (seen.flatten(2).amax(2).T > 0).cpu()  # (windows, places) along this dimension
        places = torch.where(seen, torch.arange(size), -1).sort(1, descending=True).values
        inner = places[None, :, None, : seen.sum(1).max()]
        outer = windows[:, None, :, None]
        joint = torch.where((outer < 0) | (inner < 0), -1, outer * size + inner)
        windows = joint.flatten(2).flatten(0, 1)
    return windows
