"""Notes: warnings below a comparison, about numbers that may mislead, in one sentence each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from lightning_effcx.compare.comparison import Comparison
from lightning_effcx.compare.formats import MARK
from lightning_effcx.compare.groups import Group

_SHOWN = 4  # names in a list; the others are counted


def notes_of(comparison: Comparison) -> list[str]:
    """Return the notes below a table."""
    rows = comparison.rows
    return [
        *_left_out(comparison),
        *_marks(comparison),
        *filter(None, (_without_hparams(row.group) for row in rows)),
    ]


def _left_out(comparison: Comparison) -> Iterator[str]:
    """Name the runs whose last values are left out, because they ended early."""
    for row in comparison.rows:
        steps: defaultdict[tuple[str, int, int], list[str]] = defaultdict(list)
        for name, cell in row.cells.items():
            for path, step in cell.left_out.items():
                steps[path, step, cell.steps[1]].append(name)
        for (path, step, latest), names in steps.items():
            which = "all columns" if len(names) == len(row.cells) else _listed(names)
            yield (
                f"{MARK} In the run {path} the last values of {which} are of step {step}, in other "
                f"runs of {row.group.label} of step {latest}. They are left out of the means."
            )


def _marks(comparison: Comparison) -> Iterator[str]:
    """Name the steps of the values that count but are marked."""
    ends: defaultdict[tuple[int, int], dict[str, None]] = defaultdict(dict)
    for row in comparison.rows:
        for name, cell in row.cells.items():
            if cell.n and name in comparison.uneven:
                ends[cell.steps][row.group.label] = None
    if len(ends) > 1 or any(first != last for first, last in ends):
        places = [
            f"{_listed([*labels])} at step {last}"
            if first == last
            else f"{_listed([*labels])} at steps {first} to {last}"
            for (first, last), labels in sorted(ends.items())
        ]
        yield f"{MARK} Last values are of different steps: {'; '.join(places)}."


def _without_hparams(group: Group) -> str | None:
    """Warn of runs without hyperparameters, which may be no repetitions of each other."""
    unknown = [run for run in group.runs if not run.hparams and not run.study]
    if len(unknown) < 2:  # noqa: PLR2004 one alone is averaged with no other
        return None
    return (
        f"{len(unknown)} runs in {group.path} have no hyperparameters, so they are averaged as "
        "repetitions of each other. If they were trained differently, call save_hyperparameters() "
        "in the module, or pass ComplexityMonitor(hparams={...})."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
