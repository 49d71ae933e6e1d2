"""Tables: compare runs, in the columns that are asked for, or that are usual."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from operator import eq

from lightning_effcx import tags
from lightning_effcx.compare.comparison import Column, Comparison, ComparisonCell, ComparisonRow
from lightning_effcx.compare.groups import group_runs
from lightning_effcx.compare.runs import Run

_TRAIN = "(?:train|training)"
_VALIDATION = "(?:val|valid|validation)"
_LOSS = "loss"
_ACCURACY = "(?:binary|multiclass|multilabel)?acc(?:uracy)?"


def compare_runs(
    runs: Sequence[Run], *, metrics: Sequence[str] = (), sort: str | None = None
) -> Comparison:
    """Compare groups of runs by measures, validation results and generalization gap.

    Args:
        runs: The runs and studies, as `load_runs` and `load_studies` return them.
        metrics: Patterns that choose other columns, in this order. `*` stands for any characters. A
            pattern is matched with the names of measures, such as `transitions.segment`, and with
            all tags of the runs, such as `val_loss`. A pattern that matches none of them is matched
            with the names and tags of version 0.1, such as `transitions/segment`.
        sort: The name of the column to sort by, ascending; with a `-` in front descending. Groups
            without a value come last. `None` sorts by label.
    """
    columns = _matching(runs, metrics) if metrics else _usual(runs)
    rows = [
        ComparisonRow(group, {column.name: ComparisonCell.of(column, group) for column in columns})
        for group in group_runs(runs)
    ]
    return Comparison(tuple(rows if sort is None else _sorted(rows, columns, sort)), columns)


def _measures(logged: Iterable[str]) -> list[Column]:
    read = {tag: tags.parse(tag) for tag in logged}
    return [Column(it.name, tag) for tag, it in read.items() if it and it.grain == "value"]


def _logged(runs: Sequence[Run]) -> list[str]:
    return sorted({tag for run in runs for tag in run.curves})


def _usual(runs: Sequence[Run]) -> tuple[Column, ...]:
    """Return the columns that are shown if none are asked for."""
    logged = _logged(runs)
    return (*_measures(logged), *_validation(logged), *_gap(logged))


def _validation(logged: list[str]) -> list[Column]:
    found = (_tag_of(_VALIDATION, quantity, logged) for quantity in (_LOSS, _ACCURACY))
    return [Column(tag, tag) for tag in found if tag]


def _gap(logged: list[str]) -> list[Column]:
    """Return the generalization gap, which is positive if validation is worse than training."""
    train, validation = (_tag_of(split, _ACCURACY, logged) for split in (_TRAIN, _VALIDATION))
    if train and validation:
        return [Column("gap (accuracy)", train, minus=validation)]
    train, validation = (_tag_of(split, _LOSS, logged) for split in (_TRAIN, _VALIDATION))
    if train and validation:
        return [Column("gap (loss)", validation, minus=train)]
    return []


def _tag_of(split: str, quantity: str, logged: list[str]) -> str | None:
    """Find the tag of a quantity of a split under its usual names: `val_loss`, `Loss/val`, …."""
    usual = re.compile(f"{split}_{quantity}|{quantity}_{split}")
    for tag in logged:
        # Lightning appends _epoch to the tag if a value is logged per step, too.
        if usual.fullmatch(re.sub(r"[/.\- ]", "_", tag.lower()).removesuffix("_epoch")):
            return tag
    return None


def _matching(runs: Sequence[Run], patterns: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns that match patterns, in the order of the patterns."""
    logged = _logged(runs)
    measures = _measures(logged)
    known = {column.tag for column in measures}
    others = [Column(tag, tag) for tag in logged if tag not in known]
    columns = [*measures, *_gap(logged), *others]
    chosen: dict[str, Column] = {}
    for pattern in patterns:
        matches = _named(columns, partial(fnmatchcase, pat=pattern))
        if not matches:
            known_names = ", ".join(dict.fromkeys(map(_summary, columns))) or "nothing"
            raise ValueError(f"No metric matches {pattern!r}: expected one of {known_names}.")
        for column in matches:
            chosen.setdefault(column.name, column)
    return tuple(chosen.values())


def _named(columns: Sequence[Column], matches: Callable[[str], bool]) -> list[Column]:
    """Find columns by name or tag; if there is none, by name or tag of version 0.1."""
    for names in (_names, _former_names):
        found = [column for column in columns if any(map(matches, names(column)))]
        if found:
            return found
    return []


def _names(column: Column) -> set[str]:
    return {column.name} if column.minus else {column.name, column.tag}


def _former_names(column: Column) -> set[str]:
    return set() if column.minus else tags.former_names(column.tag)


def _summary(column: Column) -> str:
    """Return the name of a column in a list, in which all sites of a network share one name."""
    tag = tags.parse(column.tag)
    return tag.all_sites if tag and tag.grain == "site" else column.name


def _sorted(
    rows: list[ComparisonRow], columns: tuple[Column, ...], sort: str
) -> list[ComparisonRow]:
    """Sort rows by the mean of a column; rows without a mean come last."""
    asked = sort.removeprefix("-")
    found = _named(columns, partial(eq, asked))
    if not found:
        known = ", ".join(column.name for column in columns) or "none"
        raise ValueError(f"No column is named {asked!r}: expected one of {known}.")
    name = found[0].name
    sign = -1 if sort.startswith("-") else 1

    def key(row: ComparisonRow) -> tuple[bool, float]:
        mean = row.cells[name].mean
        missing = mean is None or math.isnan(mean)
        return missing, 0.0 if mean is None or missing else sign * mean

    return sorted(rows, key=key)
