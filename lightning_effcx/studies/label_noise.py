"""Label noise: some labels are replaced by wrong ones, the same in all trainings of one repeat."""

import torch
from torch import Generator, Tensor


def noisy_labels(labels: Tensor, noise: float, generator: Generator) -> Tensor:
    """Replace each label, with probability `noise`, by another class; all others are as likely.

    A label is never replaced by itself, so a share of `noise` of the labels is wrong, as in
    Nakkiran et al. 2020. (Others draw from all classes, so some labels stay right by chance.) The
    classes are the values that occur among the labels.

    Args:
        labels: `(n,)`, whole numbers.
        noise: The probability, between 0 and 1.
        generator: Draws the same numbers at any noise, so a label that is wrong at one noise has
            the same wrong class at any larger noise.

    Example:
        >>> noisy_labels(torch.tensor([0, 1, 2, 1]), 1.0, Generator().manual_seed(0))
        tensor([2, 0, 0, 2])
    """
    classes, which = labels.unique(return_inverse=True)
    if noise and len(classes) < 2:  # noqa: PLR2004 another one is needed
        raise ValueError(
            f"all labels are {labels[0]}, but label noise replaces labels by another class: "
            "expected labels of at least two classes."
        )
    draws = torch.rand(2, len(labels), dtype=torch.float64, generator=generator)
    others = max(len(classes) - 1, 1)
    shift = (1 + (draws[1] * others).long().clamp(max=others - 1)) * (draws[0] < noise)
    return classes[(which + shift) % len(classes)]
