"""Reading: files that somebody else wrote, or that are damaged, and how to show what is in them.

Nothing is opened that a reader could wait for, such as a pipe, or that has no end. No more is taken
into memory than the file holds. What is wrong with a file is said in words that follow its name.
"""

import json
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

MOST = 2**24
"""Bytes of a file that is read as a whole, or of a line of one, at most."""


def open_regular(file: Path, mode: str = "rb") -> BinaryIO:
    """Open a file in binary, unless it is a pipe, a device, a socket or a directory."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(0, "it is no regular file")
    opened: Any = file.open(mode)
    return opened


def read_json(file: Path) -> Any:
    """Read a file as JSON; raise `ValueError` if it is none of ours, `OSError` if it is no file."""
    with open_regular(file) as opened:
        text = opened.read(MOST + 1)
    if len(text) > MOST:
        raise ValueError(f"it has more than {MOST >> 20} MB")
    return from_json(text)


def from_json(text: bytes) -> Any:
    """Read JSON; refuse what no JSON of ours has."""
    try:
        return json.loads(text, parse_int=_whole, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None


def visible(text: object) -> str:
    r"""Return a text in one line that can be printed anywhere: what is no character is escaped.

    Example:
        >>> print(visible("red \x1b[31m, broken \udcff"))
        red \x1b[31m, broken \udcff
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


def _whole(digits: str) -> int:
    try:
        number = int(digits)
        float(number)
    except (OverflowError, ValueError):  # beyond what Python turns into a number at all
        raise ValueError(f"it has a number of {len(digits)} digits") from None
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which is no JSON")
