"""The command `effcx`: each of its commands is one call into a room."""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size

from rich.console import Console

from lightning_effcx import __version__

_WIDTH = 100  # of tables that go to a file or pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after saying on stderr what was wrong."""
    arguments = _parser().parse_args(argv)
    try:
        _compare(arguments)
    except (ImportError, OSError, ValueError) as error:
        sys.stderr.write(f"effcx: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "effcx", description="See how complex the functions are that your networks represent."
    )
    parser.add_argument("--version", action="version", version=f"effcx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare = commands.add_parser(
        "compare",
        help="set runs side by side",
        description="Read TensorBoard runs and set them side by side. Runs that differ only in "
        "their seed form one row.",
    )
    compare.add_argument("folder", metavar="DIR", type=Path, help="read all runs below")
    compare.add_argument(
        "--metric",
        action="append",
        default=[],
        dest="metrics",
        metavar="PATTERN",
        help="show only matching measures and tags, such as 'transitions/*' or 'val_*'; repeatable",
    )
    compare.add_argument(
        "--sort", metavar="COLUMN", help="sort by a column; --sort=-COLUMN sorts descending"
    )
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV too")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")
    compare.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves too")
    return parser


def _compare(arguments: argparse.Namespace) -> None:
    # Imported here, because `effcx --help` shall not wait for TensorBoard, nor a table for
    # matplotlib.
    from lightning_effcx.compare import compare_runs, load_runs, renderings  # noqa: PLC0415

    _check_folders(arguments)
    if arguments.plot:
        from lightning_effcx.compare.plots import plot_runs, save_plot  # noqa: PLC0415
    with _plain_warnings():
        runs = load_runs(arguments.folder)
    if not runs:
        raise ValueError(f"There is no run below {str(arguments.folder)!r}.")
    comparison = compare_runs(runs, metrics=arguments.metrics, sort=arguments.sort)
    terminal = get_terminal_size(fallback=(_WIDTH, 0)).columns
    table = renderings.as_table(comparison, terminal)
    # Where the terminal is too narrow even so, rows go on in the next line, but nothing is cut.
    Console(width=renderings.width_of(table)).print(table)
    if arguments.csv:
        _write(arguments.csv, renderings.as_csv(comparison))
    if arguments.json:
        _write(arguments.json, renderings.as_json(comparison))
    if arguments.plot:
        save_plot(plot_runs(comparison), arguments.plot)
        _say_written(arguments.plot)


def _check_folders(arguments: argparse.Namespace) -> None:
    """Refuse output that has nowhere to go before minutes of reading, not after."""
    for file in (arguments.csv, arguments.json, arguments.plot):
        if file and not file.parent.is_dir():
            raise ValueError(f"There is no folder {str(file.parent)!r} to write {file.name} to.")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Say warnings in one line each on stderr, without the line of code they come from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        sys.stderr.write(f"warning: {warning.message}\n")


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="")
    _say_written(file)


def _say_written(file: Path) -> None:
    sys.stdout.write(f"wrote {file}\n")
