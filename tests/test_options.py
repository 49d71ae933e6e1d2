"""The checks of arguments by themselves; `test_arguments.py` tries those of the whole package."""

import math

import numpy as np
import pytest

from lightning_effcx.options import (
    check_count,
    check_kind,
    check_number,
    check_seed,
    check_switch,
    check_word,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("samee", "between='samee': expected 'same', 'any' or 'different'."),
        ("Different", "between='Different': expected 'different', 'any' or 'same'."),
        ("what", "between='what': expected 'any', 'same' or 'different'."),
        (3, "between=3: expected 'any', 'same' or 'different'."),
    ],
)
def test_the_word_that_resembles_another_is_named_first(given, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        check_word("between", given, "any", "same", "different")


def test_a_count_is_a_whole_number_of_at_least_some_other():
    check_count("points", 2, least=2)
    with pytest.raises(ValueError, match=r"^points=1: expected at least 2 on each path\.$"):
        check_count("points", 1, least=2, of=" on each path")
    with pytest.raises(TypeError, match=r"^points=2\.0: expected a whole number of at least 1\.$"):
        check_count("points", 2.0)


def test_a_number_fits_or_is_refused_with_what_is_expected():
    check_number("turn", 0.5, math.isfinite, "a number of turns")
    with pytest.raises(ValueError, match=r"^turn=nan: expected a number of turns\.$"):
        check_number("turn", math.nan, math.isfinite, "a number of turns")
    with pytest.raises(TypeError, match=r"^turn='5%': expected a number of turns\.$"):
        check_number("turn", "5%", math.isfinite, "a number of turns")


def test_true_is_no_number():
    for check in (check_count, lambda *given: check_number(*given, math.isfinite, "a number")):
        with pytest.raises(TypeError, match=r"^points=True: expected a "):
            check("points", True)
    with pytest.raises(TypeError, match=r"^seed=True: expected a whole number, such as 0\.$"):
        check_seed(True)


def test_a_switch_is_true_or_false():
    check_switch("detail", False)
    with pytest.raises(TypeError, match=r"^detail=1: expected True or False\.$"):
        check_switch("detail", 1)


def test_numbers_of_numpy_are_numbers():
    check_count("count", np.int64(3))
    check_number("turn", np.float32(0.5), math.isfinite, "a number")
    check_seed(np.int32(3))


def test_a_long_value_is_named_by_its_type():
    with pytest.raises(TypeError, match=r"^name=<list>: expected text\.$"):
        check_kind("name", [*range(99)], str, "text")
