"""Progress: a bar with the trainings that are done, the failures and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_effcx.studies.runner.jobs import Row

_A_YEAR = 365 * 24 * 3600.0  # seconds


@contextmanager
def progress_bar(
    total: int, done: int, *, console: Console | None = None, shown: bool = True
) -> Iterator[Callable[[Row], None]]:
    """Show a bar inside, if this is a terminal; yield the function that takes each new row."""
    console = console or Console(stderr=True)
    bar = Progress(
        TextColumn("trainings"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[red]{task.fields[failures]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not (shown and console.is_terminal),
        # By default rich looks back 30 seconds; one training may take longer.
        speed_estimate_period=_A_YEAR,
    )
    task = bar.add_task("", total=total, completed=done, failures="")
    failed = 0

    def advance(row: Row) -> None:
        nonlocal failed
        failed += bool(row.error)
        bar.update(task, advance=1, failures=f"{failed} failed" if failed else "")

    # Before 14.3, rich ends a disabled bar with an empty line.
    with nullcontext() if bar.disable else bar:
        yield advance
