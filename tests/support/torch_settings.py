"""Settings of torch, made at its first import: tests that need no torch start fast."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def settle(torch: ModuleType) -> None:
    """Compute in one thread, and draw the same numbers in every process."""
    torch.set_num_threads(1)  # in networks this small, threads only wait for each other
    torch.manual_seed(0)


class SettlingFinder(MetaPathFinder):
    """Finds torch as Python does, and has it settled once its code has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def run_and_settle(module: ModuleType) -> None:
            run(module)
            settle(module)

        spec.loader.exec_module = run_and_settle
        return spec


def settle_when_imported() -> None:
    """Settle torch now, or as soon as anything imports it."""
    if torch := sys.modules.get("torch"):
        settle(torch)
    else:
        sys.meta_path.insert(0, SettlingFinder())


def seed_if_imported() -> None:
    """Start torch's random numbers anew."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
