"""Crossings: where, on rows between which all units are affine, a unit passes one of its kinks."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lightning_effcx.piecewise.rounding import least
from lightning_effcx.piecewise.rows import Rows


class BetweenRows(NamedTuple):
    """Units that pass a kink between two rows, one entry each.

    Attributes:
        left: The row before.
        unit: The unit.
        kink: The index of the kink among the kinks of the unit.
        fraction: The fraction of the way from the row before to the row after.
    """

    left: Tensor
    unit: Tensor
    kink: Tensor
    fraction: Tensor


class AtRows(NamedTuple):
    """Units that pass a kink exactly at a row, one entry each.

    Attributes:
        row: The row.
        unit: The unit.
        kink: The index of the kink among the kinks of the unit.
    """

    row: Tensor
    unit: Tensor
    kink: Tensor


class Crossings(NamedTuple):
    """Where units pass kinks.

    Attributes:
        between: The crossings between two rows.
        at_rows: The crossings exactly at a row.
        nearest: How near to its kink a unit comes that passes it, without being on it, at a row.
    """

    between: BetweenRows
    at_rows: AtRows
    nearest: float


FindCrossings: TypeAlias = Callable[[Tensor, tuple[float, ...], Rows, Tensor | None], Crossings]


def find_crossings(
    z: Tensor, kinks: tuple[float, ...], rows: Rows, rounding: Tensor | None = None
) -> Crossings:
    """Find where units pass kinks. A unit that only touches a kink does not pass it.

    Args:
        z: The pre-activations, `(r, u)`.
        kinks: The kinks of every unit.
        rows: The rows.
        rounding: How near to a kink each unit is on it, `(r, u)`; by default it has to be equal.
    """
    joined = rows.joined()
    between, at_rows, nearest = [], [(rows.path[:0],) * 3], math.inf
    for index, kink in enumerate(kinks):
        above = z > kink if rounding is None else z - kink > rounding
        left, unit = (above[1:] != above[:-1]).nonzero(as_tuple=True)
        inside = joined[left]
        left, unit = left[inside], unit[inside]
        start, end = z[left, unit] - kink, z[left + 1, unit] - kink
        if rounding is not None:
            start = start.where(start.abs() > rounding[left, unit], 0.0)
            end = end.where(end.abs() > rounding[left + 1, unit], 0.0)
        nearest = min(nearest, least(start), least(end))
        on_row = (start == 0) | (end == 0)
        if on_row.any():
            row, on_kink = _passing(above, left[on_row], unit[on_row], end[on_row] == 0, rows)
            at_rows.append((row, on_kink, torch.full_like(row, index)))
            left, unit, start, end = (t[~on_row] for t in (left, unit, start, end))
        between.append((left, unit, torch.full_like(left, index), start / (start - end)))
    return Crossings(
        BetweenRows(*(torch.cat(column) for column in zip(*between, strict=True))),
        AtRows(*(torch.cat(column) for column in zip(*at_rows, strict=True))),
        nearest,
    )


def cross_once(
    z: Tensor, kinks: tuple[float, ...], rows: Rows, rounding: Tensor | None = None
) -> Crossings:
    """Pretend that the first unit passes a kink between the first two rows.

    A pass with this function shows whether a network still runs after a row is inserted.
    """
    del kinks, rounding
    first = torch.zeros(int(not rows.version), dtype=torch.long, device=z.device)
    fraction = torch.full_like(first, 0.5, dtype=rows.position.dtype)
    return Crossings(BetweenRows(first, first, first, fraction), AtRows(*[first[:0]] * 3), math.inf)


def _passing(
    above: Tensor, left: Tensor, unit: Tensor, ends: Tensor, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Return the rows at which units pass a kink, and these units.

    Args:
        above: Whether each unit is above the kink at each row, `(r, u)`.
        left: Rows at which a unit is on the kink, or is so at the next row.
        unit: The units.
        ends: Whether the unit is on the kink at the next row.
        rows: The rows.
    """
    row = left + ends.long()
    place = rows.places()  # several units may bend there, each with a row of its own
    before = torch.searchsorted(place, place[row]) - 1
    after = torch.searchsorted(place, place[row], right=True)
    beyond = torch.where(ends, after, before)  # the neighbour on the other side
    exists = (beyond >= 0) & (beyond < len(above))
    row, unit, beyond = row[exists], unit[exists], beyond[exists]
    passes = (rows.path[row] == rows.path[beyond]) & ~above[beyond, unit]
    return row[passes], unit[passes]
