"""The guard: what goes wrong in measuring is one warning, and never ends the training."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_effcx.callbacks.lightning_compat import rank_zero_info, rank_zero_warn


class Guard:
    """Turns errors into warnings, and gives each warning and each line of information once.

    Args:
        strict: Raise where there would be a warning.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self._said: set[str] = set()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Leave out `what` if the code inside raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 the code inside is often the user's
            self.leave_out(what, error)

    def leave_out(self, what: str, error: Exception) -> None:
        """Warn that `what` is left out because of an error, or raise the error."""
        if self.strict:
            error.add_note(f"effcx: this came from {what}.")
            raise error
        if self._is_first(what):
            reason = str(error).removesuffix(".") or type(error).__name__
            rank_zero_warn(
                f"effcx leaves out {what}: {reason}. The training goes on; strict=True raises."
            )

    def warn(self, problem: str) -> None:
        """Warn of a problem that leaves nothing out, or raise it."""
        if self.strict:
            raise ValueError(problem)
        if self._is_first(problem):
            rank_zero_warn(f"effcx: {problem}")

    def inform(self, line: str, about: str = "") -> None:
        """Log a line, unless one about the same was logged before.

        Args:
            line: What the user reads.
            about: What it is about, by default the line itself.
        """
        if self._is_first(about or line):
            rank_zero_info(f"effcx: {line}")

    def _is_first(self, what: str) -> bool:
        if what in self._said:
            return False
        self._said.add(what)
        return True
