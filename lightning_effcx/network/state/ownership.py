"""Ownership: which classes and functions are the user's, and which belong to libraries.

The state of a library's objects is not part of the network: a trainer, a logger or a data loader
may be working in other threads.
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
_BASES = frozenset(  # where classes that users derive from are defined
    "builtins abc typing typing_extensions collections collections.abc types argparse".split()
)
_PLAIN = frozenset({SimpleNamespace, Namespace, UserDict, UserList})
_CONCURRENT = frozenset("threading _thread queue _queue multiprocessing socket asyncio".split())


class Ownership:
    """Decides what is the user's: code that is not installed, or of the same package as a module.

    Installed code is the user's if one of the modules that were added is of the same package.
    """

    def __init__(self) -> None:
        self._packages: set[str] = set()

    def add(self, module: nn.Module) -> None:
        """Count everything of the same package as a module as the user's."""
        self._packages |= {_package(type(module).__module__)} - _LIBRARIES

    def owns_file(self, name: str) -> bool:
        """Return whether a Python module of this name is the user's."""
        package = _package(name)
        if package in _LIBRARIES or package in sys.stdlib_module_names:
            return False
        return package in self._packages or not _is_installed(package)

    def owns_class(self, kind: type) -> bool:
        """Return whether the user defined a class."""
        return kind.__module__ not in _BASES and self.owns_file(kind.__module__)

    def owns_object(self, value: Any) -> bool:
        """Return whether an object is the user's, and no library or thread uses it as well."""
        if type(value) not in _PLAIN and not self.owns_class(type(value)):
            return False
        kinds = [k for k in type(value).__mro__ if k.__module__ not in _BASES]
        held = getattr(value, "__dict__", {}).values()
        return all(map(self.owns_class, kinds)) and not any(
            _package(type(part).__module__) in _CONCURRENT for part in held
        )

    def owns_compiled(self, value: Any) -> bool:
        """Return whether an object is of a class of the user's that is not written in Python."""
        kinds = type(value).__mro__
        has_attributes = hasattr(value, "__dict__") or any("__slots__" in vars(k) for k in kinds)
        return self.owns_class(type(value)) and not has_attributes

    def owns_function(self, function: FunctionType) -> bool:
        """Return whether the user wrote a function. A library's wrapper around it is not theirs."""
        return self.owns_file(str(function.__globals__.get("__name__", "")))


def is_of_this_package(module: nn.Module) -> bool:
    """Return whether this package defines the class of a module."""
    return _package(type(module).__module__) == _package(__name__)


def _package(name: str) -> str:
    return name.partition(".")[0]


@lru_cache(maxsize=4096)
def _is_installed(package: str) -> bool:
    module = sys.modules.get(package)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    parts = {part for place in places if place for part in Path(place).parts}
    return bool(parts & {"site-packages", "dist-packages"})
