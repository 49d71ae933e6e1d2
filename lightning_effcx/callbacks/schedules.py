"""Schedules: at which validations to measure, as predicates of how many there were before."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from numbers import Integral
from typing import TypeAlias

from lightning_effcx.options import check_count, check_kind, check_number

Schedule: TypeAlias = Callable[[int], bool]
"""Maps the number of validations so far, 0 at the first, to whether this one is measured."""


@dataclass(frozen=True)
class Every:
    """Every `interval`-th validation, the first among them.

    Example:
        >>> [count for count in range(10) if Every(3)(count)]
        [0, 3, 6, 9]
    """

    interval: int

    def __post_init__(self) -> None:
        expected = "a whole number, a function of the number of validations so far, or 'end'"
        check_kind("every", self.interval, Integral, expected)
        check_count("every", self.interval)

    def __call__(self, count: int) -> bool:
        """Tell whether to measure after `count` validations."""
        return count % self.interval == 0


@dataclass(frozen=True)
class Geometric:
    """Ever more rarely: the first validation, then whenever their number has grown by `factor`.

    Example:
        >>> [count for count in range(40) if Geometric(2)(count)]
        [0, 1, 3, 7, 15, 31]
    """

    factor: float = 1.5

    def __post_init__(self) -> None:
        check_number(
            "factor", self.factor, lambda given: 1 < given < inf, "a number of more than 1"
        )

    def __call__(self, count: int) -> bool:
        """Tell whether to measure after `count` validations."""
        due = 1.0
        while round(due) < count + 1:
            due *= self.factor
        return round(due) == count + 1
