from typing import NamedTuple

import pytest
import torch
from torch import nn

from lightning_effcx.capture import View, input_and_target, network_of, structure

X, Y = torch.randn(4, 3), torch.arange(4)


class Batch(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], Batch(X, Y), (X, Y, "more")], ids=repr)
def test_a_batch_that_is_a_sequence_starts_with_input_and_target(batch):
    x, y = input_and_target(batch)
    assert x is X
    assert y is Y


def test_a_batch_that_is_a_tensor_is_the_input():
    assert input_and_target(X) == (X, None)


def test_a_second_part_that_is_no_tensor_of_the_same_length_is_no_target():
    assert input_and_target((X, torch.tensor(1))) == (X, None)
    assert input_and_target((X, torch.arange(3))) == (X, None)
    assert input_and_target((X, ["a", "b", "c", "d"])) == (X, None)


def test_a_function_finds_the_input_alone_or_with_its_target():
    batch = {"image": X, "label": Y}
    assert input_and_target(batch, lambda b: b["image"]) == (X, None)
    x, y = input_and_target(batch, lambda b: (b["image"], b["label"]))
    assert x is X
    assert y is Y


@pytest.mark.parametrize("batch", [{"x": X}, Y, [], "words", torch.tensor(1.0), ([X], Y)], ids=repr)
def test_a_batch_without_input_is_described(batch):
    with pytest.raises(ValueError, match=r"no input was found: the batch is .* with batch="):
        input_and_target(batch)


def test_a_function_that_finds_no_input_is_told_what_it_returned():
    with pytest.raises(ValueError, match=r"batch=\.\.\. returned int64 \(4,\), expected"):
        input_and_target((X, Y), lambda batch: batch[1])


def test_long_batches_are_described_in_short():
    batch = [X, {"a": (Y, None)}, 3, "x", 1.5, X]
    expected = "[float32 (4, 3), {'a': [int64 (4,), NoneType]}, int, str, ...]"
    assert structure(batch) == expected


def test_a_part_is_found_by_its_dotted_name():
    module = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.ReLU()))
    assert network_of(module, "1.0") is module[1][0]
    assert network_of(module) is module


def test_an_unknown_part_is_answered_with_those_that_there_are():
    message = r"network='head': Sequential has no such part; it has: \['0'\]"
    with pytest.raises(ValueError, match=message):
        network_of(nn.Sequential(nn.ReLU()), "head")


def test_a_view_has_the_parameters_of_the_module_it_shows():
    module = nn.Linear(3, 2)
    view = network_of(module, lambda module, x: module(x)[:, :1])
    assert isinstance(view, View)
    assert list(view.parameters()) == list(module.parameters())
    torch.testing.assert_close(view(X), module(X)[:, :1])
