"""Studies: read the folders of studies as runs.

Two files of a folder are read. `study.json` says what the study is. `found.json` says what it
found, and exists once the study has ended. The curves of such a run are over the sizes that the
study tried: numbers of samples, or of hidden units. What the study found is a single number.
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning_effcx.compare.runs import Curve, HParam, HParams, Run, files_below
from lightning_effcx.reading import read_json, visible
from lightning_effcx.tags import Tag

_UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
_DIGEST = "data"  # the digest of the samples: no reader knows it, and it may depend on the seed


def load_studies(folder: Path) -> list[Run]:
    """Read all studies below `folder` that have ended, ordered by path.

    A warning names each study that has not ended, or whose files cannot be read. Studies of unknown
    kinds are ignored.
    """
    runs = [_read(file.parent, folder) for file in files_below(folder, "study.json")]
    return [run for run in runs if run]


def _read(study: Path, below: Path) -> Run | None:
    kind, arguments = "", {}
    try:
        entries = read_json(study / "study.json")
        kind, arguments = str(entries["kind"]), _hparams(entries["arguments"])
    except _UNREADABLE:
        _warn(study, "study.json does not say what the study is, so it was left out")
    if kind not in _KINDS:
        return None
    try:
        goal, curves = _KINDS[kind](read_json(study / "found.json"))
    except FileNotFoundError:
        _warn(study, "the study has not ended; run it again to go on")
        return None
    except _UNREADABLE:
        _warn(study, "found.json does not say what the study found; run it again to repair it")
        return None
    path = visible(study.relative_to(below).as_posix())
    return Run(path, {"study": kind} | arguments | goal, curves, study=kind)


def _warn(study: Path, sentence: str) -> None:
    warnings.warn(f"{visible(study)}: {sentence}.", stacklevel=2)


def _hparams(arguments: dict[str, Any]) -> HParams:
    return {
        visible(name): _hparam(value)
        for name, value in arguments.items()
        if value is not None and name != _DIGEST
    }


def _hparam(value: Any) -> HParam:
    """Return a number as a float, as TensorBoard stores it, and anything else as text."""
    if isinstance(value, bool):
        return value
    return float(value) if isinstance(value, (int, float)) else visible(value)


def _emc(found: dict[str, Any]) -> tuple[HParams, dict[str, Curve]]:
    complexity = _number("emc", found["emc"], at_least=bool(found["censored"]))
    names = ("train_error", "test_error")
    curves = _curves("emc", names, found["table"], size="n", along="samples")
    return {"epsilon": float(found["epsilon"])}, complexity | curves


def _mimic(found: dict[str, Any]) -> tuple[HParams, dict[str, Curve]]:
    students = [row for row in found["table"] if row["hidden"] is not None]  # without the teacher
    size = {} if found["size"] is None else _number("mimic.size", found["size"])
    names = ("r2", "agreement", "accuracy", "accuracy_on_labels")
    curves = _curves("mimic", names, students, size="hidden", along="hidden units")
    return {"tolerance": float(found["tolerance"])}, size | curves


_KINDS: dict[str, Callable[[dict[str, Any]], tuple[HParams, dict[str, Curve]]]] = {
    "emc": _emc,
    "mimic": _mimic,
}


def _number(name: str, value: float, *, at_least: bool = False) -> dict[str, Curve]:
    return {str(Tag(name)): Curve((0,), (float(value),), along="", at_least=at_least)}


def _curves(
    kind: str, names: Iterable[str], table: list[dict[str, Any]], *, size: str, along: str
) -> dict[str, Curve]:
    """Make a curve of each column of a table that has any value."""
    curves = {}
    for name in names:
        known = [(int(row[size]), float(row[name])) for row in table if row[name] is not None]
        if known:
            steps, values = zip(*known, strict=True)
            curves[str(Tag(f"{kind}.{name}"))] = Curve(steps, values, along)
    return curves
