"""`effcx emc`, `effcx descent` and `effcx mimic`: run studies of the user's code."""

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
    """Add the commands to `effcx`."""
    _add_emc(commands)
    _add_descent(commands)
    _add_mimic(commands)


def _add_emc(commands: Any) -> None:
    emc = _add_study(
        commands,
        "emc",
        "effective_model_complexity",
        help="find how many samples your training fits",
        description="Find the largest number of samples that your training fits, its effective "
        "model complexity. Your module is trained on many numbers of samples, several times each.",
        example="{'make_module': Classifier, 'dataset': (x, y), 'test': (x_test, y_test)}",
    )
    _add_trainings(emc)
    emc.add_argument(
        "--sizes",
        type=_sizes,
        metavar="N,N,...",
        help="numbers of samples to train on; default: bisection",
    )


def _add_descent(commands: Any) -> None:
    descent = _add_study(
        commands,
        "descent",
        "double_descent",
        help="find where the test error of wider or longer trainings peaks",
        description="Find where the test error peaks as your network becomes wider, or your "
        "training longer. The effective model complexity there is about the number of samples.",
        example="{'make_module': {8: Narrow, 64: Wide}, 'dataset': (x, y), 'test': (x_test, "
        "y_test), 'samples': 200, 'along': 'width'}",
    )
    _add_trainings(descent)
    descent.add_argument(
        "--samples", type=int, metavar="N", help="compare errors at this many samples"
    )


def _add_trainings(parser: argparse.ArgumentParser) -> None:
    """Add the options of studies that train the user's module."""
    add = parser.add_argument
    add(
        "--epsilon",
        type=float,
        metavar="E",
        help="training error that counts as fitted; default 0.1",
    )
    add("--repeats", type=int, metavar="N", help="trainings of each size; default 3")
    add("--label-noise", type=float, metavar="P", help="probability of a wrong label; default 0.0")
    add("--batch-size", type=int, metavar="N", help="batch size of trainings; default 64")
    add("--threads", type=int, metavar="N", help="threads of each training; default 1")


def _add_mimic(commands: Any) -> None:
    mimic = _add_study(
        commands,
        "mimic",
        "mimic",
        help="find the smallest shallow network that does what yours does",
        description="Fit shallow networks of several sizes, the students, to the logits of your "
        "network, the teacher; fit them to the labels, too; and compare all with the teacher.",
        example="{'network': network, 'dataset': (x, y), 'held_out': (x_test, y_test)}",
    )
    add = mimic.add_argument
    add(
        "--students",
        type=_sizes,
        metavar="N,N,...",
        help="hidden units of each student; default 8,16,32,64,128,256",
    )
    add(
        "--bottleneck",
        type=int,
        metavar="K",
        help="width of a linear layer before the units; default None",
    )
    add("--activation", metavar="NAME", help="relu, tanh or linear; default relu")
    add(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="share of the logits' variance, and of the decisions, that the smallest student may "
        "miss; default 0.05",
    )
    add("--steps", type=int, metavar="N", help="steps of each training; default 500")
    add(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the samples that students do not see; default 0.25",
    )
    add(
        "--no-labels",
        dest="labels",
        action="store_false",
        help="fit students to the logits only, not to the labels",
    )


def _add_study(
    commands: Any, name: str, function: str, example: str, **texts: str
) -> argparse.ArgumentParser:
    """Add a command that runs a study, with the options that all studies have."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=texts["help"],
        description=f"{texts['description']} FACTORY is a function of yours without arguments. It "
        f"returns a dictionary of arguments for lightning_effcx.studies.{function}, such as "
        f"{example}. Options of this command replace entries of the dictionary. PACKAGE.MODULE may "
        "be in the current folder.",
        # Options that are not given are missing, so that the dictionary's entries are used.
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "factory", metavar="PACKAGE.MODULE:FACTORY", help="makes the arguments of the study"
    )
    add = parser.add_argument
    add("--seed", type=int, metavar="N", help="seed of the study; default 0")
    add("--folder", type=Path, metavar="DIR", help="keep results here, and go on from here")
    add(
        "--processes",
        type=int,
        default=0,
        metavar="N",
        help="run trainings in this many processes; default: in this one",
    )
    add("--json", type=Path, default=None, metavar="FILE", help="write the result as JSON, too")
    add("--plot", type=Path, default=None, metavar="FILE.png", help="draw the result, too")
    parser.set_defaults(run=_study, study=function)
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no sizes: expected whole numbers, such as 8,16,32"
        ) from None


def _study(arguments: argparse.Namespace) -> bool:
    check_folders(arguments)
    if arguments.plot:
        from lightning_effcx.plotting import save_figure  # noqa: PLC0415
    from lightning_effcx import studies  # noqa: PLC0415
    from lightning_effcx.compare.formats import width_of  # noqa: PLC0415

    study = getattr(studies, arguments.study)
    given = _given(arguments, signature(study).parameters)
    with _processes(arguments.processes) as executor, _how_to_go_on(given.get("folder")):
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
    """Return the arguments of a study: those of the factory, replaced by the options given."""
    name = arguments.factory
    made = _call_factory(name)
    if not isinstance(made, Mapping):
        raise TypeError(
            f"{name} returned a {type(made).__name__}: expected a dictionary of arguments for the "
            "study."
        )
    if unknown := [key for key in made if key not in taken]:
        raise ValueError(
            f"{name} returned a dictionary with {unknown[0]!r}: expected some of "
            f"{', '.join(taken)}."
        )
    given = {**made, **{key: value for key, value in vars(arguments).items() if key in taken}}
    needed = [key for key, parameter in taken.items() if parameter.default is parameter.empty]
    if missing := [key for key in needed if key not in given]:
        raise ValueError(
            f"{name} returned a dictionary without {missing[0]!r}: expected {', '.join(needed)} "
            "in it."
        )
    return given


def _call_factory(name: str) -> Any:
    """Import a factory by name and call it."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        # As `python -m` does. Other processes inherit the path, and import the module from it.
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = resolve_name(name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            f"There is no {name!r} ({error}): expected PACKAGE.MODULE:FACTORY."
        ) from error
    if not callable(factory):
        kind = type(factory).__name__
        raise TypeError(f"{name!r} is a {kind}: expected a function, PACKAGE.MODULE:FACTORY.")
    try:
        return factory()
    except Exception as error:
        traceback.print_exc()
        raise ValueError(f"{name} failed with {error!r}; see the traceback above.") from error


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Start processes for the trainings; with a count of 0 they run in this one."""
    check_count("processes", count, least=0)
    if not count:
        yield None
        return
    with ProcessPoolExecutor(count, get_context("spawn")) as executor:
        yield executor


@contextmanager
def _how_to_go_on(folder: Any) -> Iterator[None]:
    """Add to an interrupt how to go on with the study, if its results are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not folder:
            raise
        sentence = f"run the same command again to go on from {folder}"
        raise KeyboardInterrupt(sentence) from None
