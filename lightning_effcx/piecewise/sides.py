"""Sides: the values of a tensor that jumps at rows, on the left and on the right of each row.

Such a tensor is affine between two rows. It goes from the right side of the first row to the left
side of the second row. A comparison is one: it is constant between its kinks, and jumps there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.tolerances import tolerance


@dataclass(frozen=True, eq=False)
class Sides:
    """A tensor that jumps at rows.

    Attributes:
        left: The values on the left of each row. At the start of a path they are those on the
            right.
        right: The values on the right of each row. At the end of a path they are those on the left.
        version: The version of the rows.
        is_flat: Whether it is constant between rows.
        is_number: Whether it is made by an operator that returns numbers, such as `sign`.
        site: The site of a comparison that it comes from.
        operator: The operator of this site.
    """

    left: Tensor
    right: Tensor
    version: int
    is_flat: bool
    is_number: bool
    site: str
    operator: str


def split(at_rows: Tensor, between: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the values of a comparison on the left and on the right of each row.

    Args:
        at_rows: What it returns at the rows; it counts only for a path of one row.
        between: What it returns in the middle between each two neighbouring rows.
        rows: The rows.
    """
    count = len(rows.path)
    right = at_rows.unflatten(0, (count, -1)).clone()
    left = right.clone()
    joined = rows.joined()
    inside = between.unflatten(0, (count - 1, -1))[joined] if count > 1 else right[:0]
    right[:-1][joined] = inside
    left[1:][joined] = inside
    is_start, is_end = _ends(~joined)
    left[is_start] = right[is_start]
    right[is_end] = left[is_end]
    return left.flatten(0, 1), right.flatten(0, 1)


def agree(left: Tensor, right: Tensor, rows: Rows, blocks: int = 1) -> Tensor | None:
    """Return the values of a tensor at the rows if it jumps at none of them; else `None`.

    Rows at one place count as one. The interval between them has no length, so that rounding alone
    says which side of a kink it is on.

    Args:
        left: The values on the left of each row.
        right: The values on the right of each row.
        rows: The rows.
        blocks: How many equal parts the rows have. Those after the first are copies with other
            rounding, which may jump.
    """
    if left is right or torch.equal(left, right):
        return right
    before, after = (side.reshape(len(rows.path), -1) for side in (left, right))
    joined = rows.joined()
    # Units that share a boundary find it at positions that differ by rounding, 2e-12 of a segment
    # in double precision. On so short a way, a unit does not move as far as `_close` tolerates.
    apart = ~(joined & (rows.position.diff() <= tolerance(0.75, left.dtype)))
    is_first, is_last = _ends(apart)
    place = is_first.cumsum(0) - 1
    is_start, is_end = _ends(~joined)
    has_left, has_right = ~is_start[is_first], ~is_end[is_last]
    start, end = before[is_first], after[is_last]
    scale = _scale(before, after, rows)
    is_copy = torch.arange(len(before), device=left.device) >= len(before) // blocks
    judged = has_left & has_right & ~is_copy[is_first]
    jumps = ~_close(start, end, scale[is_first]) & judged[:, None]
    if jumps.any():
        return None
    truth = torch.where(has_right[:, None], end, start)[place]
    # Rows keep their own values, since a unit may be exactly on its kink at one row of a place.
    own = _exact(before, after)
    return torch.where(_close(own, truth, scale), own, truth).reshape(right.shape)


def _ends(apart: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which rows are the first and the last of their group, given which gaps are between."""
    edge = apart.new_ones(1)
    return torch.cat([edge, apart]), torch.cat([apart, edge])


def _scale(before: Tensor, after: Tensor, rows: Rows) -> Tensor:
    """Return the largest finite value of each unit on the path of each row."""
    size = torch.maximum(before.abs(), after.abs()).nan_to_num(0.0, 0.0, 0.0)
    _, path = torch.unique_consecutive(rows.path, return_inverse=True)
    largest = size.new_zeros(int(path[-1]) + 1, size.shape[1])
    largest.scatter_reduce_(0, path[:, None].expand_as(size), size, "amax")
    return largest[path]


def _exact(before: Tensor, after: Tensor) -> Tensor:
    """Choose at each row the side that has less rounding.

    A side is exact if the unit is constant in the interval on that side, such as 0 beside a mask.
    Where no side is, the unit mostly passes 0, so that the smaller value is nearer to the truth.
    """
    is_smaller = before.abs() < after.abs()
    same_before, same_after = torch.zeros_like(is_smaller), torch.zeros_like(is_smaller)
    same_before[1:] = before[1:] == after[:-1]
    same_after[:-1] = after[:-1] == before[1:]
    return torch.where(same_before | (is_smaller & ~same_after), before, after)


def _close(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Tell whether two values are equal up to rounding.

    Both sides of a row come from different operations, and the row itself lies at its kink up to
    rounding. Half of the digits are far more than that takes. They are also enough for a kink in
    double precision beside a constant in single precision. A unit that is zero but for rounding,
    such as the difference of two equal units, has the rounding of the other units of its size.
    """
    eps = torch.finfo(a.dtype).eps
    tolerance = eps**0.5 * scale + 2**12 * eps * scale.amax(1, keepdim=True)
    return (a == b) | ((a - b).abs() <= tolerance)
