"""Budget: what share of the time of a training its measurements may take."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from lightning_effcx.options import check_number


class Budget:
    """Keeps the time of measurements below a share of the time since the start.

    The first measurement is always made, whatever it costs; from then on each waits until the
    training has gone on for long enough to afford one that costs as much as the last.

    Args:
        share: Of the time, between 0 and 1. None allows everything.
    """

    def __init__(self, share: float | None = None) -> None:
        if share is not None:
            expected = "a share of the training's time between 0 and 1, such as 0.05"
            check_number("budget", share, lambda given: 0 < given < 1, expected)
        self.share = share
        self.start()

    def start(self) -> None:
        """Begin: nothing has been spent."""
        self._started = perf_counter()
        self._spent = 0.0
        self.last: float | None = None
        """What the last measurement cost, in seconds."""

    def affords(self) -> bool:
        """Tell whether one more measurement would stay within the share."""
        if self.share is None or self.last is None:
            return True
        return self._spent + self.last <= self.share * (perf_counter() - self._started + self.last)

    @contextmanager
    def spending(self, *, measuring: bool = True) -> Iterator[None]:
        """Count the time inside; of a measurement also as what the next will cost."""
        start = perf_counter()
        try:
            yield
        finally:
            seconds = perf_counter() - start
            self._spent += seconds
            if measuring:
                self.last = seconds
