"""Choices: what the user wants to be looked at, where the monitor should not find it by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import nn

from lightning_effcx.options import check_count, check_kind, refusal


@dataclass(frozen=True)
class Choices:
    """The options of the monitor that say what is measured; its docstring explains them.

    Attributes:
        samples: How many samples make up the probe, of all processes together.
        network: The name of a part of the module, or a function of the module and the input.
        batch: A function that maps a batch to the input, or to `(input, target)`.
        output: Which of several outputs to measure, by name or index.
        loader: From which of several validation loaders to take the samples.
    """

    samples: int = 64
    network: Callable[[Any, Any], Any] | str | None = None
    batch: Callable[[Any], Any] | None = None
    output: str | int | None = None
    loader: int = 0

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        check_count("loader", self.loader, least=0)
        _check_network(self.network)
        _check_batch(self.batch)
        if self.output is not None:
            expected = "the name of an output, or its index"
            check_kind("output", self.output, (str, Integral), expected)


def _check_network(network: Any) -> None:
    is_name = network is None or isinstance(network, str)
    # A module is callable, too, but it takes the input alone.
    if isinstance(network, nn.Module) or not (is_name or callable(network)):
        expected = "the name of a part of the module, or a function (module, x) -> outputs"
        raise refusal(TypeError, "network", network, expected)


def _check_batch(batch: Any) -> None:
    if not (batch is None or callable(batch)):
        expected = "a function of a batch that returns the input, or (input, target)"
        raise refusal(TypeError, "batch", batch, expected)
