"""Guard: what goes wrong in measuring is one warning, and never the end of the training."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_effcx.callbacks.lightning_compat import rank_zero_warn


class Guard:
    """Turns errors into warnings, one for each thing that fails.

    Args:
        strict: Raise where there would be a warning.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self._said: set[str] = set()

    def is_new(self, what: str) -> bool:
        """Tell whether this has not been said so far; from now on it has."""
        is_new = what not in self._said
        self._said.add(what)
        return is_new

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Guard what is done inside, and name it where it fails."""
        try:
            yield
        except Exception as error:
            if self.strict:
                error.add_note(f"effcx: this came from {what}.")
                raise
            if self.is_new(what):
                reason = str(error).removesuffix(".") or type(error).__name__
                rank_zero_warn(
                    f"effcx leaves out {what}: {reason}. The training goes on; strict=True raises."
                )
