"""Files that commands write."""

import argparse
import sys
from pathlib import Path

from lightning_effcx.reading import visible


def check_folders(arguments: argparse.Namespace) -> None:
    """Refuse output that has nowhere to go before minutes of work, not after."""
    for option in ("csv", "json", "plot"):
        file = getattr(arguments, option, None)
        if file and not file.parent.is_dir():
            raise ValueError(f"There is no folder {str(file.parent)!r} to write {file.name} to.")


def write_text(file: Path, text: str) -> None:
    """Write a file, and say so."""
    file.write_text(text, encoding="utf-8", newline="")
    say_written(file)


def say_written(file: Path) -> None:
    """Say which file was written."""
    sys.stdout.write(f"wrote {visible(file)}\n")


def say(text: str) -> None:
    """Say something on stderr, of which no character does anything but be seen."""
    sys.stderr.writelines(f"{visible(line)}\n" for line in text.split("\n"))
