"""Targets: what belongs to each sample, where it stands in a batch, and whether it is a class."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_effcx.structures import parts

# What targets are called in batches whose parts have names.
_NAMES = ("y", "label", "labels", "target", "targets")


class Target(NamedTuple):
    """Targets `(n, ...)`, or none, and where they are from, in words."""

    y: Tensor | None
    origin: str

    def words(self) -> str:
        """Say what they are taken for.

        Example:
            >>> import torch
            >>> Target(torch.arange(2), "`y`").words()
            'classes from `y`'
        """
        if self.y is None:
            return "no targets"
        kind = "classes" if are_classes(self.y) else "values"
        return f"{kind} from {self.origin}" if self.origin else kind  # of another process


def target_in(batch: Any, samples: int) -> Target:
    """Find the targets of so many samples in a batch: by their name, or else as the second part.

    Example:
        >>> import torch
        >>> target_in({"x": torch.zeros(2, 3), "y": torch.arange(2)}, 2)
        Target(y=tensor([0, 1]), origin='`y`')
    """
    inside = parts(batch)
    found = [Target(inside[name], f"`{name}`") for name in _NAMES if name in inside]
    if not isinstance(batch, Mapping):
        found += [Target(y, "the second part of the batch") for y in [*inside.values()][1:2]]
    return next((each for each in found if is_target(each.y, samples)), Target(None, ""))


def is_target(y: Any, samples: int) -> bool:
    """Tell whether something is a tensor with a row for each of so many samples."""
    return isinstance(y, Tensor) and bool(y.dim()) and len(y) == samples


def are_classes(y: Tensor) -> bool:
    """Tell whether targets are whole numbers, one for each sample, `(n,)` or `(n, 1)`."""
    is_column = y.dim() == 2 and y.shape[1] == 1  # noqa: PLR2004 rows and columns
    return (y.dim() == 1 or is_column) and not y.is_floating_point() and not y.is_complex()


def classes_of(y: Tensor | None) -> Tensor:
    """Return targets that are classes as `(n,)`, or say what they are instead.

    Example:
        >>> import torch
        >>> classes_of(torch.tensor([[2], [0]]))
        tensor([2, 0])
    """
    if y is None or not are_classes(y):
        given = "none" if y is None else f"a {y.dtype} of shape {tuple(y.shape)}"
        raise ValueError(
            "expected targets that are classes, whole numbers of shape (n,) or (n, 1), "
            f"got {given}."
        )
    return y.flatten().long()
