"""What the test of a measure tells the tests that go through all measures.

`tests/metrics/test_<measure>.py` has a list `CONTRACTS`, one contract for each metric class. So a
new measure needs no change in the tests that go through all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Contract:
    """The facts about one metric class.

    Attributes:
        metric: The class.
        options: The arguments with which `test_contract.py` makes it.
        cheap: The arguments for tests of many networks, where a value does not matter.
        functions: How to call the functions of the measure, as `(network, x)` or
            `(network, path)`, by name; only for those that need more arguments than these.
        words: The words of each option that is a word, by the name of the class or function and of
            the option.
        moves: Whether it moves the input or differentiates by it.
        exact: Whether it holds for piecewise-linear networks only. Metrics that are made with
            `exact=True` do anyway.
        kinked: Whether it holds only for networks with units that have kinks.
        curved: Whether it holds for networks with curves only.
        pooled: Whether it measures the samples of a batch together, so that batches matter.
        averages: Whether its value is an average, with a standard error.
        variants: Whether it has variants that it does not announce.
    """

    metric: type
    options: Sequence[Mapping[str, Any]] = ({},)
    cheap: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    words: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)
    moves: bool = True
    exact: bool = False
    kinked: bool = False
    curved: bool = False
    pooled: bool = False
    averages: bool = True
    variants: bool = False

    def is_exact(self, options: Mapping[str, Any]) -> bool:
        """Tell whether the metric made with these arguments is for piecewise-linear networks."""
        return self.exact or options.get("exact", False)

    @property
    def activation(self) -> type[nn.Module]:
        """An activation of networks that the measure holds for."""
        return nn.Tanh if self.curved else nn.ReLU


class Labelled(Dataset):
    """Labelled samples that a metric holds itself, besides the samples of a batch."""

    def __init__(self, x, y) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]

    def __repr__(self) -> str:
        return f"{len(self)} samples"


def with_own(options, x, y):
    """Return the options with these samples in place of the metric's own, if it has any."""
    return {**options, "data": Labelled(x, y)} if "data" in options else {**options}
