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


def test_an_error_that_was_caught_elsewhere_can_be_reported():
    with pytest.warns(UserWarning, match="effcx leaves out the measure: no units. The training"):
        Guard(strict=False).leave_out("the measure", ValueError("no units."))
    with pytest.raises(ValueError, match="no units") as raised:
        Guard(strict=True).leave_out("the measure", ValueError("no units"))
    assert raised.value.__notes__ == ["effcx: this came from the measure."]


def test_a_problem_that_leaves_nothing_out_is_one_warning_or_raised_if_strict():
    guard = Guard(strict=False)
    with pytest.warns(UserWarning, match=r"^effcx: two curves are mixed\.$"):
        guard.warn("two curves are mixed.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.warn("two curves are mixed.")
    with pytest.raises(ValueError, match=r"^two curves are mixed\.$"):
        Guard(strict=True).warn("two curves are mixed.")


def test_a_line_is_logged_once_whatever_differs_beside_what_it_is_about(caplog):
    guard = Guard(strict=False)
    with caplog.at_level("INFO"):
        for line, about in (("a", ""), ("b", ""), ("a", ""), ("c (3)", "c"), ("c (4)", "c")):
            guard.inform(line, about)
    assert caplog.messages == ["effcx: a", "effcx: b", "effcx: c (3)"]
