"""Notes: what a reader of a comparison must know to trust its numbers, in one sentence each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from lightning_effcx.compare.formats import MARK
from lightning_effcx.compare.groups import Group
from lightning_effcx.compare.tables import Comparison

_SHOWN = 4  # names in a list, before it is cut


def notes_of(comparison: Comparison) -> list[str]:
    """Return what is to be said below a table."""
    rows = comparison.rows
    return [
        *_left_out(comparison),
        *_marks(comparison),
        *filter(None, (_without_hparams(row.group) for row in rows)),
    ]


def _left_out(comparison: Comparison) -> Iterator[str]:
    """Name the runs whose last values do not count."""
    for row in comparison.rows:
        steps: defaultdict[tuple[str, int, int], list[str]] = defaultdict(list)
        for name, cell in row.cells.items():
            for path, step in cell.left_out.items():
                steps[path, step, cell.steps[1]].append(name)
        for (path, step, latest), names in steps.items():
            what = "the run" if len(names) == len(row.cells) else _listed(names)
            do = "do" if 1 < len(names) < len(row.cells) else "does"
            yield (
                f"{MARK} The last values of the run {path} are of step {step}, those of others of "
                f"{row.group.label} of step {latest}: {what} {do} not count."
            )


def _marks(comparison: Comparison) -> Iterator[str]:
    """Say at which steps values are that are marked though they count."""
    ends: defaultdict[tuple[int, int], dict[str, None]] = defaultdict(dict)
    for row in comparison.rows:
        for name, cell in row.cells.items():
            if cell.n and name in comparison.uneven:
                ends[cell.steps][row.group.label] = None
    if len(ends) > 1 or any(first != last for first, last in ends):
        said = [
            f"{_listed([*labels])} at step {last}"
            if first == last
            else f"{_listed([*labels])} at steps {first} to {last}"
            for (first, last), labels in sorted(ends.items())
        ]
        yield f"{MARK} Last values are of different steps: {'; '.join(said)}."


def _without_hparams(group: Group) -> str | None:
    """Say of runs that nothing tells apart that they may be no repetitions of each other."""
    unknown = [run for run in group.runs if not run.hparams and not run.study]
    if len(unknown) < 2:  # noqa: PLR2004 one alone is averaged with no other
        return None
    return (
        f"{len(unknown)} runs in {group.path} have no hyperparameters, so they count as "
        "repetitions of each other, though they may be trained differently: call "
        "save_hyperparameters() in the module, or pass ComplexityMonitor(hparams={...})."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
