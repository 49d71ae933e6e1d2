"""Ownership: which classes and functions are the user's, and which are of libraries.

The state of a library's objects is its own affair: a trainer, a logger or a data loader may be at
work in other threads, and what it holds is not part of the network.
"""

import sys
from argparse import Namespace
from collections import UserDict, UserList
from functools import lru_cache
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from torch import nn

_LIBRARIES = frozenset(
    "torch torchmetrics lightning pytorch_lightning lightning_fabric lightning_utilities "
    "lightning_effcx numpy".split()
)
_OF_ANYBODY = frozenset(  # what classes of users are often derived from
    "builtins abc typing typing_extensions collections collections.abc types argparse".split()
)
_PLAIN = frozenset({SimpleNamespace, Namespace, UserDict, UserList})
_CONCURRENT = frozenset("threading _thread queue _queue multiprocessing socket asyncio".split())


class Ownership:
    """Tells what is the user's: what is not installed, or of a package that the modules are of."""

    def __init__(self) -> None:
        self._packages: set[str] = set()

    def add(self, module: nn.Module) -> None:
        """Let everything be the user's that is of the same package as a module."""
        self._packages |= {_package(type(module).__module__)} - _LIBRARIES

    def of_name(self, name: str) -> bool:
        """Tell whether a Python module of this name is the user's."""
        package = _package(name)
        if package in _LIBRARIES or package in sys.stdlib_module_names:
            return False
        return package in self._packages or not _is_installed(package)

    def of_class(self, kind: type) -> bool:
        """Tell whether the user defined a class."""
        return kind.__module__ not in _OF_ANYBODY and self.of_name(kind.__module__)

    def of_object(self, value: Any) -> bool:
        """Tell whether an object is the user's, and nobody else's at the same time."""
        if type(value) not in _PLAIN and not self.of_class(type(value)):
            return False
        kinds = [k for k in type(value).__mro__ if k.__module__ not in _OF_ANYBODY]
        held = getattr(value, "__dict__", {}).values()
        return all(map(self.of_class, kinds)) and not any(
            _package(type(part).__module__) in _CONCURRENT for part in held
        )

    def is_compiled(self, value: Any) -> bool:
        """Tell whether an object is of a class of the user's that is not written in Python."""
        kinds = type(value).__mro__
        has_attributes = hasattr(value, "__dict__") or any("__slots__" in vars(k) for k in kinds)
        return self.of_class(type(value)) and not has_attributes

    def of_function(self, function: FunctionType) -> bool:
        """Tell whether the code of a function is the user's, and no wrapper around it."""
        return self.of_name(str(function.__globals__.get("__name__", "")))


def _package(name: str) -> str:
    return name.partition(".")[0]


@lru_cache(maxsize=4096)
def _is_installed(package: str) -> bool:
    module = sys.modules.get(package)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    parts = {part for place in places if place for part in Path(place).parts}
    return bool(parts & {"site-packages", "dist-packages"})
