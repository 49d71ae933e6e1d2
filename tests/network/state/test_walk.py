import logging
import queue
import sys
import threading
from types import ModuleType

import pytest
import torch
from networks import ZOO, mlp
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from stateful_networks import Box
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_effcx.network.state import walk
from lightning_effcx.network.state.names_in_code import names_in
from lightning_effcx.network.state.network_state import StateKind
from lightning_effcx.network.state.walk import find_state


def held(network: nn.Module) -> set[int]:
    """Everything that was entered, by identity."""
    return {key for key in find_state(network).seen if key != id(network)}


class Data(Dataset):
    def __init__(self) -> None:
        self.rows = [torch.zeros(1)]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i):
        return self.rows[i]


class Worker:
    """At work in another thread, perhaps."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done = [1]


class Watching(Callback):
    def __init__(self) -> None:
        self.seen = [1]


class Lit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    ("make", "inside"),
    [
        (Data, lambda data: data.rows),
        (lambda: DataLoader(Data()), lambda loader: loader.dataset.rows),
        (Worker, lambda worker: worker.done),
        (Watching, lambda callback: callback.seen),
        (queue.Queue, lambda waiting: waiting.queue),
        (lambda: logging.getLogger("effcx"), lambda logger: logger.handlers),
        (lambda: torch.optim.SGD([nn.Parameter(torch.ones(1))]), lambda sgd: sgd.param_groups),
    ],
    ids=["data", "loader", "thread", "callback", "queue", "logger", "optimizer"],
)
def test_it_does_not_enter_what_is_of_others(make, inside):
    network = mlp(2, 1)
    network.held = make()
    assert id(inside(network.held)) not in held(network)


def test_it_does_not_enter_the_trainer(tmp_path):
    module = Lit()
    module.trainer = Trainer(
        logger=CSVLogger(tmp_path), enable_checkpointing=False, accelerator="cpu"
    )
    assert len(find_state(module).states) < 60
    assert {type(m) for m in find_state(module).modules} == {Lit, nn.Linear}


def test_it_enters_what_the_user_wrote():
    network = mlp(2, 1)
    network.held = {"boxes": [Box({"a": [1]})]}
    inner = network.held["boxes"][0].value["a"]
    assert id(inner) in held(network)
    assert Box in {value for value in find_state(network).seen.values() if isinstance(value, type)}


def test_it_enters_other_files_of_the_users_as_far_as_code_names_them(monkeypatch):
    other = ModuleType("effcx_test_other")
    exec("seen, unseen = [1], [2]\ndef count(x):\n    return seen", vars(other))  # noqa: S102
    monkeypatch.setitem(sys.modules, other.__name__, other)

    class Net(nn.Module):
        def forward(self, x):
            return other.count(x)

    found = held(Net())
    assert id(other.seen) in found
    assert id(other.unseen) not in found


def test_it_knows_each_module_once_also_where_it_is_not_registered():
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    network.append(network[0])
    network.others = [nn.Linear(2, 2), network[0], network]
    assert find_state(network).modules == [network, network[0], network[1], network.others[0]]


def test_it_ends_after_a_number_of_objects_but_knows_all_modules(monkeypatch):
    monkeypatch.setattr(walk, "_OBJECTS", 100)
    network = mlp(*[1] * 50)
    network.many = [[i] for i in range(1000)]
    found = find_state(network)
    assert len(found.modules) == 98
    assert len([one for one in found.states if one.name.startswith("many[")]) < 100


def test_it_ends_after_a_number_of_bytes_but_knows_all_buffers(monkeypatch):
    monkeypatch.setattr(walk, "_BYTES", 100)
    network = nn.BatchNorm1d(100)
    network.tables = [torch.zeros(20), torch.zeros(20)]
    found = find_state(network)
    assert id(network.running_mean) in found.tensors
    assert [id(table) in found.tensors for table in network.tables] == [True, False]


@pytest.mark.parametrize("name", ZOO)
def test_nothing_in_the_zoo_cannot_be_put_back(name):
    assert not find_state(ZOO[name].make()).unrestorable


def test_parameters_are_told_apart_from_what_may_change():
    kinds = [found.kind for found in find_state(nn.BatchNorm1d(2)).states]
    assert kinds.count(StateKind.PARAMETER_DATA) == 2
    assert kinds.count(StateKind.OTHER_DATA) == 3


def test_code_names_globals_and_attributes_also_in_what_is_defined_within():
    def outer():
        return [walk.find_state for _ in sys.path], lambda: queue.Queue

    read, assigned, attributes = names_in(outer.__code__)
    assert {"walk", "sys", "queue"} <= read
    assert not assigned
    assert {"find_state", "path", "Queue"} <= attributes
