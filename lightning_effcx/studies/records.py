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
from lightning_effcx.studies.jobs import Job, Row, check_plain

_FOUND = "found.json"


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
        *lines, rest = file.read().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                row = _row(line)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{file.name}, line {number}, is no result of a training: delete the line to "
                    "have that training run again."
                ) from error
            self.rows[row.job.key] = row
        self._end = sum(len(line) + 1 for line in lines)
        try:  # to read a last line of which only the line break is missing
            row = _row(rest)
        except (AttributeError, KeyError, TypeError, ValueError):
            return  # killed while writing
        self.add(row)


@contextmanager
def recorded(folder: Path | None, study: Study) -> Iterator[Records]:
    """Open the records of a study, for one process at a time; without a folder, empty ones."""
    if folder is None:
        yield Records()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _identify(folder, study)
        (folder / _FOUND).unlink(missing_ok=True)
        results = folder / "results.jsonl"
        results.touch()
        with results.open("r+b") as file:
            yield Records(file)


def conclude(folder: Path | str, found: str) -> None:
    """Write into the folder of a study what it found, as JSON, for `effcx compare` to read."""
    _write(Path(folder) / _FOUND, found)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The lock of a database: on every platform the system releases it when the process dies, and
    # worker processes do not inherit it.
    with closing(sqlite3.connect(folder / "lock", timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise OSError(
                f"another process is running the study in {folder}: wait for its end, or choose "
                "another folder."
            ) from None
        yield


def _identify(folder: Path, study: Study) -> None:
    """Say in the folder what the study is; refuse if it says something else."""
    file = folder / "study.json"
    if not file.exists():
        text = json.dumps(asdict(study) | {"version": __version__}, indent=2, ensure_ascii=False)
        _write(file, text + "\n")
        return
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        kind, arguments = known["kind"], dict(known["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} does not say what the study is: choose another folder."
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
    entries = json.loads(line)
    job = Job(entries["key"], entries["arguments"], entries["seed"])
    values = {name: float(value) for name, value in entries["values"].items()}
    return Row(job, values, entries["error"], float(entries["seconds"]))


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
