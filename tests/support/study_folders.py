"""Folders of studies as a finished or a stopped study leaves them, written without torch.

`tests/test_study_files.py` holds `emc` and `mimic` against what studies write.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_study(folder: Path, kind: str, found: Mapping[str, Any] | None, **arguments: Any) -> Path:
    """Write the files of a study; without what it found, those of one that was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    study = {"kind": kind, "arguments": arguments, "version": "0.1.0"}
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    (folder / "results.jsonl").touch()
    if found is not None:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def emc(
    complexity: int,
    errors: Mapping[int, Sequence[float | None]],
    *,
    upper: int | None = None,
    epsilon: float = 0.1,
) -> dict[str, Any]:
    """Return what a study of `{n: (train_error, test_error)}` found."""
    columns = ("n", "train_error", "train_stderr", "test_error", "test_stderr", "repeats")
    rows = [(n, train, None, test, None, 1) for n, (train, test) in errors.items()]
    return {
        "emc": complexity,
        "interval": [0, upper],
        "epsilon": epsilon,
        "table": [dict(zip(columns, row, strict=True)) for row in rows],
        "monotone": True,
        "failures": {},
        "censored": upper is None,
    }


def student(hidden: int | None, **known: Any) -> dict[str, Any]:
    """Return the row of a student with so many hidden units; that of the teacher has `None`."""
    columns = ("hidden", "parameters", "relative", "r2", "r2_stderr", "mse")
    columns += ("agreement", "agreement_stderr", "accuracy", "accuracy_on_labels")
    return dict.fromkeys(columns) | {"error": "", "hidden": hidden} | known


def mimic(
    *students: Mapping[str, Any], size: int | None = None, tolerance: float = 0.05
) -> dict[str, Any]:
    """Return what a study of these students found, of which `size` is the smallest that will do."""
    table = [*students, student(None, parameters=9)]
    return {"size": size, "tolerance": tolerance, "table": table}
