"""Write event files as a training does, or make runs without any."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from lightning_effcx.compare import Curve, Run


def write_events(folder: Path, curves: Mapping[str, Mapping[int, float]], **hparams) -> Path:
    """Write one event file of `{tag: {step: value}}` and return its path."""
    before = set(folder.glob("events*"))
    with SummaryWriter(str(folder)) as writer:
        if hparams:
            for summary in hparams_summaries(hparams, {}):
                writer._get_file_writer().add_summary(summary)
        for tag, points in curves.items():
            for step, value in points.items():
                writer.add_scalar(tag, value, step)
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
