"""Draws: random numbers for the rows of a batch, one independent stream for each row.

A generator gives one seed for each row, all at once. From then on each row draws from its own
stream. Its numbers are therefore the same in every order, chunk and process.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Generator, Tensor

from lightning_effcx.paths import check_generator


@dataclass(frozen=True)
class Stream:
    """The random numbers of one row.

    Attributes:
        seed: The seed of its generator, which uses the lower 32 bits.
    """

    seed: int

    @cached_property
    def generator(self) -> Generator:
        """The generator of the row, made at its first use.

        It is on the CPU, so that the numbers are the same for every device.
        """
        return Generator().manual_seed(self.seed)


class Draws:
    """Random numbers for rows, each from the row's own stream.

    Successive calls continue each stream. A part such as `draws[:3]` shares the streams of its
    rows with `draws`.

    Args:
        streams: One for each row; `Draws.of` makes them.

    Example:
        >>> together = Draws.of(4, torch.Generator().manual_seed(0)).rand(2)
        >>> draws = Draws.of(4, torch.Generator().manual_seed(0))
        >>> last, first = draws[2:].rand(2), draws[:2].rand(2)
        >>> torch.equal(torch.cat([first, last]), together)
        True
    """

    def __init__(self, streams: Iterable[Stream]) -> None:
        self.streams = list(streams)

    @classmethod
    def of(
        cls, count: int, generator: "Generator | Draws | None" = None, *, rows: str = "x"
    ) -> "Draws":
        """Draw a seed for each row. If the rows have draws already, return those.

        Args:
            count: The number of rows.
            generator: The source of the seeds, by default torch's global one; or the rows' draws.
            rows: The argument that holds the rows, for the message.
        """
        if isinstance(generator, Draws):
            if len(generator) != count:
                raise ValueError(
                    f"`generator` holds draws for {len(generator)} rows, but `{rows}` has {count}: "
                    "index both alike, or give a torch.Generator."
                )
            return generator
        check_generator(generator)
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=device)
        return cls(map(Stream, seeds.tolist()))

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        """Return the draws of some rows: a slice, or a tensor of indices."""
        if isinstance(chosen, slice):
            return type(self)(self.streams[chosen])
        return type(self)(self.streams[index] for index in chosen.tolist())

    def rand(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Draw uniform numbers between 0 and 1, of shape `(rows, *shape)`, on the CPU."""
        drawn = torch.empty(len(self), *shape, dtype=dtype, device="cpu")
        for stream, numbers in zip(self.streams, drawn, strict=True):
            numbers.uniform_(generator=stream.generator)
        return drawn

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Draw normal numbers of mean 0 and variance 1, of shape `(rows, *shape)`, on the CPU."""
        drawn = torch.empty(len(self), *shape, dtype=dtype, device="cpu")
        for stream, numbers in zip(self.streams, drawn, strict=True):
            numbers.normal_(generator=stream.generator)
        return drawn
