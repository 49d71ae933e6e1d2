"""Failures: why a network that runs as it is does not run in a pass, where rows are inserted."""

from typing import Any

from torch.utils._pytree import tree_leaves

from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.tracing import RefusedError


class Failures:
    """Notes calls that failed because they were given the number of rows of before.

    Args:
        followed: The tensors that the pass follows.
    """

    def __init__(self, followed: Followed) -> None:
        self.followed = followed
        self._saw_stale = False

    def note(self, *arguments: Any) -> None:
        """Note the arguments of a call that failed."""
        self._saw_stale |= self.has_stale(*arguments)

    def has_stale(self, *arguments: Any) -> bool:
        """Tell whether some argument has, or is, the number of rows before some were inserted."""
        return any(map(self.followed.is_stale, tree_leaves(arguments)))

    def refusal(self, error: Exception) -> RefusedError:
        """Return the error that says why the network failed, as far as that was seen."""
        if self._saw_stale:
            return RefusedError(
                "the network failed with more rows than it was called with, because it keeps the "
                f"batch size that it read before: use -1 for it, or use Transitions ({error})."
            )
        return RefusedError(
            "the network failed with more rows than it was called with, so its exact regions "
            f"cannot be found: use Transitions ({error})."
        )
