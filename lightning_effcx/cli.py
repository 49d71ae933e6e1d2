"""The command `effcx`: each of its commands is one call into a room."""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from shutil import get_terminal_size
from typing import Any

from rich.console import Console

from lightning_effcx import __version__

_WIDTH = 100  # of tables that go to a file or pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after saying on stderr what was wrong."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
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
    compare.set_defaults(run=_compare)
    _add_mimic(commands)
    return parser


def _add_mimic(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    mimic = commands.add_parser(
        "mimic",
        help="find the smallest shallow network that does what yours does",
        description="Fit shallow students of several sizes to the logits of a network, and to the "
        "labels, and set them side by side with it.",
    )
    mimic.add_argument(
        "factory",
        metavar="PACKAGE.MODULE:FACTORY",
        help="a function without arguments that returns (network, dataset), or (network, dataset, "
        "held_out) with samples that neither students nor network have seen: the network trained, "
        "the dataset of pairs (x, y), or a tuple of tensors. Modules are also found in the "
        "current folder.",
    )
    mimic.add_argument(
        "--students",
        type=_sizes,
        default=(8, 16, 32, 64, 128, 256),
        metavar="N,N,...",
        help="hidden units of each student (8,16,32,64,128,256)",
    )
    mimic.add_argument("--bottleneck", type=int, metavar="K", help="width of a linear layer before")
    mimic.add_argument("--activation", default="relu", help="relu, tanh or linear (%(default)s)")
    mimic.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the logits' spread and of the decisions that a student may miss (%(default)s)",
    )
    mimic.add_argument("--steps", type=int, default=500, help="of each training (%(default)s)")
    mimic.add_argument(
        "--held-out",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="of the samples, where the factory returns no others (%(default)s)",
    )
    mimic.add_argument("--no-labels", action="store_true", help="fit to logits alone")
    mimic.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    mimic.add_argument(
        "--processes", type=int, default=0, metavar="N", help="train in so many others at once"
    )
    mimic.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep results there; go on if it was stopped"
    )
    mimic.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")
    mimic.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it over the sizes too")
    mimic.set_defaults(run=_mimic)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no sizes, expected whole numbers, such as 8,16,32"
        ) from None


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


def _mimic(arguments: argparse.Namespace) -> None:
    from lightning_effcx.compare.renderings import width_of  # noqa: PLC0415

    _check_folders(arguments)
    if arguments.plot:
        from lightning_effcx.compare.plots import save_plot  # noqa: PLC0415
    network, dataset, *held_out = _made(arguments.factory)
    # By its name, for the annex knows nothing of torch.
    mimic = resolve_name("lightning_effcx.studies.mimic:mimic")
    with _processes(arguments.processes) as executor:
        study = mimic(
            network,
            dataset,
            students=arguments.students,
            bottleneck=arguments.bottleneck,
            activation=arguments.activation,
            tolerance=arguments.tolerance,
            steps=arguments.steps,
            held_out=held_out[0] if held_out else arguments.held_out,
            labels=not arguments.no_labels,
            executor=executor,
            seed=arguments.seed,
            folder=arguments.folder,
        )
    table = study.as_table()
    Console(width=width_of(table)).print(table)
    for row in study.failures:
        sys.stderr.write(f"effcx: {row.hidden} units: {row.error}\n")
    if arguments.json:
        _write(arguments.json, study.as_json())
    if arguments.plot:
        save_plot(study.plot(), arguments.plot)
        _say_written(arguments.plot)


def _made(name: str) -> tuple[Any, ...]:
    """Call a factory given by name, and return the network, the dataset, and what else it made."""
    sys.path.insert(0, "")  # as `python -m` does
    try:
        factory = resolve_name(name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            f"There is no {name!r} ({error}): expected package.module:factory."
        ) from error
    finally:
        sys.path.remove("")
    made = factory()
    if not isinstance(made, tuple) or len(made) not in {2, 3}:
        raise ValueError(
            f"{name} returned a {type(made).__name__}, expected (network, dataset), or "
            "(network, dataset, held_out)."
        )
    return made


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Start processes for trainings; 0 for none, where these run here."""
    if not count:
        yield None
        return
    with ProcessPoolExecutor(count, get_context("spawn")) as executor:
        yield executor


def _check_folders(arguments: argparse.Namespace) -> None:
    """Refuse output that has nowhere to go before minutes of reading, not after."""
    for option in ("csv", "json", "plot"):
        file = getattr(arguments, option, None)
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
