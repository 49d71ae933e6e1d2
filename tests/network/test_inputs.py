from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch.testing import assert_close

from lightning_effcx.network.calls import Call
from lightning_effcx.network.inputs import choose_input, find_input

X, Y = torch.randn(6, 3), torch.arange(6)


class Batch(NamedTuple):
    x: Any
    y: Any


@dataclass
class Data:
    image: Any
    label: Any


def call(*args: Any, **kwargs: Any) -> Call:
    found = Call.of("", args, kwargs, 99)
    assert found is not None
    return found


def test_what_was_called_is_the_input_whatever_the_batch_starts_with():
    found, (y, _) = find_input((X, Y), call(X + 1), None)
    assert_close(found.given[0][0], X + 1)
    assert y is Y


@pytest.mark.parametrize(
    "batch",
    [X, (X, Y), [X, Y], Batch(X, Y), {"a": "no", "x": X, "y": Y}, Data(X, Y), ([X], Y), (Y, X)],
    ids=str,
)
def test_where_no_call_was_heard_the_first_tensor_of_numbers_is_the_input(batch):
    found, _ = find_input(batch, None, None)
    assert found.given[0][0] is X


def test_a_function_of_the_module_is_about_the_batch():
    found, _ = find_input((X, Y), call(X + 1), lambda module, x: module(x + 1))
    assert found.given[0][0] is X


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y, "more"],
        Batch(X, Y),
        {"x": X, "id": X, "label": Y},
        {"target": Y, "x": X},
        Data(X, Y),
        UserDict(x=X, labels=Y),
        (X, Y, torch.zeros(6)),
    ],
    ids=str,
)
def test_a_target_is_found_by_its_name_or_as_the_second_part(batch):
    assert find_input(batch, None, None).target.y is Y


@pytest.mark.parametrize("batch", [X, (X,), (X, "words"), (X, torch.tensor(1)), {"x": X, "z": Y}])
def test_what_is_no_tensor_of_the_same_length_or_has_another_name_is_no_target(batch):
    assert find_input(batch, None, None).target.y is None
    assert find_input((X, torch.arange(3)), None, None).target.y is None


@pytest.mark.parametrize("batch", [{"y": Y}, [], "words", torch.tensor(1.0), SimpleNamespace(x=X)])
def test_a_batch_without_input_is_refused(batch):
    message = (
        "no input was found: no call with tensors was seen, and the batch has no "
        r"floating-point tensor \(n, ...\)"
    )
    with pytest.raises(ValueError, match=message):
        find_input(batch, None, None)


def test_a_function_finds_the_input_alone_or_with_its_target():
    batch = {"image": X, "class": Y}
    found, (y, _) = choose_input(batch, lambda b: b["image"], "part")
    assert found.given[0][0] is X
    assert found.part == "part"
    assert y is None
    found, (y, _) = choose_input(batch, lambda b: (b["image"], b["class"]), None)
    assert found.given[0][0] is X
    assert y is Y


def test_a_function_that_finds_no_input_is_told_what_it_returned():
    with pytest.raises(
        ValueError, match=r"batch=... returned \[str, str, str\], expected a tensor"
    ):
        choose_input((X, Y), lambda batch: ["a", "b", "c"], None)
