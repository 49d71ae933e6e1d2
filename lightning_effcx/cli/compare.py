"""`effcx compare`: compare runs and studies in one table."""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Any

from rich.console import Console

from lightning_effcx.cli.files import check_folders, say, say_written, write_text

_WIDTH = 100  # of a table that is written to a file or a pipe


def add_to(commands: Any) -> None:
    """Add the command to `effcx`."""
    compare = commands.add_parser(
        "compare",
        help="compare runs and studies in one table",
        description="Read all TensorBoard runs and studies below a folder, and print a table with "
        "the last value of each measure. Runs that differ only in their seed are one row.",
    )
    compare.add_argument("folder", metavar="DIR", type=Path, help="the folder to read")
    compare.add_argument(
        "--metric",
        action="append",
        default=[],
        dest="metrics",
        metavar="PATTERN",
        help="show only measures and tags that match, such as 'transitions.*' or 'val_*' (names "
        "of version 0.1, such as 'transitions/*', also match); may be given several times",
    )
    compare.add_argument(
        "--sort", metavar="COLUMN", help="sort by this column; --sort=-COLUMN sorts descending"
    )
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV, too")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    compare.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves, too")
    compare.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> bool:
    # Imported here, so that `effcx --help` need not wait for TensorBoard, nor a table for
    # matplotlib.
    from lightning_effcx.compare import compare_runs, formats, load_runs, load_studies  # noqa: PLC0415
    from lightning_effcx.compare.notes import notes_of  # noqa: PLC0415

    check_folders(arguments)
    if arguments.plot:
        from lightning_effcx.compare.plots import plot_runs  # noqa: PLC0415
        from lightning_effcx.plotting import save_figure  # noqa: PLC0415
    with _plain_warnings() as caught:
        runs = [*load_runs(arguments.folder), *load_studies(arguments.folder)]
    if not runs:
        raise ValueError(f"There is no run and no finished study below {str(arguments.folder)!r}.")
    comparison = compare_runs(runs, metrics=arguments.metrics, sort=arguments.sort)
    terminal = get_terminal_size(fallback=(_WIDTH, 0)).columns
    table = formats.as_table(comparison, terminal)
    # If the terminal is too narrow, the terminal wraps the rows, but nothing is cut.
    Console(width=formats.width_of(table)).print(table)
    for note in notes_of(comparison):
        sys.stdout.write(fill(note, terminal, subsequent_indent="  ") + "\n")
    if arguments.csv:
        write_text(arguments.csv, formats.as_csv(comparison))
    if arguments.json:
        write_text(arguments.json, formats.as_json(comparison))
    if arguments.plot:
        save_figure(plot_runs(comparison), arguments.plot)
        say_written(arguments.plot)
    return not caught


@contextmanager
def _plain_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Print each warning as one line on stderr, without the line of code that it comes from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    for warning in caught:
        say(f"warning: {warning.message}")
