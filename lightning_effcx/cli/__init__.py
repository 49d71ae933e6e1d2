"""The command line `effcx`, whose commands compare runs and run studies."""

from lightning_effcx.cli.command import main

__all__ = ["main"]
