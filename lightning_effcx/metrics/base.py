"""The base of every metric that measures a network."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Batch
from lightning_effcx.metrics.shard import Shard
from lightning_effcx.network import Network, observing
from lightning_effcx.options import check_count

_MOST = 2**24
"""The most bytes of input at once. What a network computes from them takes many times as much."""


class NetworkMetric(Metric):
    """A measure of a network. Subclasses implement `name`, `observe` and `measurement`.

    Several processes can split the work. Each gets the same batches and measures its `shard` of
    them. Then `merge_state` adds the states of the others to the metric of shard 0, whose result is
    the result of one process.

    Args:
        chunk: The most rows that the network evaluates at once. Fewer are taken if their input
            exceeds 16 MB.
        **kwargs: The keyword arguments of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    variants: tuple[str, ...] = ()
    """The endings of the variants that every measurement has, each with a standard error."""
    remembered: tuple[str, ...] = ()
    """The attributes that survive resets and resumed trainings. They hold plain Python values."""
    moves: ClassVar[bool] = False
    """Whether it moves the input or differentiates by it, which integers do not allow."""
    shard: Shard = Shard()
    """The samples or paths of each batch to measure; by default all."""

    def __init__(self, *, chunk: int = 1024, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("chunk", chunk, of=" row")
        self.chunk = chunk
        # A MetricCollection lets metrics share one state if their states are equal after the first
        # batch. Two counts can be equal by chance. NaN equals nothing, not even itself.
        self.add_state("unshared", default=torch.tensor(torch.nan), dist_reduce_fx="mean")

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the metric, which its tags contain: a measure, a dot and a variant."""

    @abstractmethod
    def observe(self, network: Network, batch: Batch) -> None:
        """Measure a batch, and store what `measurement` needs. The network is in eval mode."""

    @abstractmethod
    def measurement(self) -> Measurement:
        """Return what was measured since the last reset."""

    def update(self, network: Network, x: Tensor, y: Tensor | None = None) -> None:
        """Measure the samples `x`, `(n, ...)`, with targets `y`, under the network as it is now."""
        check_samples(network, x, y, moves=self.moves)
        with observing(network):
            # A clone made here is an ordinary tensor, even if `x` was made in inference mode.
            y = None if y is None else y.detach().clone()
            self.observe(network, Batch(x.detach().clone(), y))

    def compute(self) -> dict[str, Tensor]:
        """Return the measurement as a dictionary of scalars; `lightning_effcx.tags` tells the keys.

        They are `<name>`, `<name>_stderr`, `<name>/<site>`, and the same of each variant.
        """
        return self.measurement().scalars(self.name)

    def rows_at_once(self, x: Tensor) -> int:
        """Return how many rows to evaluate at once: fewer if the rows of `x` are large."""
        bytes_of_row = max(1, x[:1].numel() * x.element_size())
        return max(1, min(self.chunk, _MOST // bytes_of_row))

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another shard measured: its metric, or its `metric_state`."""
        super().merge_state(incoming_state)
        self._computed = None  # else torchmetrics returns the result from before the merge

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any = None,
        should_sync: bool = True,  # noqa: FBT001, FBT002 torchmetrics' own signature
        distributed_available: Callable[..., Any] | None = None,
    ) -> None:
        """Gather the states of all processes, unless each has a shard: `merge_state` joins those.

        Torchmetrics cannot gather an empty shard, and would count a merged state twice.
        """
        should_sync = should_sync and self.shard.of == 1
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or more results of `compute`; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)
