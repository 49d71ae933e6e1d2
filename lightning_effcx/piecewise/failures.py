"""Failures: why a network that runs as it is does not run in a pass, where rows are inserted."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_effcx.network import Network
from lightning_effcx.piecewise.confirmation import evaluate_plainly
from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.tracing import RefusedError, choose_refusal

# As torch calls them in its messages.
_PRECISIONS = re.compile(r"(?<![a-z])(?:bfloat16|half|float|double)(?![a-z0-9])")


class StoppedError(Exception):
    """A pass gave up by itself. Whoever started it knows what to do."""


class Failures:
    """Notes calls that failed because they were given the number of rows of before.

    Args:
        followed: The tensors that the pass follows.
        samples: Inputs at which the network has to run by itself.

    Attributes:
        refused: What was refused so far. It counts if the outputs depend on it.
    """

    def __init__(self, followed: Followed, samples: Tensor) -> None:
        self.followed = followed
        self.samples = samples
        self.refused: list[RefusedError] = []
        self._saw_stale = False

    def explain(self, error: Exception, network: Network) -> Exception:
        """Return why a network failed in a pass: its own error, if it fails without a pass, too.

        Args:
            error: What it raised.
            network: The network.
        """
        if self.refused:
            return choose_refusal(self.refused)
        mixed = _mixed_precision(error, self.followed.dtype)
        if mixed:
            return mixed
        is_own = not self.followed.rows.version or self._fails_alone(network, type(error))
        return error if is_own else self.refusal(error)

    def _fails_alone(self, network: Network, kind: type[Exception]) -> bool:
        try:
            evaluate_plainly(network, self.samples)
        except Exception as error:  # noqa: BLE001 whatever the network raises
            return type(error) is kind
        return False

    def note(self, *arguments: Any) -> None:
        """Note the arguments of a call that failed."""
        self._saw_stale |= self.has_stale(*arguments)

    def has_rows(self, *arguments: Any) -> bool:
        """Tell whether some argument has, or is, the number of rows of before or of now."""
        return any(map(self.followed.has_rows, tree_leaves(arguments)))

    def has_stale(self, *arguments: Any) -> bool:
        """Tell whether some argument has, or is, the number of rows before some were inserted."""
        return any(map(self.followed.is_stale, tree_leaves(arguments)))

    def refusal(self, error: Exception) -> RefusedError:
        """Return the error that says why the network failed, as far as that was seen."""
        if self._saw_stale:
            return RefusedError(
                "the network failed with more rows than it was called with, because it keeps the "
                "batch size that it read before: use -1 for it, or use Transitions "
                f"({message_of(error)})."
            )
        return RefusedError(
            "the network failed with more rows than it was called with, so its exact regions "
            f"cannot be found: use Transitions ({message_of(error)})."
        )


def _mixed_precision(error: Exception, dtype: torch.dtype) -> RefusedError | None:
    """Return why a network failed, if its error says that it met numbers of two precisions."""
    message = message_of(error)
    if len(set(_PRECISIONS.findall(message.lower()))) < 2:  # noqa: PLR2004 two of them
        return None
    return RefusedError(
        f"the network was given inputs of {dtype}, and has parameters or numbers of another type "
        "that cannot be converted: give the module itself instead of a function that calls it, or "
        f"convert it with module.to({dtype}) ({message})."
    )


def message_of(error: Exception) -> str:
    """Return what an error says, or its type if that raises an error itself."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 it is the user's
        return type(error).__name__
