"""The base of every metric: a mean over samples, with its standard error, and nothing kept."""

from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.shard import Shard
from lightning_effcx.network import Network, has_per_sample_arguments, observing, select_samples
from lightning_effcx.options import check_count, check_seed, refusal
from lightning_effcx.paths import Paths, Segment, origins
from lightning_effcx.tags import STDERR, site_key

_MOST = 2**24
"""Bytes of input at once, at most: what a network computes from it takes many times as much."""


def _checked(update: Callable[..., None]) -> Callable[..., None]:
    """Let an `update` be given nothing but a network, samples and targets of these."""

    @wraps(update)
    def checked(self: Any, network: Network, x: Tensor, y: Tensor | None = None) -> None:
        check_samples(network, x, y, moves=self.moves)
        update(self, network, x, y)

    return checked


class NetworkMetric(Metric):
    """What all measures of a network declare, and that no two of them share a state.

    Several processes may share the work: all see the same batches, and each measures its `shard`
    of them. What the others measured is then merged into the metric of shard 0, by `merge_state`,
    and the result is that of one process.

    Args:
        chunk: Rows that the network evaluates at once, at most, and no more than 16 MB of input.
        **kwargs: The keyword arguments of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    beside: tuple[str, ...] = ()
    """What is computed beside the value and has an error bar, by what follows its name."""
    remembered: tuple[str, ...] = ()
    """Which attributes, all of plain Python values, go on over resets and resumed trainings."""
    moves: ClassVar[bool] = False
    """Whether it moves the input, or differentiates by it, which whole numbers do not allow."""
    shard: Shard = Shard()
    """Which of the samples or paths of each batch to measure: all of them, unless it is set."""

    def __init__(self, *, chunk: int = 1024, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("chunk", chunk, of=" row")
        self.chunk = chunk
        # A MetricCollection shares one state among metrics whose states agree after the first
        # batch, which two counts easily do by chance. NaN agrees with nothing, itself included.
        self.add_state("unshared", default=torch.tensor(torch.nan), dist_reduce_fx="mean")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let every `update` check what it is given, first."""
        super().__init_subclass__(**kwargs)
        if "update" in vars(cls):
            cls.update = _checked(cls.update)  # type: ignore[method-assign]

    def rows_at_once(self, x: Tensor) -> int:
        """Return how many rows like those of `x` to evaluate at once: fewer of large images."""
        bytes_of_row = max(1, x[:1].numel() * x.element_size())
        return max(1, min(self.chunk, _MOST // bytes_of_row))

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another shard measured: its metric, or the `metric_state` of that."""
        super().merge_state(incoming_state)
        self._computed = None  # torchmetrics would go on returning what was computed before

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any = None,
        should_sync: bool = True,  # noqa: FBT001, FBT002 torchmetrics' own signature
        distributed_available: Callable[..., Any] | None = None,
    ) -> None:
        """Gather the states of all processes, unless they are shards, which `merge_state` joins.

        Torchmetrics cannot gather where a shard is empty, and would count merged states again.
        """
        should_sync = should_sync and self.shard.of == 1
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or more results of `compute`; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


class SampleMetric(NetworkMetric):
    """Mean of a score over samples, its standard error, and the mean at each site if there is one.

    Subclasses say their `name` and implement `score`; `update` evaluates at once and stores scores
    only, never the network. Samples are taken in chunks, so memory does not grow with their number.

    Args:
        seed: Draws are equal whenever the same batches are seen again after a reset.
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    pointwise: ClassVar[bool] = False
    """Whether `score` evaluates the network at the samples themselves and nowhere else."""
    scores: list[Tensor]

    def __init__(self, *, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_seed(seed)
        self.seed = seed
        self.sites: tuple[str, ...] = ()
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    @property
    @abstractmethod
    def name(self) -> str:
        """The measure, and after a dot its variant: the stem of its tags."""

    @abstractmethod
    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One score per sample, `(n,)`, and the same for each site; `draws` has a row for each."""

    def update(self, network: Network, x: Tensor, y: Tensor | None = None) -> None:
        """Score the samples `x`, `(n, ...)`, with targets `y`, under the network as it is now."""
        # On the CPU, so that every device sees the same draws.
        generator = torch.Generator().manual_seed(self.seed + self.update_count)
        with observing(network):
            # Clones made here are ordinary tensors, also where the batch was made in inference mode
            self._measure(network, x.detach().clone(), _detached(y), generator)

    def _measure(self, network: Network, x: Tensor, y: Tensor | None, generator: Generator) -> None:
        at_once = (
            self.rows_at_once(x) if self.pointwise or not has_per_sample_arguments(network) else 1
        )
        samples = torch.arange(len(x))
        self._score_shard(network, x, y, Draws.of(len(x), generator), samples, at_once)

    def _score_shard(  # noqa: PLR0913, PLR0917 as `score`, and how
        self,
        network: Network,
        x: Tensor,
        y: Tensor | None,
        draws: Draws,
        samples: Tensor,
        at_once: int,
    ) -> None:
        """Score those of some samples, or paths, that are ours; `samples` says whose they are."""
        mine = self.shard(torch.arange(len(x)))
        for part in mine.split(at_once) if len(mine) else ():
            own = select_samples(network, samples[part])
            y_part = None if y is None else y[part]
            self._add(*self.score(own, x[part], y_part, draws[part]))

    def _add(self, score: Tensor, at_sites: dict[str, Tensor]) -> None:
        if self.scores and self.sites != tuple(at_sites):
            raise ValueError(
                f"the network runs other operations for other samples, {len(self.sites)} and "
                f"{len(at_sites)} of this measure's sites: measure jacobian_norm instead."
            )
        self.sites = tuple(at_sites)
        columns = [column.detach() for column in (score, *at_sites.values())]
        self.scores = [*self.scores, torch.stack([c.to(_exact(c)) for c in columns], 1)]

    def compute(self) -> dict[str, Tensor]:
        """Mean and standard error over all samples since the last reset; then the mean per site."""
        scores = dim_zero_cat(self.scores)  # (n, 1 + sites)
        found = self.averaged(self.name, scores[:, 0])
        for site, column in zip(self.sites, scores[:, 1:].T, strict=True):
            if site in self.beside:
                found |= self.averaged(self.name + site, column)
            else:
                found[site_key(self.name, site)] = column.mean()
        return found

    def averaged(self, key: str, scores: Tensor) -> dict[str, Tensor]:
        """Mean of `(n,)` scores by its key, and the standard error if there is one."""
        value, stderr = self.average(scores)
        return {key: value} if stderr is None else {key: value, key + STDERR: stderr}

    def average(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean of `(n,)` scores, and its standard error where there are two or more."""
        if len(scores) < 2:  # noqa: PLR2004 one sample has no spread
            return scores.mean(), None
        return scores.mean(), scores.std() / len(scores) ** 0.5


class PathMetric(SampleMetric):
    """Mean of a score over paths that are drawn through the samples of each batch.

    Subclasses say their `measure` and implement `score`, which is given paths `(s, p, ...)`. The
    standard error is that of independent paths: where many paths share few samples it is too small.

    Args:
        paths: Which paths: one of the classes in `lightning_effcx.paths`, or anything like them.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    measure: str
    by_default: Paths = Segment()
    moves = True

    def __init__(self, paths: Paths | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.paths = self.by_default if paths is None else paths
        if isinstance(self.paths, type) or not isinstance(self.paths, Paths):
            raise refusal(TypeError, "paths", self.paths, "what draws paths, such as Segment()")

    @property
    def name(self) -> str:
        return f"{self.measure}.{self.paths.name}"

    def _measure(self, network: Network, x: Tensor, y: Tensor | None, generator: Generator) -> None:
        paths: Tensor
        if has_per_sample_arguments(
            network
        ):  # on a path it is the function that it is where the path starts
            starts, at_once = origins(self.paths, len(x), y, generator), 1
            paths = self.paths(x, y, generator)
        else:
            paths = self.paths(x, y, generator)
            starts = torch.arange(len(paths))
            at_once = max(1, self.rows_at_once(x) // paths.shape[1])
        # All are drawn, so that every shard has the same.
        draws = Draws.of(len(paths), generator)
        self._score_shard(network, paths, None, draws, starts, at_once)


def _detached(y: Tensor | None) -> Tensor | None:
    return None if y is None else y.detach().clone()


def _exact(scores: Tensor) -> torch.dtype:
    """Sum counts and half precision in something wider, of which every device has float32."""
    return torch.promote_types(scores.dtype, torch.float32)
