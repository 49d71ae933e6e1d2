"""Runs: the curves and hyperparameters in TensorBoard's event files.

An event file is a sequence of records. A record is the length of its payload (8 bytes), the
checksum of the length (4 bytes), the payload, and the checksum of the payload (4 bytes). We read
records ourselves: TensorBoard's own readers stop silently at a damaged record, and allocate as much
memory as its length says.
"""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from lightning_effcx import tags
from lightning_effcx.reading import open_regular, visible

HParam = str | float | bool
HParams = dict[str, HParam]

_KINDS = ("number_value", "string_value", "bool_value")  # no writer uses other kinds
_HEADER = 12  # bytes
_MOST = 2**28  # bytes of a record; pictures and embeddings take millions


@dataclass(frozen=True)
class Curve:
    """One scalar of one run.

    Args:
        steps: The steps at which it was logged, ascending.
        values: The value at each step.
        along: What the steps count, such as `samples`; empty if the scalar is a single number.
        at_least: Whether the last value is only a lower bound.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    along: str = "step"
    at_least: bool = False

    @property
    def final(self) -> float:
        """The value at the last step."""
        return self.values[-1]


@dataclass(frozen=True)
class Run:
    """A training, which is a directory with event files; or a study, which `load_studies` reads.

    Args:
        path: The path relative to the folder that was loaded, with forward slashes; "." for the
            folder itself.
        hparams: The hyperparameters that were logged.
        curves: The curves by tag.
        study: The kind of study; empty for a training.
    """

    path: str
    hparams: HParams
    curves: dict[str, Curve]
    study: str = ""


def load_runs(folder: Path) -> list[Run]:
    """Read all runs below `folder`, ordered by path.

    A directory is a run if its event files hold any scalar. Several files in one directory are one
    run that was resumed. If two files overlap in a curve, the later file counts. If they differ in
    a hyperparameter, the earlier file counts. A warning names each file that cannot be read to its
    end.
    """
    directories: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files_below(folder, "events.out.tfevents*"):
        directories[file.parent.relative_to(folder).as_posix()].append(file)
    runs = [_merge(path, map(_read, files)) for path, files in sorted(directories.items())]
    return [run for run in runs if run.curves]


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Find the files with such names anywhere below a folder; refuse a folder that is missing."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {visible(folder)!r}.")
    return [file for file in sorted(folder.rglob(pattern)) if not file.is_dir()]


@dataclass
class _Contents:
    """What was read from one event file so far."""

    start: float = 0.0
    hparams: HParams = field(default_factory=dict)
    points: defaultdict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    left_out: dict[str, None] = field(default_factory=dict)
    """Descriptions of what could not be read, each once, in order."""


def _merge(path: str, files: Iterator[_Contents]) -> Run:
    hparams: HParams = {}
    points: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted(files, key=lambda file: file.start):
        hparams = file.hparams | hparams
        for written, later in file.points.items():
            tag = tags.renewed(written)
            points[tag] = _outside(points[tag], min(later), max(later)) | later
    kept = sorted(tag for tag in points if not tag.startswith(tags.BANDS))
    return Run(visible(path), hparams, {tag: _curve(points[tag]) for tag in kept})


def _outside(points: dict[int, float], first: int, last: int) -> dict[int, float]:
    """Drop the points in the range of steps that a resumed training repeated.

    This includes steps at which the resumed training did not log the value again.
    """
    return {step: value for step, value in points.items() if not first <= step <= last}


def _curve(points: dict[int, float]) -> Curve:
    steps = sorted(points)
    return Curve(tuple(steps), tuple(points[step] for step in steps))


def _read(path: Path) -> _Contents:
    """Read one event file up to its first damage; give one warning for all that was not read."""
    contents = _Contents()
    count = 0
    try:
        with open_regular(path) as file:
            for record in _records(file, contents):
                _add(Event.FromString(record), contents)
                count += 1
    except DecodeError:
        _warn_of_damage(path, "a record is no event", count, contents)
    except (EOFError, ValueError) as damage:
        _warn_of_damage(path, str(damage), count, contents)
    except OSError as error:
        _warn_of_damage(path, f"the file cannot be read ({error.strerror})", count, contents)
    else:
        if contents.left_out:
            _warn(path, f"{'; '.join(contents.left_out)}; the rest was read")
    return contents


def _warn_of_damage(path: Path, damage: str, count: int, contents: _Contents) -> None:
    if count == 0:
        read = "nothing was read"
    elif count == 1:
        read = "the 1 event before that was read"
    else:
        read = f"the {count} events before that were read"
    _warn(path, "; ".join([*contents.left_out, damage, read]))


def _warn(path: Path, what: str) -> None:
    warnings.warn(f"{visible(path)}: {what}.", stacklevel=2)


def _records(file: BinaryIO, contents: _Contents) -> Iterator[bytes]:
    """Yield the payload of every record; raise at the first that is damaged."""
    end = os.fstat(file.fileno()).st_size
    header = file.read(_HEADER)
    if not header:
        raise EOFError("the file is empty")
    while header:
        if len(header) < _HEADER:
            raise EOFError("the file ends in the middle of a record")
        if not _intact(header):
            raise ValueError("no record starts where one should")
        size = int.from_bytes(header[:8], "little") + 4
        if size > max(end - file.tell(), 0):  # checked before memory is allocated
            raise EOFError("the file ends in the middle of a record")
        if size > _MOST:
            contents.left_out[f"a record of {size:,} bytes was left out"] = None
            file.seek(size, os.SEEK_CUR)
        else:
            yield _payload(file.read(size), size)
        header = file.read(_HEADER)


def _payload(body: bytes, size: int) -> bytes:
    if len(body) < size:  # the file has shrunk meanwhile
        raise EOFError("the file ends in the middle of a record")
    if not _intact(body):
        raise ValueError("a record does not match its checksum")
    return body[:-4]


def _intact(checked: bytes) -> bool:
    """Tell whether the last four bytes are the checksum of the bytes before."""
    return bool(masked_crc32c(checked[:-4]) == int.from_bytes(checked[-4:], "little"))


def _add(event: Any, contents: _Contents) -> None:
    """Add the scalars and hyperparameters of one event."""
    contents.start = contents.start or event.wall_time
    for value in event.summary.value:
        tag = visible(value.tag)
        if value.tag == SESSION_START_INFO_TAG:
            contents.hparams = _hparams(value, contents) | contents.hparams
        elif value.HasField("simple_value"):  # as torch and older writers store scalars
            contents.points[tag][event.step] = float(value.simple_value)
        elif value.HasField("tensor") and (
            # Some writers say only once for each tag that its tensors are scalars.
            value.metadata.plugin_data.plugin_name == "scalars" or tag in contents.points
        ):
            scalar = _scalar(value.tensor)
            if scalar is None:
                contents.left_out[f"the tag {tag!r} has values that are no numbers"] = None
            else:
                contents.points[tag][event.step] = scalar


def _scalar(tensor: Any) -> float | None:
    """Return the number in a tensor of a single number, else `None`.

    The shape is checked first, because `make_ndarray` would allocate whatever it says.
    """
    if any(dimension.size != 1 for dimension in tensor.tensor_shape.dim):
        return None
    try:
        return float(make_ndarray(tensor).item())
    except (LookupError, OverflowError, TypeError, ValueError):  # text, or an unknown type
        return None


def _hparams(value: Any, contents: _Contents) -> HParams:
    try:
        content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    except DecodeError:
        contents.left_out["its hyperparameters are damaged"] = None
        return {}
    logged = content.session_start_info.hparams
    kinds = {name: logged[name].WhichOneof("kind") for name in logged}
    found = {name: getattr(logged[name], kind) for name, kind in kinds.items() if kind in _KINDS}
    return {
        visible(name): visible(each) if isinstance(each, str) else each
        for name, each in found.items()
    }
