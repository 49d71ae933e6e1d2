"""Orders: where, among affine functions, two of them swap their ranks.

Sorting, top-k, a median and a k-th value pick elements by their rank. Between two neighbouring rows
all elements are affine. So two elements swap once at most, where they tie. The order in the middle
between two rows is the order everywhere between them if no two neighbours in it swap. A k-th value
is the same element everywhere if no other element passes it.

The swap that is next to the middle is a swap of such rivals (`rivals.py`). So if the order changes
at all between two rows, a swap is found. The part of the way on which the order is still unknown is
less than half as long after each round, because it does not contain the middle.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_effcx.piecewise.rivals import in_order
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.winners import contest, each_once, elements, tie_tolerance
from lightning_effcx.tracing import Operation

_MIDDLE = 0.5


def find_swaps(
    operation: Operation, between: Operation, out: Any, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Return after which rows, and how far, elements swap that bound the order in the middle.

    Further swaps may lie before or after them. So rows have to be inserted at the swaps, and swaps
    found again, until there are none.

    Args:
        operation: The choice at the rows.
        between: The choice in the middle between each two neighbouring rows.
        out: The result of `between`.
        rows: The rows.
    """
    values = elements(operation, len(rows.path))
    _, winners = contest(between, out, len(rows.path) - 1)
    first, second = in_order(values[:-1], winners)
    start, size = first - second, first.abs() + second.abs()
    first, second = in_order(values[1:], winners)
    end, size = first - second, size + first.abs() + second.abs()
    equal = tie_tolerance(values.dtype) * size
    swaps = ((start > equal) & (end < -equal)) | ((start < -equal) & (end > equal))
    swaps &= rows.joined()[:, None, None]
    fraction = torch.where(swaps, start / (start - end), torch.nan)
    places = torch.cat(_next_to_the_middle(fraction, winners.shape[-1] - 1), -1)
    is_swap = places.isfinite()
    return each_once(is_swap.nonzero(as_tuple=True)[0], places[is_swap])


def _next_to_the_middle(fraction: Tensor, neighbours: int) -> list[Tensor]:
    """Return where neighbours swap, and where the last winner is first passed on either side.

    Further away than that, another element is the last winner.
    """
    order, others = fraction.tensor_split([neighbours], -1)
    if not others.shape[-1]:
        return [order]
    before = others.where(others < _MIDDLE, -torch.inf).amax(-1, keepdim=True)
    after = others.where(others >= _MIDDLE, torch.inf).amin(-1, keepdim=True)
    return [order, before, after]
