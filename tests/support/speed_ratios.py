"""The speed of one way of doing something, as a ratio to another way in the same run."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

ROUNDS = 9


def seconds(act: Callable[[], object]) -> float:
    start = perf_counter()
    act()
    return perf_counter() - start


def times_faster(
    one: Callable[[], object], other: Callable[[], object], rounds: int = ROUNDS
) -> float:
    """How many times faster `one` is than `other`, both measured in turns after a warm-up."""
    one()
    other()
    return median(seconds(other) / seconds(one) for _ in range(rounds))
