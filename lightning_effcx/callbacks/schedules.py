"""Schedules: at which validations the monitor measures.

`Every` and `Geometric` are what users pass as `every`; any function of the same form does, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from numbers import Integral
from typing import Literal, TypeAlias

from lightning_effcx.callbacks.budget import Budget
from lightning_effcx.options import check_count, check_kind, check_number

ValidationRule: TypeAlias = Callable[[int], bool] | Literal["end"]
"""Maps the number of validations so far, 0 at the first, to whether this one is measured.

`"end"` stands for one measurement at the end of the training.
"""


@dataclass(frozen=True)
class Every:
    """Every `interval`-th validation, from the first on.

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
    """The first validation, then one whenever the number of validations has grown by `factor`.

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


@dataclass(frozen=True)
class Schedule:
    """When a training is measured: which validations the user wants, and what the budget allows.

    Asking changes nothing; only `budget.spending` counts time.

    Attributes:
        rule: Which validations the user wants.
        budget: What measuring may cost.
    """

    rule: ValidationRule
    budget: Budget

    def wants(self, validations: int) -> bool:
        """Tell whether the user wants a measurement after so many validations before this one."""
        return self.rule != "end" and bool(self.rule(validations))

    def wants_end(self, validations: int) -> bool:
        """Tell whether to measure at the end of a training that had so many validations.

        A training that ends before its first validation is measured once, too.
        """
        return self.rule == "end" or validations == 0
