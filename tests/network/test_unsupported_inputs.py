import re
from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from lightning_effcx.network.calls import Call
from lightning_effcx.network.inputs import choose_input, find_input
from lightning_effcx.network.recorder import Recorder
from lightning_effcx.network.unsupported_inputs import find_unsupported

X, EDGES = torch.randn(6, 3), torch.zeros(2, 9).long()


class TensorDictBase(UserDict):
    """As in tensordict, which need not be installed."""


class TensorDict(TensorDictBase):
    pass


@dataclass
class Molecules:
    """As in chemprop."""

    V: torch.Tensor
    edge_index: torch.Tensor


class Data:
    """As in torch_geometric: the attributes are in a mapping of its own."""

    def __init__(self, **attributes: Any) -> None:
        self._store = attributes

    @property
    def edge_index(self) -> torch.Tensor:
        raise AssertionError("it is asked whether there are edges, not for them")


def images(*sides: int) -> list[torch.Tensor]:
    return [torch.zeros(3, side, side) for side in sides]


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([X, X[:2]])


KINDS = {
    "images of different sizes": (lambda: images(8, 9), "a list of images"),
    "one image": (lambda: images(8), "a list of images"),
    "sequences": (lambda: [X, X[:2]], "a list of tensors of different lengths"),
    "packed": (lambda: pack_sequence([X, X[:2]]), "a PackedSequence"),
    "nested": (nested, "a nested tensor"),
    "sparse": (X.to_sparse, "a sparse tensor"),
    "a TensorDict": (lambda: TensorDict(x=X), "a TensorDict"),
    "molecules": (lambda: Molecules(X, EDGES), "a graph, whose rows are nodes or edges"),
    "a graph": (lambda: Data(x=X, edge_index=EDGES), "a graph, whose rows are nodes or edges"),
    "a dictionary of a graph": (
        lambda: {"x": X, "edge_index": EDGES},
        "a graph, whose rows are nodes or edges",
    ),
}
EVERY = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors is in prototype stage"
)


def message(what: str) -> str:
    """What is said of it: what it is, and how to give functions."""
    return (
        r"^no input was found: .*, and single samples cannot be taken from it "
        rf"\({re.escape(what)}\): write functions that take it apart and put it together, such as "
        r"ComplexityMonitor\(batch=lambda batch: .+, network=lambda module, x: .+\)$"
    )


@EVERY
def test_what_cannot_be_taken_apart_is_told(kind):
    make, what = KINDS[kind]
    assert find_unsupported(make()).what == what
    assert find_unsupported({"a": [make(), X]}).what == what


@pytest.mark.parametrize(
    "value", [X, [X, X], (X, X[:2]), [X, EDGES], {"x": [X], "y": 3}, SimpleNamespace(x=X), "words"]
)
def test_what_can_be_taken_apart_is_none(value):
    assert find_unsupported(value) is None


def test_only_what_is_around_a_place_counts():
    batch = {"images": images(8, 9), "x": X}
    assert find_unsupported(batch, ("x",)) is None
    assert find_unsupported(batch, ("images", 1)).what == "a list of images"


@EVERY
def test_a_call_with_it_is_no_input(kind):
    make, what = KINDS[kind]
    module = nn.Identity()
    recorder = Recorder(module, None, 4)
    module(make())
    assert recorder.close() is None
    assert re.match(message(what), str(recorder.failure))


@EVERY
def test_a_batch_of_it_is_no_input(kind):
    make, what = KINDS[kind]
    with pytest.raises(ValueError, match=message(what)):
        find_input((make(), EDGES), None, None)


@pytest.mark.parametrize("kind", ["nested", "sparse"])
def test_a_function_of_the_batch_must_take_it_apart(kind):
    make, what = KINDS[kind]
    with pytest.raises(ValueError, match=message(what)):
        choose_input(None, lambda _: make(), None)


def test_edges_by_their_name_make_a_graph():
    class Convolution(nn.Module):
        def forward(self, x, edge_index):
            return x

    recorder = Recorder(module := Convolution(), None, 4)
    module(X, EDGES)
    assert recorder.close() is None
    assert re.match(message("a graph, whose rows are nodes or edges"), str(recorder.failure))


class Around(nn.Module):
    """Takes a thing apart for its only part with parameters."""

    def __init__(self, take) -> None:
        super().__init__()
        self.inner, self.take = nn.Linear(3, 2), take

    def forward(self, x):
        return self.inner(self.take(x))


INSIDE = {
    "sparse": lambda x: x.to_dense(),
    "a TensorDict": lambda x: x["x"],
    "packed": lambda x: x.data,
    "a graph": lambda x: x._store["x"],
    "sequences": torch.cat,
}


@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("name", [None, "inner"])
def test_what_is_called_within_is_heard_if_it_has_samples_or_was_named(kind, name):
    module = Around(INSIDE[kind])
    recorder = Recorder(module, name, 4)
    module(KINDS[kind][0]())
    found = recorder.close()
    if name or kind in {"sparse", "a TensorDict"}:
        assert isinstance(found, Call)
        assert found.part == "inner"
        assert found.given[0][0].shape == (4, 3)
    else:
        assert found is None
