"""Records: what is known of a study, in a folder that outlives the process.

```
study.json     {"kind": "emc", "arguments": {…}, "version": "0.1.0"}    what the study is
results.jsonl  one line for every training that ended, written when it did, of which for each key
               the last counts:
               {"key": "n=64/repeat=2", "arguments": {"n": 64}, "seed": 1,
                "values": {"train_error": 0.125}, "error": "", "seconds": 2.5}
found.json     what the study found, there once it has ended and until it is gone on with
lock           held by the process that runs the study
```
Values that are not finite are written as text, `"nan"`, `"inf"` and `"-inf"`, for JSON has none.
"""

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lightning_effcx import __version__
from lightning_effcx.reading import MOST, from_json, open_regular, read_json, visible
from lightning_effcx.studies.runner.jobs import Job, Row, check_plain

_FOUND = "found.json"
_TYPES = {"key": str, "arguments": dict, "seed": int, "values": dict, "error": str}


@dataclass(frozen=True)
class Study:
    """What a study is, so that its folder is not taken for that of another.

    Args:
        kind: Such as `emc`.
        arguments: What all its jobs share, as plain values.
    """

    kind: str = "jobs"
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_plain(self.arguments, f"the arguments of the study {self.kind!r}")


class Records:
    """The rows that are known, by key; each new one is on the disk before `add` returns.

    Args:
        file: Where they are kept, as lines; without it they are not.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.rows: dict[str, Row] = {}
        self._file = file
        self._end = 0  # of the last whole line
        if file:
            self._read(file)

    def add(self, row: Row) -> None:
        """Take what came of a job; a line that was not finished is written over."""
        if self._file:
            line = _line(row)
            self._file.seek(self._end)
            self._file.truncate()
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._end += len(line)
        self.rows[row.job.key] = row

    def lacking(self, jobs: Iterable[Job]) -> list[Job]:
        """Return those that never succeeded; refuse if one is known to be something else."""
        for job in jobs:
            if job.key in self.rows and (known := self.rows[job.key].job) != job:
                raise ValueError(
                    f"the folder holds another study: its job {job.key!r} has "
                    f"{_differences(asdict(known), asdict(job))}. Choose another folder, or delete "
                    "this one to start over."
                )
        return [job for job in jobs if job.key not in self.rows or self.rows[job.key].error]

    def _read(self, file: BinaryIO) -> None:
        number = 0
        while line := file.readline(MOST):
            number += 1
            is_whole = line.endswith(b"\n")
            try:
                row = _row(line)
            except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError) as error:
                if not is_whole and len(line) < MOST:
                    return  # killed while writing
                raise ValueError(
                    f"{visible(file.name)}, line {number}, is no result of a training: delete the "
                    "line to have that training run again."
                ) from error
            if not is_whole:
                self.add(row)  # of the last line only the line break is missing
                return
            self.rows[row.job.key] = row
            self._end += len(line)


@contextmanager
def recorded(folder: Path | None, study: Study) -> Iterator[Records]:
    """Open the records of a study, for one process at a time; without a folder, empty ones."""
    if folder is None:
        yield Records()
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{visible(folder)} is no folder: choose another one for the study.")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _identify(folder, study)
        (folder / _FOUND).unlink(missing_ok=True)
        with _opened(folder / "results.jsonl") as file:
            yield Records(file)


def conclude(folder: Path | str, found: str) -> None:
    """Write into the folder of a study what it found, as JSON, for `effcx compare` to read."""
    _write(Path(folder) / _FOUND, found)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The lock of a database: on every platform the system releases it when the process dies, and
    # worker processes do not inherit it.
    file = folder / "lock"
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise _unlockable(file, "no regular file")
        with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise _unlockable(file, str(error)) from None
        raise OSError(
            f"another process is running the study in {visible(folder)}: wait for its end, or "
            "choose another folder."
        ) from None


def _unlockable(file: Path, reason: str) -> OSError:
    return OSError(
        f"{visible(file)} is no lock of a study ({reason}): delete it, unless another process is "
        "running the study, or choose another folder."
    )


@contextmanager
def _opened(results: Path) -> Iterator[BinaryIO]:
    """Open the results of a study to read and write, and make them if there are none."""
    if not results.exists():
        results.touch()
    try:
        file = open_regular(results, "r+b")
    except OSError as error:
        raise OSError(
            f"{visible(results)} cannot be opened ({error.strerror}): delete it to start over, or "
            "choose another folder."
        ) from None
    with file:
        yield file


def _identify(folder: Path, study: Study) -> None:
    """Say in the folder what the study is; refuse if it says something else."""
    file = folder / "study.json"
    if not file.exists():
        text = json.dumps(asdict(study) | {"version": __version__}, indent=2, ensure_ascii=False)
        _write(file, text + "\n")
        return
    try:
        known = read_json(file)
        kind, arguments = known["kind"], dict(known["arguments"])
    except (LookupError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{visible(file)} does not say what the study is: choose another folder."
        ) from error
    found, given = {"kind": kind} | arguments, {"kind": study.kind} | study.arguments
    if found != given:
        raise ValueError(
            f"the folder {folder} holds another study, with {_differences(found, given)}. Choose "
            "another folder, or delete this one to start over."
        )


def _write(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)  # so that it is never half there


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Say in which entries two dictionaries differ."""
    absent = object()
    names = [
        name for name in found | expected if found.get(name, absent) != expected.get(name, absent)
    ]
    return ", ".join(
        f"{name}={_said(found, name)} (expected {_said(expected, name)})" for name in names
    )


def _said(values: dict[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def _line(row: Row) -> bytes:
    values = {name: _plain(value) for name, value in row.values.items()}
    entries = asdict(row.job) | {
        "values": values,
        "error": row.error,
        "seconds": _plain(row.seconds),
    }
    return json.dumps(entries, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _row(line: bytes) -> Row:
    entries = from_json(line)
    for name, kind in _TYPES.items():
        if not isinstance(entries[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")
    job = Job(entries["key"], entries["arguments"], entries["seed"])
    values = {name: float(value) for name, value in entries["values"].items()}
    return Row(job, values, entries["error"], float(entries["seconds"]))


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
