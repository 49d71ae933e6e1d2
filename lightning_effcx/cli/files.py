"""Files: write the output of commands to files and to stderr."""

import argparse
import sys
from pathlib import Path

from lightning_effcx.reading import visible


def check_folders(arguments: argparse.Namespace) -> None:
    """Refuse output to a missing folder before the work, which may take minutes, not after it."""
    for option in ("csv", "json", "plot"):
        file = getattr(arguments, option, None)
        if file and not file.parent.is_dir():
            raise ValueError(f"There is no folder {str(file.parent)!r} to write {file.name} to.")


def write_text(file: Path, text: str) -> None:
    """Write a text file, and print its name."""
    file.write_text(text, encoding="utf-8", newline="")
    say_written(file)


def say_written(file: Path) -> None:
    """Print the name of a file that was written."""
    sys.stdout.write(f"wrote {visible(file)}\n")


def say(text: str) -> None:
    """Print a text on stderr, with everything escaped that is not printable."""
    sys.stderr.writelines(f"{visible(line)}\n" for line in text.split("\n"))
