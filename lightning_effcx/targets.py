"""Targets and decisions: whether targets are classes, and which class the outputs predict."""

from torch import Tensor


def are_classes(y: Tensor) -> bool:
    """Return whether targets are whole numbers, one for each sample, `(n,)` or `(n, 1)`."""
    is_column = y.dim() == 2 and y.shape[1] == 1  # noqa: PLR2004 rows and columns
    return (y.dim() == 1 or is_column) and not y.is_floating_point() and not y.is_complex()


def classes_of(y: Tensor | None) -> Tensor:
    """Return targets that are classes as `(n,)`, or raise if they are no classes.

    Example:
        >>> import torch
        >>> classes_of(torch.tensor([[2], [0]]))
        tensor([2, 0])
    """
    if y is None or not are_classes(y):
        given = "none" if y is None else f"a {y.dtype} of shape {tuple(y.shape)}"
        raise ValueError(
            "expected targets that are classes, whole numbers of shape (n,) or (n, 1), "
            f"got {given}: choose measures and paths that need no classes."
        )
    return y.flatten().long()


def decisions(outputs: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the class that each row of `(n, k)` predicts: the index of the largest output.

    Args:
        outputs: Logits, or values that rise with them, such as probabilities.
        threshold: A single output above it predicts class 1, otherwise class 0. Use 0.5 for
            probabilities.

    Example:
        >>> import torch
        >>> decisions(torch.tensor([[0.1, 0.7, 0.2], [3.0, 1.0, 2.0]]))
        tensor([1, 0])
        >>> decisions(torch.tensor([[-1.0], [2.0]]))
        tensor([0, 1])
    """
    return outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > threshold).long()
