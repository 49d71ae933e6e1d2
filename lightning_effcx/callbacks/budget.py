"""The budget: which share of a training's time measuring may take."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from lightning_effcx.options import check_number


class Budget:
    """Keeps the time for measurements below a share of the time since the budget was made.

    The first measurement is always allowed, whatever it costs. Every later one waits until the
    training has gone on for long enough to pay for one that costs as much as the last.

    Args:
        share: The share of the time, between 0 and 1. None allows every measurement.
    """

    def __init__(self, share: float | None = None) -> None:
        if share is not None:
            expected = "a share of the training's time between 0 and 1, such as 0.05"
            check_number("budget", share, lambda given: 0 < given < 1, expected)
        self.share = share
        self.last: float | None = None
        """How many seconds the last measurement took."""
        self._started = perf_counter()
        self._spent = 0.0

    def affords(self) -> bool:
        """Tell whether one more measurement would stay within the share."""
        if self.share is None or self.last is None:
            return True
        return self._spent + self.last <= self.share * (perf_counter() - self._started + self.last)

    @contextmanager
    def spending(self, *, measuring: bool = True) -> Iterator[None]:
        """Count the time that the code inside takes as spent.

        Args:
            measuring: The code inside is a whole measurement, so the next will cost as much.
        """
        start = perf_counter()
        try:
            yield
        finally:
            seconds = perf_counter() - start
            self._spent += seconds
            if measuring:
                self.last = seconds
