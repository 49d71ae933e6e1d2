"""Trainings of the users' LightningModules with a monitor of every measure."""

import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, seed_everything
from torch import Tensor
from user_architectures import Architecture
from user_samples import ROWS
from user_training import trainer

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import (
    ActivationPatterns,
    BoundaryDensity,
    BoundaryDistance,
    CapacityGap,
    FisherRaoNorm,
    JacobianNorm,
    LANNComplexity,
    LinearDeviation,
    LinearRegions,
    MimicGap,
    TrajectoryGrowth,
    TrajectoryLength,
    Transitions,
)
from lightning_effcx.paths import Segment

SAMPLES = 8  # of the probe: it takes one batch, and a part of the next


def metrics() -> dict[str, Any]:
    """Make one metric of each kind that a single training can have, with few paths."""
    sampled, exact = Segment(count=3, points=8), Segment(count=3, points=2)
    found = [
        JacobianNorm(),
        JacobianNorm(of="probabilities"),
        FisherRaoNorm(),
        LinearRegions(exact),
        Transitions(sampled),
        ActivationPatterns(),
        BoundaryDistance(),
        BoundaryDensity(directions=2),
        CapacityGap(exact),
        LANNComplexity(),
        LinearDeviation(exact),
        TrajectoryLength(sampled),
        TrajectoryGrowth(sampled),
        MimicGap(hidden=2, steps=2),
    ]
    return {metric.name: metric for metric in found}


class Witness(Callback):
    """Keeps the batches of the first validation, and the random state before each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Tensor]] = []
        self.trained = False

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking and len(self.seen) * ROWS < SAMPLES:
            self.seen.append((batch, torch.get_rng_state()))

    def on_train_start(self, trainer, pl_module):
        self.trained = True


@dataclass(frozen=True)
class Training:
    """A module after its training, and the values and warnings of its monitor.

    Attributes:
        module: With the weights of the last validation.
        values: The values at the last validation, by measure.
        reasons: The reasons for which other measures were left out, by measure.
        warned: Every warning of the monitor.
        seen: The batches of the first validation, and the random states before their steps.
    """

    module: LightningModule
    values: dict[str, float]
    reasons: dict[str, str]
    warned: list[str]
    seen: list[tuple[Any, Tensor]]


def train(
    architecture: Architecture, folder: Any, *callbacks: Callback, epochs: int = 2
) -> LightningModule:
    """Train for a number of epochs of two batches, always from the same seed."""
    seed_everything(1, verbose=False)
    module = architecture.make()
    loaders = architecture.loader(2, shuffle=True), architecture.loader(3, shuffle=False)
    trainer(folder, *callbacks, max_epochs=epochs).fit(module, *loaders)
    return module


def watch(architecture: Architecture, folder: Any) -> Training:
    """Train with a monitor of all measures, and collect what it warns of."""
    monitor = ComplexityMonitor(metrics(), samples=SAMPLES, **architecture.arguments)
    witness = Witness()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = train(architecture, folder, monitor, witness)
    warned = [str(w.message) for w in caught if str(w.message).startswith("effcx")]
    for other in caught:  # the caller's filters decide about other warnings
        if not str(other.message).startswith("effcx"):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return Training(module, values(monitor), reasons(warned), warned, witness.seen)


def values(monitor: ComplexityMonitor) -> dict[str, float]:
    """Return the last value of each measure."""
    last = monitor.history[-1]["values"] if monitor.history else {}
    return {name: last[f"effcx/{name}"] for name in metrics() if f"effcx/{name}" in last}


_LEFT_OUT = re.compile(r"effcx leaves out (?:the measure '(.+?)'|every measure): (.*)", re.DOTALL)


def reasons(warned: list[str]) -> dict[str, str]:
    """Return the reason for which each measure was left out."""
    found: dict[str, str] = {}
    for message in warned:
        matched = _LEFT_OUT.match(message)
        if matched is not None:
            name, reason = matched.groups()
            reason = reason.removesuffix(" The training goes on; strict=True raises.")
            found |= dict.fromkeys([name] if name else metrics(), reason)
    return found
