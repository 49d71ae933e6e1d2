"""Progress: how many trainings of a study are done, how many failed, and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_effcx.studies.runner.jobs import Row

_A_YEAR = 365 * 24 * 3600.0  # of seconds: a training may take longer than rich looks back


@contextmanager
def progressing(
    total: int, done: int, *, console: Console | None = None, shown: bool = True
) -> Iterator[Callable[[Row], None]]:
    """Show a bar while inside, on terminals only; call what this yields with every new row."""
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
        speed_estimate_period=_A_YEAR,
    )
    task = bar.add_task("", total=total, completed=done, failures="")
    failed = 0

    def tell(row: Row) -> None:
        nonlocal failed
        failed += bool(row.error)
        bar.update(task, advance=1, failures=f"{failed} failed" if failed else "")

    with bar:
        yield tell
