"""Whatever looks at a network leaves it as it was: every byte, object, hook, mode and attribute.

The cases are networks x measures; each measure is taken as it is, and once more with an error in
the middle of it, at an operation that differs from case to case.
"""

import warnings
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from concrete_metrics import CONCRETE
from contract import with_own
from contracts import CONTRACTS, FUNCTIONS, takes_paths
from networks import ZOO, specimen
from stateful_networks import FORBIDDEN, STATES, STRUCTURES
from torch import Tensor, nn
from traces import FailedError, FailsAt, Trace, modules_of
from user_architectures import ARCHITECTURES

from lightning_effcx import functional, metrics
from lightning_effcx.network import independence
from lightning_effcx.network.observe import observing
from lightning_effcx.network.views import FunctionView

SAMPLES = 3
Look = Callable[[nn.Module, Tensor], Any]


def by_metric(kind: Any) -> Look:
    def look(network: nn.Module, x: Tensor) -> Any:
        y = torch.arange(len(x)) % 2
        metric = kind(**with_own(CONTRACTS[kind].cheap, x, y))
        metric.update(network, x, y)
        return metric.compute()

    return look


def by_function(function: Callable[..., Any]) -> Look:
    if takes_paths(function):
        return lambda network, x: function(network, x[None, :2])
    return function


LOOKS = {name: by_function(function) for name, function in FUNCTIONS.items()}
METRICS = {kind.__name__: by_metric(kind) for kind in CONCRETE}


def observed(function: Look) -> Look:
    def look(network: nn.Module, x: Tensor) -> Any:
        with observing(network):
            return function(network, x)

    return look


def of_architecture(name: str) -> tuple[nn.Module, Tensor]:
    architecture = ARCHITECTURES[name]
    module = architecture.make()
    batch = next(iter(architecture.loader(1, shuffle=False)))
    (x, *_), function = architecture.reads(module, batch)
    return FunctionView(module, lambda _, x: function(x)), x.detach()[:SAMPLES]


def of_idiom(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    return make(), torch.randn(SAMPLES, 4)


def is_plain(name: str) -> bool:
    """Tell whether the input is one tensor, and any number of samples will do."""
    return ARCHITECTURES[name].reads is not None and name not in {
        "causal transformer", "LSTM, lengths", "LSTM, packed", "text classifier",
        "tied language model", "two inputs", "keyword arguments", "graph network, batch= network=",
    }  # fmt: skip


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    **{f"zoo: {name}": partial(specimen, name, SAMPLES) for name in ZOO},
    **{f"user: {name}": partial(of_architecture, name) for name in filter(is_plain, ARCHITECTURES)},
    **{f"structure: {name}": partial(of_idiom, make) for name, make in STRUCTURES.items()},
    **{f"state: {name}": partial(of_idiom, make) for name, make in STATES.items()},
    **{f"forbidden: {name}": partial(of_idiom, make) for name, make in FORBIDDEN.items()},
}
EVERY = pytest.mark.parametrize("name", NETWORKS)


def check(
    look: Look, network: nn.Module, x: Tensor, seed: str, *, slots_only: bool = False
) -> None:
    """Look twice, the second time with an error at some operation, and find no trace."""
    before, total = Trace(network, slots_only=slots_only), FailsAt()
    with warnings.catch_warnings():
        expected = seed.startswith("forbidden")  # so that a warning is no error
        warnings.filterwarnings("ignore" if expected else "error", "effcx: evaluating")
        warnings.filterwarnings("ignore", ".*deprecated|Using `torch.compile.module.` when")
        try:
            with total:
                look(network, x)
        except (ValueError, TypeError, RuntimeError, NotImplementedError):
            pass  # what holds for which network is tested elsewhere
        assert Trace(network, slots_only=slots_only).differences(before) == []
        independence._checked.clear()  # so that the samples are checked again
        failing = FailsAt(1 + zlib.crc32(seed.encode()) % max(total.count, 1))
        try:
            with failing:
                look(network, x)
        except (FailedError, ValueError, TypeError, RuntimeError, NotImplementedError):
            pass
        assert failing.count >= failing.operation or not total.count
    assert Trace(network, slots_only=slots_only).differences(before) == []


@pytest.mark.parametrize("measure", METRICS)
@EVERY
def test_a_metric_leaves_no_trace(name, measure):
    network, x = NETWORKS[name]()
    check(METRICS[measure], network, x, f"{name} {measure}")


@pytest.mark.parametrize("measure", LOOKS)
@EVERY
def test_a_function_leaves_no_trace_in_what_is_observed(name, measure):
    network, x = NETWORKS[name]()
    check(observed(LOOKS[measure]), network, x, f"{name} {measure}")


@pytest.mark.parametrize("measure", LOOKS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("structure")])
def test_a_function_alone_gives_every_parameter_and_buffer_back(name, measure):
    network, x = NETWORKS[name]()
    for module in modules_of(network):
        module.training = False
    check(LOOKS[measure], network, x, f"{name} {measure}", slots_only=True)


def test_every_exported_metric_and_function_is_looked_at():
    exported = {getattr(functional, name) for name in functional.__all__}
    functions = {f.__name__ for f in exported if not isinstance(f, type)}
    assert {*LOOKS} == functions - {"observed_emc"}  # which is told errors, and sees no network
    assert {*METRICS} <= {*metrics.__all__}
