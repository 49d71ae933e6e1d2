"""Label noise: some labels are wrong, the same ones for as long as one repeat of a study lasts."""

import torch
from torch import Generator, Tensor


def noisy_labels(labels: Tensor, noise: float, generator: Generator) -> Tensor:
    """Replace each label, with probability `noise`, by one of the other classes, all alike likely.

    Never by its own: of noisy labels a share of `noise` is wrong, as in Nakkiran et al. 2020, while
    others draw from all classes, so that some stay right. The classes are those among the labels.

    Args:
        labels: `(n,)`, whole numbers.
        noise: Between 0 and 1.
        generator: Draws once for each sample, whatever the noise, so that what is wrong at one
            noise is as wrong at any larger.

    Example:
        >>> noisy_labels(torch.tensor([0, 1, 2, 1]), 1.0, Generator().manual_seed(0))
        tensor([2, 0, 0, 2])
    """
    classes, which = labels.unique(return_inverse=True)
    if noise and len(classes) < 2:  # noqa: PLR2004 another one is needed
        raise ValueError(
            f"all labels are {labels[0]}: expected two classes or more, for label noise to choose "
            "another."
        )
    draws = torch.rand(2, len(labels), dtype=torch.float64, generator=generator)
    others = max(len(classes) - 1, 1)
    shift = (1 + (draws[1] * others).long().clamp(max=others - 1)) * (draws[0] < noise)
    return classes[(which + shift) % len(classes)]
