"""Formats: a comparison as a table for the terminal, as CSV and as JSON."""

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from os.path import commonprefix
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_effcx.compare.comparison import Comparison, ComparisonCell, ComparisonRow
from lightning_effcx.compare.runs import HParam

MARK = "*"
"""Stands behind a value whose step differs from that of other values in its column."""

_FRAME = 3  # two blanks and a line, for every column of a table
_LEAST, _MOST = -4, 7  # outside these powers of ten, numbers are written as 1.2e-05


def as_table(comparison: Comparison, width: int) -> Table:
    """Return a table for a terminal of `width` characters, with a row for each group.

    If that is too wide, and a column for each group is not, the table has a column for each group.
    If neither fits, the table is wider than the terminal, because numbers are never cut. Print it
    `width_of(table)` characters wide.
    """
    down = _groups_down(comparison)
    if width_of(down) <= width:
        return down
    across = (_groups_across(comparison, width, fold) for fold in (str, _folded))
    return next(filter(None, across), down)


def width_of(table: Table) -> int:
    """Return how many characters wide a table is."""
    return Console(width=sys.maxsize).measure(table).maximum


def as_csv(comparison: Comparison) -> str:
    """Return a comparison as CSV: the group, the number of runs, each column and its `_std`.

    A column with lower bounds is followed by `_at_least`, which is 1 for a bound. A column with
    values of different steps is followed by `_n`, the number of runs that count, and `_step`, the
    largest step of their values.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["group", "runs"]
    for column in comparison.columns:
        header += [column.name, f"{column.name}_std"]
        if column.name in comparison.bounds:
            header.append(f"{column.name}_at_least")
        if column.name in comparison.uneven:
            header += [f"{column.name}_n", f"{column.name}_step"]
    writer.writerow(header)
    for row in comparison.rows:
        values: list[str | float | None] = [row.group.label, len(row.group.runs)]
        for name, cell in row.cells.items():
            values += [cell.mean, cell.std]
            if name in comparison.bounds:
                values.append(int(cell.at_least))
            if name in comparison.uneven:
                values += [cell.n, cell.steps[1]]
        writer.writerow(values)
    return out.getvalue()


def as_json(comparison: Comparison) -> str:
    """Return a comparison as JSON: a list of groups. Values that are not finite become null.

    A mean that is only a lower bound has `"at_least": true`. If the values of a column are of
    different steps, `"steps"` holds the smallest and the largest step of the values that count, and
    `"left_out"` the steps of the runs that do not count, by path.
    """
    groups = [
        {
            "label": row.group.label,
            "runs": [run.path for run in row.group.runs],
            "hparams": {key: _finite(value) for key, value in row.group.hparams.items()},
            "columns": {
                name: {"mean": _finite(cell.mean), "std": _finite(cell.std), "n": cell.n}
                | ({"at_least": True} if cell.at_least else {})
                | (_steps_of(cell) if comparison.is_uneven(name, cell) else {})
                for name, cell in row.cells.items()
            },
        }
        for row in comparison.rows
    ]
    return json.dumps(groups, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _steps_of(cell: ComparisonCell) -> dict[str, Any]:
    return {"steps": list(cell.steps), "left_out": dict(cell.left_out)}


def _caption(comparison: Comparison) -> str:
    values = "last values" + (", of studies at the largest size" if comparison.studied else "")
    return f"mean ± standard deviation over runs, of {values}" if comparison.repeated else values


def _groups_down(comparison: Comparison) -> Table:
    table = Table("group", caption=_caption(comparison))
    for name in _names(comparison):
        table.add_column(Text(name), justify="right")
    for row in comparison.rows:
        # Text, because rich would take "[...]" in a plain string for markup.
        table.add_row(Text(row.group.label), *_values(comparison, row))
    for column in table.columns:
        column.no_wrap = True
    return table


def _groups_across(comparison: Comparison, width: int, fold: Callable[[str], str]) -> Table | None:
    """Return a table with a column for each group; `None` if it does not fit into `width`.

    The labels of the groups are folded as far as needed. `fold` may break other texts into lines.
    """
    labels = [row.group.label for row in comparison.rows]
    shared, equals, _ = commonprefix(labels).rpartition("=")  # noqa: RUF071 - of text, not paths
    shared += equals
    labels = [_folded(label.removeprefix(shared)) for label in labels]
    names = [_folded(shared).strip() or "group", *map(fold, _names(comparison))]
    values = [[fold(value) for value in _values(comparison, row)] for row in comparison.rows]
    widths = _widths(
        width - 1 - (_FRAME + _widest(names)) - _FRAME * len(labels),
        [_widest(column) for column in values],
        [_widest([label]) for label in labels],
    )
    if widths is None:
        return None
    table = Table(caption=_caption(comparison), show_lines=fold is _folded)
    table.add_column(Text(names[0]), no_wrap=True)
    for label, room in zip(labels, widths, strict=True):
        table.add_column(Text(label), width=room, overflow="fold", justify="right")
    for name, *row in zip(names[1:], *values, strict=True):
        table.add_row(Text(name), *row)
    return table


def _names(comparison: Comparison) -> list[str]:
    return ["runs", *(column.name for column in comparison.columns)]


def _values(comparison: Comparison, row: ComparisonRow) -> list[str]:
    values = [
        f"{_cell_text(cell)}{MARK}" if comparison.is_uneven(name, cell) else _cell_text(cell)
        for name, cell in row.cells.items()
    ]
    return [str(len(row.group.runs)), *values]


def _folded(text: str) -> str:
    """Break a label, a name, or a number with its spread into lines, after each joint.

    A dot is a joint only before a letter, such as before the variant of a measure.
    """
    return re.sub(r"(?<=[=/,]) ?|(?<=\.)(?=[a-z])| (?=±)", "\n", text)


def _widest(texts: Iterable[str]) -> int:
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _widths(room: int, needed: list[int], wanted: list[int]) -> list[int] | None:
    """Divide `room` among columns; `None` if it is less than they need.

    Each column gets at least the width that it needs, and at most the width that it wants.
    """
    for most in range(max(wanted, default=0), -1, -1):
        widths = [max(need, min(want, most)) for need, want in zip(needed, wanted, strict=True)]
        if sum(widths) <= room:
            return widths
    return None


def _cell_text(cell: ComparisonCell) -> str:
    """Return the spread with two digits, and the mean with as many decimals as the spread."""
    if cell.mean is None:
        return ""
    if cell.at_least:
        return f"≥ {_digits(cell.mean)}"
    if cell.std is None or not math.isfinite(cell.mean + cell.std):
        return _digits(cell.mean)
    if cell.std <= 1e-7 * abs(cell.mean):  # most curves are float32
        return f"{_digits(cell.mean)} ± 0"
    return _with_spread(cell.mean, cell.std)


def _with_spread(mean: float, std: float) -> str:
    power = _power(max(abs(mean), std))
    if not _LEAST <= power < _MOST:
        return f"({_with_spread(mean / 10.0**power, std / 10.0**power)})e{power:+03d}"
    place = _power(std) - 1  # of the last digit
    return " ± ".join(f"{round(it, -place):z.{max(-place, 0)}f}" for it in (mean, std))


def _power(value: float) -> int:
    """Return the exponent of a number in scientific notation, after rounding to two digits."""
    return int(f"{value:.1e}".partition("e")[2])


def _digits(value: float) -> str:
    """Return a number with four significant digits, and large numbers without an exponent."""
    if 10**3 <= abs(value) < 10**_MOST:
        return f"{value:.0f}"
    return f"{value:#.4g}".removesuffix(".")


def _finite(value: HParam | None) -> HParam | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
