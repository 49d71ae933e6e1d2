"""Write folders of studies as these do when they end."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_effcx.studies import EMCRow, EMCStudy, MimicStudy
from lightning_effcx.studies.mimic_result import MimicRow


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
    rows = [EMCRow(n, train, None, test, None, 1) for n, (train, test) in errors.items()]
    study = EMCStudy(complexity, (0, upper), epsilon, tuple(rows), monotone=True, failures={})
    return json.loads(study.as_json())


def mimic(*students: MimicRow, tolerance: float = 0.05) -> dict[str, Any]:
    """Return what a study of these students found."""
    return json.loads(MimicStudy((*students, MimicRow(parameters=9)), tolerance).as_json())
