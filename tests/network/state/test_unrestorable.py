import io
import itertools
import sys
from collections import Counter

import pytest
import torch
from stateful_networks import numbers
from torch.utils.data import DataLoader

from lightning_effcx.network.state import unrestorable
from lightning_effcx.network.state.unrestorable import (
    Tripwire,
    UnrestorableError,
    is_unrestorable,
    substitute,
)

COPIED = {
    "count": lambda: itertools.count(3),
    "cycle": lambda: itertools.cycle([1, 2]),
    "list": lambda: iter([1, 2, 3]),
    "zip": lambda: zip([1, 2], "ab", strict=True),
    "items": lambda: iter({"a": 1}.items()),
    "enumerated": lambda: enumerate("ab"),
    "text": lambda: io.StringIO("a\nb\n"),
    "bytes": lambda: io.BytesIO(b"a\nb\n"),
}


@pytest.mark.parametrize("name", COPIED)
def test_a_copy_goes_on_by_itself(name):
    thing = COPIED[name]()
    assert is_unrestorable(thing)
    copy = substitute("it", thing)
    first = next(copy)
    assert next(thing) == first


@pytest.mark.parametrize(
    "make",
    [
        numbers,
        lambda: iter(DataLoader([1, 2])),
        lambda: itertools.cycle(DataLoader([1, 2])),  # whose data may be large
        lambda: map(lambda x: x + 1, [1, 2]),  # noqa: C417 the subject
        lambda: iter([torch.zeros(1)]),
        lambda: open(__file__),  # noqa: SIM115, PTH123 the subject
    ],
    ids=["generator", "loader", "cycle of a loader", "function", "tensors", "file"],
)
def test_what_cannot_be_copied_trips(make):
    thing = make()
    assert is_unrestorable(thing)
    wire = substitute("its.name", thing)
    assert isinstance(wire, Tripwire)
    for use in (
        next,
        iter,
        len,
        lambda w: w.read(),
        lambda w: w(1),
        lambda w: w[0],
        lambda w: 1 in w,
    ):
        message = rf"the network uses 'its.name' \({type(thing).__name__}\), which cannot be put b"
        with pytest.raises(UnrestorableError, match=message):
            use(wire)
    getattr(thing, "close", int)()


def test_what_is_long_is_not_copied(monkeypatch):
    monkeypatch.setattr(unrestorable, "_LONGEST", 1000)
    assert isinstance(substitute("it", iter([*range(100_000)])), Tripwire)


@pytest.mark.parametrize("thing", [[1], Counter(), "text", None, sys.stdout, sys.stderr, int])
def test_other_things_stay(thing):
    assert not is_unrestorable(thing)


def test_a_tensor_of_inference_mode_is_lent_as_an_ordinary_one():
    with torch.inference_mode():
        table = torch.ones(2)
        copy = substitute("it", table)
    assert not copy.is_inference()
    assert torch.equal(copy, table)
