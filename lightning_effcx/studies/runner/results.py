"""Results: the rows of a study, in a folder that outlives the process.

```
study.json     {"kind": "emc", "arguments": {…}, "version": "0.1.0"}    what the study is
results.jsonl  one line for each training, written when it ended; of two lines with the same key
               the last counts:
               {"key": "n=64/repeat=2", "arguments": {"n": 64}, "seed": 1,
                "values": {"train_error": 0.125}, "error": "", "seconds": 2.5}
found.json     what the study found; it exists from the end of the study until the study goes on
lock           held by the process that runs the study
```
Values that are not finite are written as text, `"nan"`, `"inf"` and `"-inf"`, since JSON has none.
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
    """What identifies a study, so that no other study goes on in its folder.

    Args:
        kind: The kind of study, such as `emc`.
        arguments: What all its jobs share, as values that JSON gives back unchanged.
    """

    kind: str = "jobs"
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_plain(self.arguments, f"the arguments of the study {self.kind!r}")


class Results:
    """The known rows of a study by key. A new row is on the disk before `add` returns.

    Args:
        file: The file of the rows; without it they are only in memory.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.rows: dict[str, Row] = {}
        self._file = file
        self._end = 0  # where the last whole line ends
        if file:
            self._read(file)

    def add(self, row: Row) -> None:
        """Add a row. It overwrites the rest of a line that was left unfinished by a kill."""
        if self._file:
            line = _to_line(row)
            self._file.seek(self._end)
            self._file.truncate()
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._end += len(line)
        self.rows[row.job.key] = row

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Return the jobs that have not succeeded; refuse a job that differs from the known one."""
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
                row = _from_line(line)
            except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError) as error:
                if not is_whole and len(line) < MOST:
                    return  # the last line: the process was killed while it wrote
                raise ValueError(
                    f"{visible(file.name)}, line {number}, is no result of a training: delete the "
                    "line to have that training run again."
                ) from error
            if not is_whole:
                self.add(row)  # the last line lacks only its line break
                return
            self.rows[row.job.key] = row
            self._end += len(line)


@contextmanager
def open_results(folder: Path | None, study: Study) -> Iterator[Results]:
    """Open the results of a study, for one process at a time; without a folder, empty ones."""
    if folder is None:
        yield Results()
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{visible(folder)} is no folder: choose another one for the study.")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _identify(folder, study)
        (folder / _FOUND).unlink(missing_ok=True)
        with _open_rows(folder / "results.jsonl") as file:
            yield Results(file)


def write_found(folder: Path | str, found: str) -> None:
    """Write what a study found into its folder, as JSON, for `effcx compare` to read."""
    _write(Path(folder) / _FOUND, found)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The lock is that of a database: on every platform the system releases it when the process
    # dies, and worker processes do not inherit it.
    file = folder / "lock"
    try:
        if file.exists() and not file.is_file():  # sqlite would wait for a pipe
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
def _open_rows(file: Path) -> Iterator[BinaryIO]:
    """Open the file of the rows to read and write; make it if it does not exist."""
    if not file.exists():
        file.touch()
    try:
        opened = open_regular(file, "r+b")
    except OSError as error:
        raise OSError(
            f"{visible(file)} cannot be opened ({error.strerror}): delete it to start over, or "
            "choose another folder."
        ) from None
    with opened:
        yield opened


def _identify(folder: Path, study: Study) -> None:
    """Write into the folder what the study is; refuse if the folder says something else."""
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
    part.replace(file)  # at once, so that a kill leaves no half file


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """List the entries in which two dictionaries differ."""
    absent = object()
    names = [
        name for name in found | expected if found.get(name, absent) != expected.get(name, absent)
    ]
    return ", ".join(
        f"{name}={_entry(found, name)} (expected {_entry(expected, name)})" for name in names
    )


def _entry(values: dict[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def _to_line(row: Row) -> bytes:
    values = {name: _to_json(value) for name, value in row.values.items()}
    entries = asdict(row.job) | {
        "values": values,
        "error": row.error,
        "seconds": _to_json(row.seconds),
    }
    return json.dumps(entries, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _from_line(line: bytes) -> Row:
    entries = from_json(line)
    for name, kind in _TYPES.items():
        if not isinstance(entries[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")
    job = Job(entries["key"], entries["arguments"], entries["seed"])
    values = {name: float(value) for name, value in entries["values"].items()}
    return Row(job, values, entries["error"], float(entries["seconds"]))


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
