from collections import OrderedDict, UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from lightning_effcx.network.nested import at, describe, leaves, map_tensors

X, Y = torch.randn(4, 3), torch.arange(4)


class Named(NamedTuple):
    x: Any
    y: Any


@dataclass(frozen=True)
class Data:
    x: Any
    y: Any


class Encoding(UserDict):
    """A mapping that is no dict, as tokenizers return."""


STRUCTURES = {
    "a tensor": (X, [()]),
    "a tuple": ((X, Y), [(0,), (1,)]),
    "a list of tuples": ([(X, 1), (Y,)], [(0, 0), (1, 0)]),
    "a dictionary": ({"a": X, "b": {"c": Y}}, [("a",), ("b", "c")]),
    "an ordered dictionary": (OrderedDict(a=X), [("a",)]),
    "a mapping": (Encoding(a=X, b="text"), [("a",)]),
    "a named tuple": (Named(X, [Y]), [("x",), ("y", 0)]),
    "a frozen dataclass": (Data(X, None), [("x",)]),
    "an object": (SimpleNamespace(x=X), []),
    "a class": (Data, []),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_tensors_are_found_in_their_places(name):
    value, places = STRUCTURES[name]
    found = dict(leaves(value))
    assert [*found] == places
    assert all(at(value, place) is tensor for place, tensor in found.items())


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_mapped_is_of_the_same_type_and_leaves_the_first_alone(name):
    value, places = STRUCTURES[name]
    before = [tensor.clone() for _, tensor in leaves(value)]
    doubled = map_tensors(value, lambda _, tensor: 2 * tensor)
    assert type(doubled) is type(value)
    for (place, tensor), old in zip(leaves(doubled), before, strict=True):
        assert place in places
        assert torch.equal(tensor, 2 * old)
    for (_, tensor), old in zip(leaves(value), before, strict=True):
        assert torch.equal(tensor, old)


def test_what_holds_no_tensor_is_returned_itself():
    value = {"a": [1, object()]}
    assert map_tensors(value, lambda _, tensor: 2 * tensor) is value


DESCRIBED = {
    "a long list": (
        [X, {"a": (Y, None)}, 3, "x", 1.5, X],
        "[float32 (4, 3), {'a': [int64 (4,), NoneType]}, int, str, ...]",
    ),
    "a named tuple": (Named(X, Y), "Named(x=float32 (4, 3), y=int64 (4,))"),
    "a dataclass": (Data(X, "no"), "Data(x=float32 (4, 3), y=str)"),
    "an object with tensors": (
        SimpleNamespace(x=X, n=3),
        "SimpleNamespace(x=float32 (4, 3), n=int)",
    ),
    "an object that keeps them in a mapping": (
        SimpleNamespace(_store={"x": X, "_n": 4}, n=3),
        "SimpleNamespace(x=float32 (4, 3))",
    ),
    "an object with secrets": (SimpleNamespace(x=X, _y=Y), "SimpleNamespace(x=float32 (4, 3))"),
    "an object without": (SimpleNamespace(n=3), "SimpleNamespace"),
    "text": ("words", "str"),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_structure_is_described_in_one_line(name):
    value, expected = DESCRIBED[name]
    assert describe(value) == expected
