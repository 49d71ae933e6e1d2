"""Shard: the samples or paths that one of several processes measures."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lightning_effcx.metrics.draws import Draws

Items = TypeVar("Items", Tensor, Draws)


@dataclass(frozen=True)
class Shard:
    """The part of each batch that one process measures, while others measure the rest.

    Args:
        index: The number of this shard, counted from 0.
        of: How many shards there are.

    Example:
        >>> Shard(1, of=3)(torch.arange(8))
        tensor([1, 4, 7])
    """

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise ValueError(
                f"Shard({self.index}, of={self.of}): expected an index of at least 0 and less than "
                "the number of shards."
            )

    def __call__(self, items: Items) -> Items:
        """Return the items of this shard: none where there are fewer items than shards."""
        return items[self.index :: self.of]

    def chunks(self, count: int, at_once: int) -> list[Tensor]:
        """Return the indices of this shard's items among `count`, in chunks.

        Args:
            count: The number of all items.
            at_once: The most items in a chunk.

        Example:
            >>> Shard(1, of=2).chunks(10, at_once=3)
            [tensor([1, 3, 5]), tensor([7, 9])]
        """
        mine = self(torch.arange(count))
        return [*mine.split(at_once)] if len(mine) else []  # torch would return one empty chunk
