"""Event files that torch writes, which tests without torch write by TensorBoard's classes alone."""

import torch
from event_files import write_events
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from lightning_effcx.compare import load_runs


def test_torch_s_files_are_read_as_those_of_the_other_tests(tmp_path):
    hparams = {"lr": 0.5, "width": 64, "norm": True, "regularizer": "l2"}
    curves = {"loss": {10: 0.5, 20: 0.25}, "effcx/norm": {20: 1.0}}
    write_events(tmp_path / "ours", curves, **hparams)
    with SummaryWriter(str(tmp_path / "theirs")) as writer:
        for summary in hparams_summaries(hparams, {}):
            writer._get_file_writer().add_summary(summary)
        for tag, points in curves.items():
            for step, value in points.items():
                writer.add_scalar(tag, value, step)
    ours, theirs = load_runs(tmp_path)
    assert ours.curves == theirs.curves
    assert ours.hparams == theirs.hparams


def test_scalars_of_double_precision_are_read_in_double_precision(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", 1 / 3, 1, new_style=True, double_precision=True)
    assert load_runs(tmp_path)[0].curves["loss"].final == 1 / 3


def test_what_is_not_scalar_is_left_out(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("note", "hello")
        writer.add_histogram("weights", torch.ones(2))
        writer.add_scalar("loss", 1.0)
    assert list(load_runs(tmp_path)[0].curves) == ["loss"]
