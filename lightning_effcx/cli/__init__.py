"""The command `effcx`: each of its commands is one call into a room."""

import argparse
import sys
from collections.abc import Sequence

from lightning_effcx import __version__
from lightning_effcx.cli import compare, studies


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after saying on stderr what was wrong, 130 if interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.stderr.write(f"effcx: {error}\n")
        return 2
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(": ".join(["effcx: interrupted", *map(str, interrupt.args)]) + "\n")
        return 130  # as of all that ends by that signal
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "effcx", description="See how complex the functions are that your networks represent."
    )
    parser.add_argument("--version", action="version", version=f"effcx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare.add_to(commands)
    studies.add_to(commands)
    return parser
