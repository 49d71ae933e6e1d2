"""The base of metrics that are a mean of scores, one for each sample."""

import secrets
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.scoring import Batch, Chunk, Layout, Scores
from lightning_effcx.network import Network, has_per_sample_arguments, select_samples
from lightning_effcx.options import check_seed


class SampleMetric(NetworkMetric):
    """The mean of a score over samples, with its standard error, and the mean at each site.

    The error bar is about the population that the samples are drawn from, and includes the random
    numbers of the measure: see `lightning_effcx.metrics.error_bars`.

    Subclasses implement `name` and `score`. `update` stores the scores only, and no network. It
    takes the samples in chunks, so memory does not grow with their number.

    Args:
        seed: The seed of the random numbers. After a reset the same batches get the same numbers.
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    pointwise: ClassVar[bool] = False
    """Whether `score` evaluates the network at the samples only, and at no other points."""
    scores: list[Tensor]
    through: list[Tensor]

    def __init__(self, *, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_seed(seed)
        self.seed = seed
        self.layout: Layout = ((), ())
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("through", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, network: Network, chunk: Chunk) -> Scores:
        """Score each row of the chunk."""

    def observe(self, network: Network, batch: Batch) -> None:
        # The generator is on the CPU, so that every device gets the same numbers.
        generator = torch.Generator().manual_seed(self.seed + self.update_count)
        rows, at_once = self._prepare(network, batch, generator)
        rows = replace(rows, through=rows.through + self._first_number())
        for part in self.shard.chunks(len(rows), at_once):
            chunk = rows[part]
            self._add(chunk, self.score(select_samples(network, chunk.samples), chunk))

    def _first_number(self) -> int:
        """Return a number for the first sample of a batch; the others follow.

        Samples of different batches get different numbers, in any process. Processes that share the
        work of a batch number its samples alike.
        """
        batch = self.update_count if self.shard.of > 1 else secrets.randbits(38)
        return batch * 2**24

    def _prepare(self, network: Network, batch: Batch, generator: Generator) -> tuple[Chunk, int]:
        """Return all rows to score, here the samples, and how many of them to score at once."""
        n = len(batch.x)
        rows = Chunk(
            batch.x, batch.y, Draws.of(n, generator), torch.arange(n), torch.arange(n)[:, None]
        )
        # A network that varies is another function at each sample. So it can be evaluated for
        # several samples at once, but not at other points around them.
        together = self.pointwise or not has_per_sample_arguments(network)
        return rows, self.rows_at_once(batch.x) if together else 1

    def _add(self, chunk: Chunk, scores: Scores) -> None:
        if self.scores and self.layout != scores.layout:
            raise ValueError(
                "the network runs different operations for different samples: "
                f"{len(self.layout[1])} sites of this measure, then {len(scores.sites)}. "
                "Use JacobianNorm, which has no sites."
            )
        self.layout = scores.layout
        self.scores = [*self.scores, scores.table]
        self.through = [*self.through, chunk.through.to(scores.value.device)]

    def measurement(self) -> Measurement:
        """Return the mean over all samples since the last reset, and the mean at each site."""
        return self.summarize(Scores.of(dim_zero_cat(self.scores), self.layout))

    def summarize(self, scores: Scores) -> Measurement:
        """Make a measurement of the scores of all samples: the means, unless a subclass differs."""
        mean = self.mean(scores.value)
        return Measurement(
            mean.value,
            mean.stderr,
            variants={ending: self.mean(s) for ending, s in scores.variants.items()},
            sites={site: s.mean() for site, s in scores.sites.items()},
        )

    def mean(self, scores: Tensor) -> Measurement:
        """Return the mean of the scores of all samples, with its standard error."""
        return Measurement.mean(scores, dim_zero_cat(self.through).to(scores.device))
