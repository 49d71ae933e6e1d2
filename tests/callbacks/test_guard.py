import warnings

import pytest

from lightning_effcx.callbacks.guard import Guard


def fails(guard, what, error):
    with guard(what):
        raise error


def test_each_thing_that_fails_is_one_warning():
    guard = Guard(strict=False)
    with pytest.warns(UserWarning, match="leaves out the measure: no units. The training goes on;"):
        fails(guard, "the measure", ValueError("no units."))
    with pytest.warns(UserWarning, match="leaves out another: KeyError. The training goes on; st"):
        fails(guard, "another", KeyError())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fails(guard, "the measure", ValueError("another reason"))


def test_a_strict_guard_raises_and_names_what_failed():
    with pytest.raises(ValueError, match="no units") as raised:
        fails(Guard(strict=True), "the measure", ValueError("no units"))
    assert raised.value.__notes__ == ["effcx: this came from the measure."]


def test_what_ends_a_training_is_let_through():
    with pytest.raises(KeyboardInterrupt):
        fails(Guard(strict=False), "the measure", KeyboardInterrupt())


def test_what_has_been_said_is_not_new():
    guard = Guard(strict=False)
    assert [guard.is_new(what) for what in ("a", "b", "a")] == [True, True, False]
