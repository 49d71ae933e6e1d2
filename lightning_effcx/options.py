"""Options: check the values that users set, and refuse others in one sentence.

A value of a wrong type raises `TypeError`. A value out of range or an unknown word raises
`ValueError`.
"""

from collections.abc import Callable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

_SHOWN = 60  # characters of a value, at most


def check_word(name: str, given: Any, *words: str) -> None:
    """Raise if a value is not one of the words. The message names the most similar word first.

    Example:
        >>> check_word("between", "samee", "any", "same", "different")
        Traceback (most recent call last):
        ValueError: between='samee': expected 'same', 'any' or 'different'.
    """
    if isinstance(given, str) and given in words:
        return
    near = get_close_matches(str(given), words, n=1)
    first = sorted(words, key=lambda word: word not in near)
    *others, last = map(repr, first)
    raise refusal(ValueError, name, given, f"{', '.join(others)} or {last}")


def check_count(name: str, given: Any, *, least: int = 1, of: str = "") -> None:
    """Raise if a value is no whole number, or too small.

    Args:
        name: The name of the option.
        given: Its value.
        least: The smallest value that is allowed.
        of: Words that follow this number in the message, such as ` row`.
    """
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise refusal(TypeError, name, given, f"a whole number of at least {least}{of}")
    if given < least:
        raise refusal(ValueError, name, given, f"at least {least}{of}")


def check_number(name: str, given: Any, fits: Callable[[Any], bool], expected: str) -> None:
    """Raise if a value is no number, or a number that does not fit."""
    if isinstance(given, bool) or not isinstance(given, Real):
        raise refusal(TypeError, name, given, expected)
    if not fits(given):
        raise refusal(ValueError, name, given, expected)


def check_seed(given: Any) -> None:
    """Raise if a value is no whole number that torch accepts as a seed."""
    check_kind("seed", given, Integral, "a whole number, such as 0")
    if not -(2**63) <= given < 2**63:
        raise refusal(ValueError, "seed", given, "a whole number of less than 64 bits")


def check_switch(name: str, given: Any) -> None:
    """Raise if a value is neither `True` nor `False`."""
    check_kind(name, given, bool, "True or False")


def check_kind(name: str, given: Any, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise if a value is of another type. `True` and `False` do not count as numbers."""
    is_number = isinstance(given, bool) and kinds is not bool
    if is_number or not isinstance(given, kinds):
        raise refusal(TypeError, name, given, expected)


def refusal(kind: type[Exception], name: str, given: Any, expected: str) -> Exception:
    """Return the error that says which value was given for an option, and what is expected."""
    shown = repr(given)
    if len(shown) > _SHOWN:
        shown = f"<{type(given).__name__}>"
    return kind(f"{name}={shown}: expected {expected}.")
