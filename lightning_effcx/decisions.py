"""Decisions: which class a network's outputs are for."""

from torch import Tensor


def decisions(outputs: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the class of each row of `(n, k)`, that of the largest if there are several outputs.

    Args:
        outputs: Logits, or whatever rises with them.
        threshold: What a single output must exceed for class 1; 0.5 if it is a probability.

    Example:
        >>> import torch
        >>> decisions(torch.tensor([[0.1, 0.7, 0.2], [3.0, 1.0, 2.0]]))
        tensor([1, 0])
        >>> decisions(torch.tensor([[-1.0], [2.0]]))
        tensor([0, 1])
    """
    return outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > threshold).long()
