"""The base of metrics that are a mean of scores, one for each path through the samples."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.sample_metric import SampleMetric
from lightning_effcx.metrics.scoring import Batch, Chunk
from lightning_effcx.network import Network, has_per_sample_arguments
from lightning_effcx.options import refusal
from lightning_effcx.paths import ChosenPaths, Paths, Segment, origins
from lightning_effcx.tags import name_of


class PathMetric(SampleMetric):
    """The mean of a score over paths that are drawn through the samples of each batch.

    Subclasses set `measure` and implement `score`, whose chunk holds paths `(n, p, ...)`. The error
    bar is about all such paths in the population that the samples are drawn from. It takes into
    account that paths of `lightning_effcx.paths` share samples. Other paths should share none.

    Args:
        paths: How to draw paths: a class of `lightning_effcx.paths`, or anything with its methods.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    by_default: ClassVar[Paths] = Segment()
    moves = True

    def __init__(self, paths: Paths | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.paths = self.by_default if paths is None else paths
        if isinstance(self.paths, type) or not isinstance(self.paths, Paths):
            raise refusal(TypeError, "paths", self.paths, "what draws paths, such as Segment()")
        self.words: tuple[str, ...] = ()  # that follow the paths in the name

    @property
    @abstractmethod
    def measure(self) -> str:
        """The measure: the metric's name before the dot."""

    @property
    def name(self) -> str:
        return name_of(self.measure, self.paths.name, *self.words)

    def _prepare(self, network: Network, batch: Batch, generator: Generator) -> tuple[Chunk, int]:
        # A network that varies is, on a path, the function that it is where the path starts.
        alone = has_per_sample_arguments(network)
        starts = origins(self.paths, len(batch.x), batch.y, generator) if alone else None
        paths, through = self._draw(batch, generator)
        samples = torch.arange(len(paths)) if starts is None else starts
        # Every process draws for all paths, so that all processes draw the same.
        rows = Chunk(paths, None, Draws.of(len(paths), generator), samples, through)
        return rows, 1 if alone else max(1, self.rows_at_once(batch.x) // paths.shape[1])

    def _draw(self, batch: Batch, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the paths, and the samples that each goes through, by index, `(s, k)`."""
        if isinstance(self.paths, ChosenPaths):
            chosen = self.paths.choose(len(batch.x), batch.y, generator)
            return self.paths.through(batch.x, chosen), chosen
        paths: Tensor = self.paths(batch.x, batch.y, generator)
        return paths, torch.arange(len(paths))[:, None]  # as if they shared no sample
