"""Checkpoints that version 0.1 wrote, whose tags and names of metrics were others."""

from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from user_training import fit, task

from lightning_effcx import tags
from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import TrainingError, Transitions

KEY = "ComplexityMonitor{'metrics': ['error/mine', 'transitions/segment'], 'name': 'body'}"


def monitor() -> ComplexityMonitor:
    metrics = {"transitions.segment": Transitions(), "error.mine": TrainingError(task())}
    return ComplexityMonitor(metrics, name="body", detail=True, strict=True)


def as_before(state: dict[str, Any]) -> dict[str, Any]:
    """Write a monitor's state as version 0.1 did."""
    history = [
        entry
        | {"values": {tags.parse(tag).of_version_0_1: v for tag, v in entry["values"].items()}}
        for entry in state["history"]
    ]
    memory = {tags.slashed(name): attributes for name, attributes in state["memory"].items()}
    return state | {"history": history, "memory": memory}


def seen_by(found: ComplexityMonitor) -> list[dict[str, float]]:
    values = [entry["values"] for entry in found.history]
    return [{t: v for t, v in entry.items() if "seconds/" not in t} for entry in values]


@pytest.mark.filterwarnings("error:Be aware that when using `ckpt_path`")  # the state is found
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, on the first half
def test_a_training_resumed_from_version_0_1_continues_its_curves(tmp_path):
    whole, saving = monitor(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(tmp_path, whole, saving, max_epochs=3, enable_checkpointing=True)
    half = tmp_path / "epoch=1.ckpt"
    checkpoint = torch.load(half, weights_only=True)
    states = checkpoint["callbacks"]
    states[KEY] = as_before(states.pop(whole.state_key))
    written = states[KEY]["history"][0]["values"]
    assert {
        "effcx/body_transitions/segment",
        "effcx/body_transitions/segment_stderr",
        "effcx/body_transitions/segment/at/network.2",
        "effcx/seconds/body_transitions/segment",
        "effcx/body_error/mine/interpolates",
    } <= {*written}
    assert states[KEY]["memory"]["error/mine"]["measured"] == 2
    torch.save(checkpoint, half)

    resumed = monitor()
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(tmp_path, resumed, saving, max_epochs=3, enable_checkpointing=True, ckpt_path=half)
    assert seen_by(resumed)[:2] == seen_by(whole)[:2]
    assert [{*entry} for entry in seen_by(resumed)] == [{*entry} for entry in seen_by(whole)]
    assert resumed.metrics["error.mine"].measured == 3
