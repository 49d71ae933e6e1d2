"""Trainings of networks with state of every sort end with the same bytes, watched or not."""

import warnings
from typing import Any

import pytest
import stateful_networks
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from stateful_networks import FORBIDDEN, REFUSED, STATES, STRUCTURES
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from traces import plain

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import BoundaryDistance, JacobianNorm, LinearRegions
from lightning_effcx.paths import Segment

IDIOMS = STATES | STRUCTURES | FORBIDDEN | REFUSED


class Lit(LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def monitor(**options: Any) -> ComplexityMonitor:
    metrics = [JacobianNorm(), LinearRegions(Segment(count=2, points=2)), BoundaryDistance()]
    return ComplexityMonitor(metrics, samples=6, **options)


def train(name: str, *callbacks: Any) -> tuple[Any, list[str]]:
    """Train for two epochs; return the weights, and what was warned of."""
    stateful_networks.reset()
    seed_everything(1, verbose=False)
    module = Lit(IDIOMS[name]())
    data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)
    host = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks],
        log_every_n_steps=1,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        host.fit(module, DataLoader(data, 6), DataLoader(data, 6))
    assert host.global_step == 4
    said = [str(one.message) for one in caught if str(one.message).startswith("effcx")]
    return plain(dict(module.state_dict())), said


@pytest.mark.parametrize("name", IDIOMS)
def test_the_training_is_bit_identical(name):
    alone, _ = train(name)
    watched, said = train(name, monitor())
    assert watched == alone
    if name in STATES:
        assert said == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_put_back_is_one_warning_with_the_way_out(name):
    _, said = train(name, monitor())
    (sentence,) = said
    place = "network.held[0]" if "list" in name else "network.held"
    assert sentence.startswith(f"effcx leaves out every measure: the network uses {place!r}")
    assert "network=" in sentence
    assert "The batch" not in sentence


@pytest.mark.parametrize("name", REFUSED)
def test_the_way_out_is_one(name):
    watching = monitor(network=lambda module, x: module.network.layers(x))
    _, said = train(name, watching)
    assert said == []
    assert len(watching.history) == 2


@pytest.mark.parametrize("name", sorted(FORBIDDEN.keys() - {"freezes a weight"}))
def test_what_no_forward_should_do_is_said_once_in_a_training(name):
    _, said = train(name, monitor())
    assert len([one for one in said if "all of it was put back" in one]) == 1


def test_a_function_of_the_user_is_put_back_too():
    box = stateful_networks.Box()

    def counting(module, x):
        box.value += 1
        return module(x)

    watching = monitor(network=counting)
    _, said = train("held by a loss", watching)
    assert said == []
    assert len(watching.history) == 2
    assert box.value == 0
