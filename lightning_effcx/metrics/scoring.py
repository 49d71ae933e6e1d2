"""Scoring: what a metric is given, and the scores that it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_effcx.metrics.draws import Draws
from lightning_effcx.network import to_precision

Layout: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""The endings of the variants and the names of the sites, in the order of a table's columns."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What `update` was given.

    Attributes:
        x: The samples, `(n, ...)`.
        y: Their targets, `(n, ...)`; `None` if there are none.
    """

    x: Tensor
    y: Tensor | None


@dataclass(frozen=True, eq=False)
class Chunk:
    """The rows that are scored at once. A row is a sample, or a path through samples.

    Attributes:
        x: The samples `(n, ...)`, or the paths `(n, p, ...)`.
        y: The targets of the samples, `(n, ...)`; `None` for paths, and if there are none.
        draws: Random numbers, independent for each row.
        samples: The index of each row's sample in the batch, `(n,)`. The sample of a path is the
            one where it starts.
        through: The numbers of all samples that each path goes through, `(n, k)`; of a row that is
            a sample, its own number.
    """

    x: Tensor
    y: Tensor | None
    draws: Draws
    samples: Tensor
    through: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> "Chunk":
        """Return some of the rows, by their indices."""
        y = None if self.y is None else self.y[rows]
        return Chunk(self.x[rows], y, self.draws[rows], self.samples[rows], self.through[rows])


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of some rows, `(n,)` each.

    Attributes:
        value: The scores of the measure.
        variants: The scores of its variants, by ending, such as `.probabilities`.
        sites: The scores at each site.
    """

    value: Tensor
    variants: Mapping[str, Tensor] = field(default_factory=dict)
    sites: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The columns of the table, after the first."""
        return tuple(self.variants), tuple(self.sites)

    @property
    def table(self) -> Tensor:
        """All scores without their gradient, `(n, 1 + variants + sites)`."""
        columns = [self.value, *self.variants.values(), *self.sites.values()]
        return torch.stack([column.detach().to(_wide(column)) for column in columns], 1)

    @classmethod
    def of(cls, table: Tensor, layout: Layout) -> "Scores":
        """Read a table, or one row of it, back."""
        endings, sites = layout
        value, *columns = table.unbind(-1)
        return cls(
            value,
            variants=dict(zip(endings, columns[: len(endings)], strict=True)),
            sites=dict(zip(sites, columns[len(endings) :], strict=True)),
        )


def total(per_site: Mapping[str, Tensor], x: Tensor, dtype: torch.dtype = torch.long) -> Tensor:
    """Sum the scores of all sites, for each row of `x`; 0 if there are no sites."""
    return sum(per_site.values(), to_precision(torch.zeros(len(x), device=x.device), dtype))


def _wide(scores: Tensor) -> torch.dtype:
    """Return a type in which counts and half precision sum up well. Every device has float32."""
    return torch.promote_types(scores.dtype, torch.float32)
