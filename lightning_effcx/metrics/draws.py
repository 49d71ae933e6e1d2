"""Draws: random numbers for rows, where those of a row do not depend on the others.

From a generator one seed is taken for each row, for all at once. From then on each row draws by
itself, so that its numbers are the same in whichever order, chunk or process it is measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Generator, Tensor

from lightning_effcx.paths import check_generator


@dataclass(frozen=True)
class Row:
    """One row's own source of random numbers, which is made when it is first used.

    Attributes:
        seed: Of its generator, which takes the lower 32 bits.
    """

    seed: int

    @cached_property
    def generator(self) -> Generator:
        """What the row draws from, on the CPU, so that every device sees the same draws."""
        return Generator().manual_seed(self.seed)


class Draws:
    """Random numbers for rows, each row drawing by itself.

    Successive calls go on where the last one stopped, also those of parts: `draws[:3]` has the
    same rows as the beginning of `draws`.

    Args:
        rows: Where the numbers of each row come from; see `Draws.of`.

    Example:
        >>> together = Draws.of(4, torch.Generator().manual_seed(0)).rand(2)
        >>> draws = Draws.of(4, torch.Generator().manual_seed(0))
        >>> last, first = draws[2:].rand(2), draws[:2].rand(2)
        >>> torch.equal(torch.cat([first, last]), together)
        True
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    @classmethod
    def of(cls, count: int, generator: "Generator | Draws | None" = None) -> "Draws":
        """Draw the seeds of so many rows; draws are returned as they are.

        Args:
            count: How many rows there are.
            generator: Source of their seeds, by default torch's global one; or their draws.
        """
        if isinstance(generator, Draws):
            if len(generator) != count:
                raise ValueError(
                    f"the draws are of {len(generator)} rows, expected those of {count}: take the "
                    "same part of both, or give a torch.Generator."
                )
            return generator
        check_generator(generator)
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=device)
        return cls(map(Row, seeds.tolist()))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        """Return the draws of a slice of the rows, or of those with the given indices."""
        if isinstance(chosen, slice):
            return type(self)(self.rows[chosen])
        return type(self)(self.rows[index] for index in chosen.tolist())

    def rand(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Draw numbers between 0 and 1, uniformly: `(rows, *shape)`, on the CPU."""
        drawn = torch.empty(len(self), *shape, dtype=dtype, device="cpu")
        for row, numbers in zip(self.rows, drawn, strict=True):
            numbers.uniform_(generator=row.generator)
        return drawn

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Draw numbers of mean 0 and variance 1, normally distributed, as `rand` does."""
        drawn = torch.empty(len(self), *shape, dtype=dtype, device="cpu")
        for row, numbers in zip(self.rows, drawn, strict=True):
            numbers.normal_(generator=row.generator)
        return drawn
