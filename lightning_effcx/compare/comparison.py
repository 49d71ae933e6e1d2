"""Comparison: groups of runs side by side, with a cell for each group and column.

The value of a cell is the mean of the last values of the group's runs, with their sample standard
deviation. Two kinds of runs are left out of the mean:

- runs without the value;
- runs whose last value is of less than half as many steps as the last value of another run of the
  group. Such a run crashed, or was not measured at its end.

Cells whose last values are of different steps are marked. If a value is only a lower bound, so is
the mean. It then has no standard deviation, because the spread of bounds does not tell the spread
of the values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from lightning_effcx.compare.groups import Group
from lightning_effcx.compare.runs import Run


@dataclass(frozen=True)
class Column:
    """What is compared: the last value of `tag`, or its difference from the last of `minus`."""

    name: str
    tag: str
    minus: str | None = None

    def final(self, run: Run) -> float | None:
        """The value of one run; `None` if the run did not log it."""
        if self.tag not in run.curves:
            return None
        value = run.curves[self.tag].final
        if self.minus is None:
            return value
        return value - run.curves[self.minus].final if self.minus in run.curves else None

    def step(self, run: Run) -> int:
        """The step of that value; 0 if the curve is not over steps but, say, over samples."""
        curve = run.curves[self.tag]
        return curve.steps[-1] if curve.along == "step" else 0

    def at_least(self, run: Run) -> bool:
        """Whether the value of one run is only a lower bound."""
        return self.minus is None and self.tag in run.curves and run.curves[self.tag].at_least


@dataclass(frozen=True)
class ComparisonCell:
    """The mean over the runs of one group that count.

    Args:
        mean: The mean; `None` if no run has the value.
        std: The sample standard deviation; `None` for a single run, or for lower bounds.
        n: How many runs count.
        at_least: Whether the mean is only a lower bound, because a value is.
        steps: The smallest and the largest step of the values.
        left_out: The runs that do not count, by path, each with the step of its last value.
    """

    mean: float | None
    std: float | None
    n: int
    at_least: bool = False
    steps: tuple[int, int] = field(default=(0, 0), compare=False)
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, column: Column, group: Group) -> Self:
        """Average the last values of a group."""
        finals = [(run, value) for run in group.runs if (value := column.final(run)) is not None]
        if not finals:
            return cls(None, None, 0)
        steps = {run.path: column.step(run) for run, _ in finals}
        latest = max(steps.values())
        counted = [(run, value) for run, value in finals if 2 * steps[run.path] >= latest]
        values = [value for _, value in counted]
        bounded = any(column.at_least(run) for run, _ in counted)
        return cls(
            mean=mean_of(values),
            std=None if bounded else spread_of(values),
            n=len(values),
            at_least=bounded,
            steps=(min(steps[run.path] for run, _ in counted), latest),
            left_out={path: step for path, step in steps.items() if 2 * step < latest},
        )


@dataclass(frozen=True)
class ComparisonRow:
    """One group, with a cell for each column by name."""

    group: Group
    cells: dict[str, ComparisonCell]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side."""

    rows: tuple[ComparisonRow, ...]
    columns: tuple[Column, ...]

    @property
    def repeated(self) -> bool:
        """Whether any group has several runs."""
        return any(len(row.group.runs) > 1 for row in self.rows)

    def is_uneven(self, name: str, cell: ComparisonCell) -> bool:
        """Whether a cell of a column has values that are not of the column's latest step."""
        latest = max((row.cells[name].steps[1] for row in self.rows), default=0)
        return cell.n > 0 and (bool(cell.left_out) or cell.steps != (latest, latest))

    @property
    def uneven(self) -> frozenset[str]:
        """The names of the columns whose values are of different steps."""
        return frozenset(
            name
            for row in self.rows
            for name, cell in row.cells.items()
            if self.is_uneven(name, cell)
        )

    @property
    def bounds(self) -> frozenset[str]:
        """The names of the columns in which a mean is only a lower bound."""
        return frozenset(
            name for row in self.rows for name, cell in row.cells.items() if cell.at_least
        )

    @property
    def studied(self) -> bool:
        """Whether any group consists of studies."""
        return any(run.study for row in self.rows for run in row.group.runs)


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; not finite if a value is not finite, where `statistics` would raise."""
    return sum(values) / len(values)


def spread_of(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; `None` for fewer than two values."""
    if len(values) < 2:  # noqa: PLR2004 - two values are what it takes
        return None
    mean = mean_of(values)
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / (len(values) - 1))
