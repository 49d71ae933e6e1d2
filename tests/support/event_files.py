"""Event files as trainings write them, and runs without files; both without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lightning_effcx.compare import Curve, Run


def write_events(folder: Path, curves: Mapping[str, Mapping[int, float]], **hparams) -> Path:
    """Write one event file of `{tag: {step: value}}` and return its path."""
    before = set(folder.glob("events*"))
    writer = EventFileWriter(str(folder))
    if hparams:
        writer.add_event(Event(wall_time=time(), summary=hparams_pb(hparams)))
    for tag, points in curves.items():
        for step, value in points.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=time(), step=step, summary=summary))
    writer.close()
    (file,) = set(folder.glob("events*")) - before
    return file


def write_finals(folder: Path, finals: Mapping[str, float], **hparams) -> Path:
    """Write a run whose curves have one point each."""
    return write_events(folder, {tag: {1: value} for tag, value in finals.items()}, **hparams)


def ramp(values: Sequence[float]) -> dict[int, float]:
    """Number values by steps 0, 1, …."""
    return dict(enumerate(values))


def made(path: str, finals: Mapping[str, float] | None = None, **hparams) -> Run:
    """Make a run whose curves have one point each."""
    finals = finals or {"loss": 1.0}
    return Run(path, hparams, {tag: Curve((1,), (value,)) for tag, value in finals.items()})
