"""Reading: read files that may be damaged or hostile, and show their contents safely.

Only regular files are opened, because a reader may wait for a pipe for ever, and a device may have
no end. A reader never allocates more memory than the file has bytes. Each error message describes
the damage in words that can follow the name of the file.
"""

import json
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

MOST = 2**24
"""The most bytes of a file that is read as a whole, or of one line of a file."""


def open_regular(file: Path, mode: str = "rb") -> BinaryIO:
    """Open a file in binary, unless it is a pipe, a device, a socket or a directory."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(0, "it is no regular file")
    opened: Any = file.open(mode)
    return opened


def read_json(file: Path) -> Any:
    """Read a file as JSON.

    Raises:
        ValueError: The file is no JSON, or not as we write it.
        OSError: It is no regular file, or cannot be read.
    """
    with open_regular(file) as opened:
        text = opened.read(MOST + 1)
    if len(text) > MOST:
        raise ValueError(f"it has more than {MOST >> 20} MB")
    return from_json(text)


def from_json(text: bytes) -> Any:
    """Read JSON; refuse what we never write, such as infinite numbers or very deep nesting."""
    try:
        return json.loads(text, parse_int=_whole, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None


def visible(text: object) -> str:
    r"""Return a text in one line, with everything escaped that cannot be printed.

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
    except (OverflowError, ValueError):  # Python refuses to read so many digits, or no float fits
        raise ValueError(f"it has a number of {len(digits)} digits") from None
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which is no JSON")
