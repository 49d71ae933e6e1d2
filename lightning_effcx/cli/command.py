"""Command: parse the command line `effcx`, run one of its commands, and return the exit code."""

import argparse
import sys
from collections.abc import Sequence

from lightning_effcx import __version__
from lightning_effcx.cli import compare, studies
from lightning_effcx.cli.files import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Errors and warnings are printed on stderr.

    The exit code is 0 if everything was read and done, 1 if something was left out, 2 if the
    command was refused, and 130 if it was interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        complete: bool = arguments.run(arguments)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        say(f"effcx: {error}")
        return 2
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(": ".join(["effcx: interrupted", *map(str, interrupt.args)]) + "\n")
        return 130  # the usual code after SIGINT: 128 + 2
    return 0 if complete else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "effcx",
        description="Measure how complex the functions are that your networks represent.",
        epilog="Exit codes: 0 if everything was read and done; 1 if something was left out (stderr "
        "says what); 2 if the command was refused (stderr says why); 130 if it was interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"effcx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare.add_to(commands)
    studies.add_to(commands)
    return parser
