"""Schedules: at which validations to measure, as predicates of how many there were before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

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
        if not isinstance(self.interval, int):
            raise TypeError(
                f"every={self.interval!r}: expected a whole number, a function of the number of "
                "validations so far, or 'end'."
            )
        if self.interval < 1:
            raise ValueError(f"every={self.interval}: expected at least 1.")

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
        if self.factor <= 1:
            raise ValueError(f"factor={self.factor}: expected more than 1.")

    def __call__(self, count: int) -> bool:
        """Tell whether to measure after `count` validations."""
        due = 1.0
        while round(due) < count + 1:
            due *= self.factor
        return round(due) == count + 1
