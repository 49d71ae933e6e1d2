"""`effcx emc`, `effcx descent` and `effcx mimic`: the studies of what the user's code makes."""

import argparse
import sys
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from inspect import Parameter, signature
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rich.console import Console

from lightning_effcx.cli.files import check_folders, say, say_written, write_text
from lightning_effcx.options import check_count


def add_to(commands: Any) -> None:
    """Add the commands."""
    _add_emc(commands)
    _add_descent(commands)
    _add_mimic(commands)


def _add_emc(commands: Any) -> None:
    emc = _add_study(
        commands,
        "emc",
        "effective_model_complexity",
        help="find how many samples your training fits",
        description="Train your module on more and more samples, several times each, to find the "
        "largest number that it fits: its effective model complexity.",
        example="{'make_module': Classifier, 'dataset': (x, y), 'test': (x_test, y_test)}",
    )
    _add_trainings(emc)
    emc.add_argument(
        "--sizes", type=_sizes, metavar="N,N,...", help="numbers of samples; default: refined"
    )


def _add_descent(commands: Any) -> None:
    descent = _add_study(
        commands,
        "descent",
        "double_descent",
        help="find where the test error of wider or longer trainings peaks",
        description="Train your module in several widths, or for several numbers of epochs, to "
        "find where the test error peaks: where the effective model complexity is about the number "
        "of samples at hand.",
        example="{'make_module': {8: Narrow, 64: Wide}, 'dataset': (x, y), 'test': (x_test, "
        "y_test), 'samples': 200, 'along': 'width'}",
    )
    _add_trainings(descent)
    descent.add_argument("--samples", type=int, metavar="N", help="how many samples are at hand")


def _add_trainings(parser: argparse.ArgumentParser) -> None:
    """Add the options of studies that train the user's module."""
    add = parser.add_argument
    add("--epsilon", type=float, metavar="E", help="the training error allowed; default 0.1")
    add("--repeats", type=int, metavar="N", help="trainings of each size; default 3")
    add("--label-noise", type=float, metavar="P", help="share of labels made wrong; default 0.0")
    add("--batch-size", type=int, metavar="N", help="of the trainings; default 64")
    add("--threads", type=int, metavar="N", help="of each training; default 1")


def _add_mimic(commands: Any) -> None:
    mimic = _add_study(
        commands,
        "mimic",
        "mimic",
        help="find the smallest shallow network that does what yours does",
        description="Fit shallow students of several sizes to the logits of a network, and to the "
        "labels, and set them side by side with it.",
        example="{'network': network, 'dataset': (x, y), 'held_out': (x_test, y_test)}",
    )
    add = mimic.add_argument
    add(
        "--students",
        type=_sizes,
        metavar="N,N,...",
        help="hidden units of each student; default 8,16,32,64,128,256",
    )
    add("--bottleneck", type=int, metavar="K", help="width of a linear layer before; default None")
    add("--activation", metavar="NAME", help="relu, tanh or linear; default relu")
    add(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="of the logits' spread and of the decisions that a student may miss; default 0.05",
    )
    add("--steps", type=int, metavar="N", help="of each training; default 500")
    add(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="of the samples that the students do not see; default 0.25",
    )
    add(
        "--no-labels",
        dest="labels",
        action="store_false",
        help="fit to the logits alone, not to the labels too",
    )


def _add_study(
    commands: Any, name: str, function: str, example: str, **said: str
) -> argparse.ArgumentParser:
    """Add a command that calls a study, with the options that all studies have."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=said["help"],
        description=f"{said['description']} FACTORY takes no arguments and returns a dictionary of "
        f"those of lightning_effcx.studies.{function}, such as {example}. Options given here go "
        "before those of the dictionary. Modules are also found in the current folder.",
        argument_default=argparse.SUPPRESS,  # so that only those that are given do
    )
    parser.add_argument("factory", metavar="PACKAGE.MODULE:FACTORY", help="what is studied")
    add = parser.add_argument
    add("--seed", type=int, metavar="N", help="of the study; default 0")
    add("--folder", type=Path, metavar="DIR", help="keep results there, and go on from there")
    add("--processes", type=int, default=0, metavar="N", help="train in so many others at once")
    add("--json", type=Path, default=None, metavar="FILE", help="write what was found as JSON too")
    add("--plot", type=Path, default=None, metavar="FILE.png", help="draw it too")
    parser.set_defaults(run=_study, study=function)
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no sizes, expected whole numbers, such as 8,16,32"
        ) from None


def _study(arguments: argparse.Namespace) -> bool:
    check_folders(arguments)
    if arguments.plot:
        from lightning_effcx.plotting import save_figure  # noqa: PLC0415
    from lightning_effcx import studies  # noqa: PLC0415
    from lightning_effcx.compare.formats import width_of  # noqa: PLC0415

    study = getattr(studies, arguments.study)
    given = _given(arguments, signature(study).parameters)
    with _processes(arguments.processes) as executor, _told_to_go_on(given.get("folder")):
        found = study(**given | ({"executor": executor} if executor else {}))
    table = found.as_table()
    Console(width=width_of(table)).print(table)
    for key, error in found.failures.items():
        say(f"warning: {key} failed: {error.splitlines()[0]}")
    if arguments.json:
        write_text(arguments.json, found.as_json())
    if arguments.plot:
        save_figure(found.plot(), arguments.plot)
        say_written(arguments.plot)
    return not found.failures


def _given(arguments: argparse.Namespace, taken: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the arguments of a study: those that the factory made, and the options."""
    name = arguments.factory
    made = _made(name)
    if not isinstance(made, Mapping):
        raise TypeError(
            f"{name} returned a {type(made).__name__}, expected a dictionary of the study's "
            "arguments."
        )
    if unknown := [key for key in made if key not in taken]:
        raise ValueError(
            f"{name} returned a dictionary with {unknown[0]!r}, expected some of "
            f"{', '.join(taken)}."
        )
    given = {**made, **{key: value for key, value in vars(arguments).items() if key in taken}}
    needed = [key for key, parameter in taken.items() if parameter.default is parameter.empty]
    if lacking := [key for key in needed if key not in given]:
        raise ValueError(
            f"{name} returned a dictionary without {lacking[0]!r}, expected {', '.join(needed)} "
            "in it."
        )
    return given


def _made(name: str) -> Any:
    """Call a factory given by name."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as for `python -m`; other processes import it too
    try:
        factory = resolve_name(name)
        if not callable(factory):
            raise ValueError(f"a {type(factory).__name__} cannot be called")  # noqa: TRY301, TRY004
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            f"There is no {name!r} ({error}): expected PACKAGE.MODULE:FACTORY."
        ) from error
    try:
        return factory()
    except Exception as error:
        traceback.print_exc()
        raise ValueError(f"{name} failed, as told above, with {error!r}.") from error


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Start processes for trainings; 0 for none, where these run here."""
    check_count("processes", count, least=0)
    if not count:
        yield None
        return
    with ProcessPoolExecutor(count, get_context("spawn")) as executor:
        yield executor


@contextmanager
def _told_to_go_on(folder: Any) -> Iterator[None]:
    """Let an interrupt say where the study goes on from."""
    try:
        yield
    except KeyboardInterrupt:
        if not folder:
            raise
        sentence = f"the same command goes on from what is in {folder}"
        raise KeyboardInterrupt(sentence) from None
