"""Winners: where, among affine functions, another one becomes the largest.

Max pooling, amax and Maxout choose in each window the largest of several elements, all of them
affine between two neighbouring rows. The maximum is their upper envelope: it bends where the winner
of a window changes, which is where two elements tie that are ahead of all others.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.tracing import Operation

_BITS = 64  # more than the fraction of any number has


def contest(operation: Operation, out: Any, rows: int) -> tuple[Tensor, Tensor]:
    """Return the elements of a choice and its winners.

    Args:
        operation: The choice.
        out: The result of the operation.
        rows: How many rows there are.

    Returns:
        The elements, `(r, groups, elements)`, negative for a minimum; and the index of the winner
        of each window among the elements of its group, `(r, groups, windows)`.
    """
    choice = operation.choice
    z = -operation.z if choice.of == "minimum" else operation.z
    if choice.window:
        grid = -choice.window
        values, winners = z.flatten(grid), out[1].flatten(grid)
        values = values.reshape(rows, -1, values.shape[-1])
        return values, winners.reshape(rows, -1, winners.shape[-1])
    last = tuple(range(-len(choice.dims), 0))
    values = z.movedim(choice.dims, last).flatten(-len(last))
    values = values.reshape(rows, -1, values.shape[-1])
    return values, values.argmax(2, keepdim=True)


def count_rounds(operation: Operation) -> int:
    """Return after how many rounds of inserting rows at ties none can be left.

    Each round finds a new winner in a window, of which there are as many as elements.
    Where rounding has a tie found twice, the second one lies in a much shorter interval.
    """
    return operation.choice.elements + _BITS


def tie_tolerance(dtype: torch.dtype) -> float:
    """Return by how much of their size two elements may differ and still count as equal.

    An element is the sum of many products, so it is less precise than one number of its type.
    """
    return max(1e-12, 16 * torch.finfo(dtype).eps)


def find_ties(operation: Operation, out: Any, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return after which rows, and how far, the winner at a row ties with that of the next row.

    A third element may be ahead of both at the tie. So rows have to be inserted at the ties, and
    ties found again, until there are none.
    """
    values, winners = contest(operation, out, len(rows.path))
    changes = (winners[1:] != winners[:-1]) & rows.joined()[:, None, None]
    left, group, window = changes.nonzero(as_tuple=True)
    ahead, behind, real = _overtaken(values, winners, left, group, window)
    fraction = (ahead / (ahead + behind))[real]
    # Neighbouring windows see the same tie.
    both = torch.stack([left[real].to(fraction.dtype), fraction], 1).unique(dim=0)
    return both[:, 0].long(), both[:, 1]


def find_changes(operation: Operation, out: Any, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the rows and windows at which the winner changes.

    Args:
        operation: The choice in the middle between each two neighbouring rows, where nothing ties.
        out: The result of the operation.
        rows: The rows between which it is.
    """
    values, winners = contest(operation, out, len(rows.path) - 1)
    apart = rows.joined() & (rows.position.diff() > tie_tolerance(rows.position.dtype))
    (left,) = apart.nonzero(as_tuple=True)  # where rows coincide, no element is ahead
    values, winners = values[left], winners[left]
    path = rows.path[left]
    changes = (winners[1:] != winners[:-1]) & (path[1:] == path[:-1])[:, None, None]
    row, group, window = changes.nonzero(as_tuple=True)
    _, _, real = _overtaken(values, winners, row, group, window)
    return left[row[real]] + 1, (group * winners.shape[2] + window)[real]


def _overtaken(
    values: Tensor, winners: Tensor, row: Tensor, group: Tensor, window: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the winner at a row with the winner at the next row.

    Returns:
        How far the first is ahead at its row; how far the second is ahead at the next row; and
        whether both are ahead by more than rounding.
    """
    first, second = winners[row, group, window], winners[row + 1, group, window]
    ahead = values[row, group, first] - values[row, group, second]
    behind = values[row + 1, group, second] - values[row + 1, group, first]
    # Where they tie at zero, their own size says nothing about rounding.
    size = values[row, group, first].abs() + values[row + 1, group, second].abs()
    tie = tie_tolerance(values.dtype) * (size + ahead + behind)
    return ahead, behind, (ahead > tie) & (behind > tie)
