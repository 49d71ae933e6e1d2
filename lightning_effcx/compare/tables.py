"""Tables: groups of runs side by side, with a column for everything that is compared.

A group's value is the mean of the last values of its runs, its spread their sample standard
deviation. A run that lacks a value is left out of the mean, and so is one whose last value is of
less than half as many steps as that of another run of the group: it crashed, or was not measured at
its end. Last values of different steps are marked. Where a value is but a lower bound, so is the
mean, and there is no spread: that of bounds says nothing about what they bound.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from operator import eq

from lightning_effcx import tags
from lightning_effcx.compare.groups import Group, group_runs
from lightning_effcx.compare.runs import Run

_TRAIN = "(?:train|training)"
_VALIDATION = "(?:val|valid|validation)"
_LOSS = "loss"
_ACCURACY = "(?:binary|multiclass|multilabel)?acc(?:uracy)?"


@dataclass(frozen=True)
class Column:
    """What is compared: the last value of `tag`, less that of `minus` if there is one."""

    name: str
    tag: str
    minus: str | None = None

    def final(self, run: Run) -> float | None:
        """The value of one run; `None` if the run did not log it."""
        needed = [self.tag] if self.minus is None else [self.tag, self.minus]
        if any(tag not in run.curves for tag in needed):
            return None
        value, *less = (run.curves[tag].final for tag in needed)
        return value - sum(less)

    def step(self, run: Run) -> int:
        """The step of that value; 0 where it is along something else, such as samples."""
        curve = run.curves[self.tag]
        return curve.steps[-1] if curve.along == "step" else 0

    def at_least(self, run: Run) -> bool:
        """Whether the value of one run is but a lower bound."""
        return self.minus is None and self.tag in run.curves and run.curves[self.tag].at_least


@dataclass(frozen=True)
class ComparisonCell:
    """Mean over the `n` runs whose values count, and their spread if they are several.

    `at_least` tells that the mean is but a lower bound, because a value is; `steps`, at which steps
    the first and the last of the values are; `left_out`, at which steps are those of the runs, by
    path, that do not count.
    """

    mean: float | None
    std: float | None
    n: int
    at_least: bool = False
    steps: tuple[int, int] = field(default=(0, 0), compare=False)
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class ComparisonRow:
    """One group, with a cell for every column by name."""

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
        """Whether the values of a column that a cell is of are not all of the latest step."""
        latest = max((row.cells[name].steps[1] for row in self.rows), default=0)
        return cell.n > 0 and (bool(cell.left_out) or cell.steps != (latest, latest))

    @property
    def uneven(self) -> frozenset[str]:
        """The names of columns of which some values are of other steps than others."""
        return frozenset(
            name for row in self.rows for name, it in row.cells.items() if self.is_uneven(name, it)
        )

    @property
    def bounds(self) -> frozenset[str]:
        """The names of columns in which a mean is but a lower bound."""
        return frozenset(
            name for row in self.rows for name, cell in row.cells.items() if cell.at_least
        )

    @property
    def studied(self) -> bool:
        """Whether any group is one of studies."""
        return any(run.study for row in self.rows for run in row.group.runs)


def compare_runs(
    runs: Sequence[Run], *, metrics: Sequence[str] = (), sort: str | None = None
) -> Comparison:
    """Compare the groups of `runs` by measures, validation results and generalization gap.

    Args:
        runs: As `load_runs` and `load_studies` return them.
        metrics: Show instead what matches these patterns, in their order. `*` stands for any
            characters. A pattern is matched with the names of measures, such as
            `transitions.segment`, and with every tag of the runs, such as `val_loss`; what matches
            none of them, with the names and tags of version 0.1, such as `transitions/segment`.
        sort: Name of the column to sort by, ascending, with a `-` in front descending; groups
            without a value come last. `None` sorts by label.
    """
    columns = _matching(runs, metrics) if metrics else _usual(runs)
    rows = [
        ComparisonRow(group, {column.name: _cell(column, group) for column in columns})
        for group in group_runs(runs)
    ]
    return Comparison(tuple(rows if sort is None else _sorted(rows, columns, sort)), columns)


def _measures(logged: Iterable[str]) -> list[Column]:
    read = {tag: tags.parse(tag) for tag in logged}
    return [Column(it.name, tag) for tag, it in read.items() if it and it.grain == "value"]


def _logged(runs: Sequence[Run]) -> list[str]:
    return sorted({tag for run in runs for tag in run.curves})


def _usual(runs: Sequence[Run]) -> tuple[Column, ...]:
    """What is shown unless asked otherwise."""
    logged = _logged(runs)
    return (*_measures(logged), *_validation(logged), *_gap(logged))


def _validation(logged: list[str]) -> list[Column]:
    found = (_tag_of(_VALIDATION, quantity, logged) for quantity in (_LOSS, _ACCURACY))
    return [Column(tag, tag) for tag in found if tag]


def _gap(logged: list[str]) -> list[Column]:
    """The generalization gap: positive where validation is worse than training."""
    train, validation = (_tag_of(split, _ACCURACY, logged) for split in (_TRAIN, _VALIDATION))
    if train and validation:
        return [Column("gap (accuracy)", train, minus=validation)]
    train, validation = (_tag_of(split, _LOSS, logged) for split in (_TRAIN, _VALIDATION))
    if train and validation:
        return [Column("gap (loss)", validation, minus=train)]
    return []


def _tag_of(split: str, quantity: str, logged: list[str]) -> str | None:
    """Find the tag that people usually give to a quantity of a split: `val_loss`, `Loss/val`, …."""
    usual = re.compile(f"{split}_{quantity}|{quantity}_{split}")
    for tag in logged:
        # Lightning appends _epoch where a value is logged per step as well.
        if usual.fullmatch(re.sub(r"[/.\- ]", "_", tag.lower()).removesuffix("_epoch")):
            return tag
    return None


def _matching(runs: Sequence[Run], patterns: Sequence[str]) -> tuple[Column, ...]:
    """What the patterns ask for, in their order; a measure goes by its name and by its tag."""
    logged = _logged(runs)
    measures = _measures(logged)
    shown = {column.tag for column in measures}
    others = [Column(tag, tag) for tag in logged if tag not in shown]
    columns = [*measures, *_gap(logged), *others]
    chosen: dict[str, Column] = {}
    for pattern in patterns:
        matches = _named(columns, partial(fnmatchcase, pat=pattern))
        if not matches:
            there_is = ", ".join(dict.fromkeys(map(_summary, columns))) or "nothing"
            raise ValueError(f"No metric matches {pattern!r}; there is {there_is}.")
        for column in matches:
            chosen.setdefault(column.name, column)
    return tuple(chosen.values())


def _named(columns: Sequence[Column], matches: Callable[[str], bool]) -> list[Column]:
    """Find columns by name or tag; where none is called so, by those of version 0.1."""
    for names in (_names, _former_names):
        found = [column for column in columns if any(map(matches, names(column)))]
        if found:
            return found
    return []


def _names(column: Column) -> set[str]:
    return {column.name} if column.minus else {column.name, column.tag}


def _former_names(column: Column) -> set[str]:
    tag = None if column.minus else tags.parse(column.tag)
    if tag is None:
        return set()
    name = {tags.slashed(tag.name)} if tag.grain == "value" else set()
    return {tag.of_version_0_1} | name


def _summary(column: Column) -> str:
    """Name a column in a list; the many sites of a network share one entry."""
    tag = tags.parse(column.tag)
    return f"{column.tag.rpartition('/')[0]}/*" if tag and tag.grain == "site" else column.name


def _cell(column: Column, group: Group) -> ComparisonCell:
    finals = [(run, value) for run in group.runs if (value := column.final(run)) is not None]
    if not finals:
        return ComparisonCell(None, None, 0)
    latest = max(column.step(run) for run, _ in finals)
    counted = [(run, value) for run, value in finals if 2 * column.step(run) >= latest]
    values = [value for _, value in counted]
    bounded = any(column.at_least(run) for run, _ in counted)
    return ComparisonCell(
        mean_of(values),
        None if bounded else spread_of(values),
        len(values),
        bounded,
        (min(column.step(run) for run, _ in counted), latest),
        {run.path: step for run, _ in finals if 2 * (step := column.step(run)) < latest},
    )


def mean_of(values: Sequence[float]) -> float:
    """Arithmetic mean; not finite where a value is not, where `statistics` would raise."""
    return sum(values) / len(values)


def spread_of(values: Sequence[float]) -> float | None:
    """Sample standard deviation; `None` for fewer than two values."""
    if len(values) < 2:  # noqa: PLR2004 - two values are what it takes
        return None
    mean = mean_of(values)
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / (len(values) - 1))


def _sorted(
    rows: list[ComparisonRow], columns: tuple[Column, ...], sort: str
) -> list[ComparisonRow]:
    asked = sort.removeprefix("-")
    found = _named(columns, partial(eq, asked))
    if not found:
        there_is = ", ".join(column.name for column in columns) or "none"
        raise ValueError(f"No column is named {asked!r}; there is {there_is}.")
    name = found[0].name
    sign = -1 if sort.startswith("-") else 1

    def key(row: ComparisonRow) -> tuple[bool, float]:
        mean = row.cells[name].mean
        missing = mean is None or math.isnan(mean)
        return missing, 0.0 if mean is None or missing else sign * mean

    return sorted(rows, key=key)
