"""The contracts of all metrics of a network, gathered from the tests of the measures."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract import Contract

from lightning_effcx import functional

_TESTS = Path(__file__).parents[1] / "metrics"


def _gather() -> dict[type, Contract]:
    """Return the contract of each metric class, in the order of the files."""
    found: dict[type, Contract] = {}
    for file in sorted(_TESTS.glob("test_*.py")):
        if "\nCONTRACTS = " in file.read_text():
            # Not the module that pytest makes of the file: pytest rewrites its assertions.
            spec = importlib.util.spec_from_file_location(f"contracts_of_{file.stem}", file)
            assert spec
            assert spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            found |= {contract.metric: contract for contract in module.CONTRACTS}
    return found


CONTRACTS = _gather()


def takes_network(function: Any) -> bool:
    """Tell whether something is a function whose first argument is a network."""
    first = [*inspect.signature(function).parameters][:1] if inspect.isfunction(function) else []
    return first in (["network"], ["teacher"], ["student"])


_EXPORTED = {name: getattr(functional, name) for name in functional.__all__}

# The functions of a network, each to be called with a network and samples or paths alone.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: function for name, function in _EXPORTED.items() if takes_network(function)
}
for _contract in CONTRACTS.values():
    FUNCTIONS |= _contract.functions


def takes_paths(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes paths in place of samples."""
    return "path" in inspect.signature(function).parameters
