"""Winners: where the element that a choice picks changes.

Max pooling, amax and Maxout choose in each window the largest of several elements, all of them
affine between two neighbouring rows. The maximum is their upper envelope: it bends where the winner
of a window changes, which is where two elements tie that are ahead of all others. A running maximum
has one window for each element, which holds this element and all before it. What sorting and the
like pick by rank is in `orders.py`; there, too, each position of the result is called a window.
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
    values = elements(operation, rows)
    if isinstance(out, Tensor):
        return values, values.argmax(2, keepdim=True)
    return values, _by_group(operation, out[1], rows)


def elements(operation: Operation, rows: int) -> Tensor:
    """Return the elements of a choice, as `contest` does."""
    z = -operation.z if operation.choice.of == "minimum" else operation.z
    return _by_group(operation, z, rows)


def number_units(operation: Operation, value: Tensor, rows: int) -> Tensor:
    """Return the place of each window in the flattened result of a choice, `(groups, windows)`.

    Args:
        operation: The choice.
        value: The result.
        rows: How many rows there are.
    """
    numbers = torch.arange(value.numel() // rows, device=value.device)
    return _by_group(operation, numbers.reshape(-1, *value.shape[1:]), 1)[0]


def place(by_window: Tensor, units: Tensor) -> Tensor:
    """Put numbers of windows, `(r, groups, windows)`, in the order of the result, `(r, u)`."""
    placed = torch.empty_like(by_window).flatten(1)
    placed[:, units.flatten()] = by_window.flatten(1)
    return placed


def count_rounds(operation: Operation) -> int:
    """Return after how many rounds of inserting rows at ties none can be left.

    Each round finds a new winner in a window of a maximum, or halves what is left of an order.
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
    ahead, behind, real = _compare(values, winners, left, group, window)
    return each_once(left[real], (ahead / (ahead + behind))[real])


def each_once(left: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Return ties without repetitions: neighbouring windows see the same tie."""
    both = torch.stack([left.to(fraction.dtype), fraction], 1).unique(dim=0)
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
    _, _, real = _compare(values, winners, row, group, window)
    value = out if isinstance(out, Tensor) else out[0]
    units = number_units(operation, value, len(rows.path) - 1)
    return left[row[real]] + 1, units[group, window][real]


def _compare(
    values: Tensor, winners: Tensor, row: Tensor, group: Tensor, window: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the winner at a row with the winner at the next row.

    Returns:
        How far the first is ahead at its row; how far the second is ahead at the next row; and
        whether they differ by more than rounding at both. Winners of a maximum are always ahead.
    """
    first, second = winners[row, group, window], winners[row + 1, group, window]
    ahead = values[row, group, first] - values[row, group, second]
    behind = values[row + 1, group, second] - values[row + 1, group, first]
    # Where they tie at zero, their own size says nothing about rounding.
    size = values[row, group, first].abs() + values[row + 1, group, second].abs()
    equal = tie_tolerance(values.dtype) * (size + ahead.abs() + behind.abs())
    return ahead, behind, (ahead.abs() > equal) & (behind.abs() > equal)


def _by_group(operation: Operation, values: Tensor, rows: int) -> Tensor:
    """View what goes into a choice, or comes out of it, by group.

    Returns:
        `(r, groups, elements)` or `(r, groups, windows)`.
    """
    choice = operation.choice
    if choice.window:
        values = values.flatten(-choice.window)
    elif values.dim() < operation.z.dim():
        values = values[..., None]  # the only window has no dimension of its own
    else:
        last = tuple(range(-len(choice.dims), 0))
        values = values.movedim(choice.dims, last).flatten(-len(last))
    return values.reshape(rows, -1, values.shape[-1])
