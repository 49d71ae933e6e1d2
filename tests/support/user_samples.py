"""The samples of the users' trainings. They are the same in every call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROWS = 5  # of each batch
CLASSES, VOCABULARY, LATENT = 3, 7, 4


def random(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


def whole(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(high))


def classified(*shape: int) -> Callable[[int], list[Any]]:
    return lambda count: [*zip(random(count, *shape), whole(CLASSES, count), strict=True)]


def sequences(count: int) -> list[Any]:
    parts = random(count, 5, 3), 1 + whole(5, count), whole(CLASSES, count)
    return [*zip(*parts, strict=True)]


def two_inputs(count: int) -> list[Any]:
    parts = random(count, 1, 6, 6), random(count, 3), whole(CLASSES, count)
    return [((image, features), y) for image, features, y in zip(*parts, strict=True)]


def pairs(count: int) -> list[Any]:
    one = random(count, 6)
    return [*zip(one, one.flip(0), 1.0 - 2 * whole(2, count), strict=True)]


def sentences(count: int) -> list[Any]:
    tokens, lengths = 1 + whole(VOCABULARY - 1, count, 5), 1 + whole(5, count)
    masks = (torch.arange(5) < lengths[:, None]).long()
    return [
        {"input_ids": t * m, "attention_mask": m, "labels": y}
        for t, m, y in zip(tokens, masks, whole(CLASSES, count), strict=True)
    ]


def mapped(count: int) -> list[Any]:
    return [{"label": y, "image": x} for x, y in classified(6)(count)]
