r"""Training error: how much of its own training samples a network gets wrong, as it is now.

It is the error in the definition of the effective model complexity, $\mathrm{err}_S(M)$: the share
of the training samples $S$ of the model $M$ that $M$ puts in a wrong class. The labels are the ones
that were trained on, wrong ones included. If the error is at most $\varepsilon$, the training so
far has an effective model complexity of at least the size of $S$. A single training tells no more
(`lightning_effcx.metrics.emc`). Cost: one forward pass over the samples.

Nakkiran, Kaplun, Bansal, Yang, Barak, Sutskever, "Deep Double Descent: Where Bigger Models and More
Data Hurt", ICLR 2020.
"""

import math
from dataclasses import replace
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import Dataset
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.emc import check_epsilon, is_fitted
from lightning_effcx.metrics.labelled import read_samples
from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.scoring import Batch
from lightning_effcx.network import Network, check_finite, evaluate, has_per_sample_arguments
from lightning_effcx.options import check_count, check_number, check_seed
from lightning_effcx.targets import decisions


class TrainingError(NetworkMetric):
    """The share of fixed training samples that the network puts in a wrong class.

    The network is evaluated in eval mode, without augmentation, and against the labels of the
    training: give the same samples that are trained on, wrong labels included, from a dataset that
    does not augment. They are read once, when the metric is made. `update` takes only the device
    and the precision from its samples. Several outputs choose the class of the largest. A single
    output chooses by a threshold.

    The value is exact for these samples. The error bar is about the population that they are a
    random part of. It is not symmetric, and its length is never 0. The variants are

    * `.low` and `.high`: the lower and the upper end of the bar;
    * `.interpolates`: 1 if the error is at most epsilon, else 0. If it is 1, the number of samples
      is within the effective model complexity of the training so far;
    * `.since`: the measurement since which `.interpolates` has been 1 without a break, counted from
      0; absent if it is 0 now. A measurement is what was computed before a `reset`. The count goes
      on over resets: in a monitor that measures at every epoch it is the epoch. Copies, pickles and
      the monitor's checkpoints keep it, so that a resumed training counts on. For the time before a
      training was resumed, it holds for the samples and the epsilon of that time.

    Args:
        data: The training samples: tensors `(x, y)` of shapes `(n, ...)` and `(n,)`, or a dataset
            with a length and items `(x, y)`. `x` is the input of the network. `y` is the class: 0,
            1, ..., or -1 and 1 for a single output.
        samples: How many of them to take, at random; by default all.
        epsilon: The largest error at which samples count as fitted.
        threshold: A single output above it chooses class 1: 0 for logits, 0.5 for probabilities.
        seed: The seed of the choice of samples.
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "training_error"
    remembered = ("measured", "since")

    wrong: list[Tensor]

    def __init__(
        self,
        # Not Dataset[Any]: LightningCLI cannot make an instance of a subscripted class.
        data: tuple[Tensor, Tensor] | Dataset,  # type: ignore[type-arg]
        *,
        samples: int | None = None,
        epsilon: float = 0.1,
        threshold: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_epsilon(epsilon)
        check_number("threshold", threshold, math.isfinite, "a number, such as 0.5")
        check_seed(seed)
        if samples is not None:
            check_count("samples", samples, of=", or None for all")
        self.x, self.y = read_samples(data, samples, Generator().manual_seed(seed))
        self.epsilon = epsilon
        self.threshold = threshold
        self.measured = 0
        self.since: int | None = None
        self._holds: bool | None = None  # in the measurement under way
        self.add_state("wrong", default=[], dist_reduce_fx="cat")

    def observe(self, network: Network, batch: Batch) -> None:
        x = batch.x
        if has_per_sample_arguments(network):
            raise ValueError(
                "the network holds arguments fixed for each sample of its batch, and has none for "
                "the training samples: measure a function of the input alone, with "
                "network=lambda module, x: ..."
            )
        if x.shape[1:] != self.x.shape[1:]:
            raise ValueError(
                f"a training sample has the shape {tuple(self.x.shape[1:])}, but the network's "
                f"input has {tuple(x.shape[1:])}: give `data` as the network takes it."
            )
        for part in self.shard.chunks(len(self.x), self.chunk):
            own = self.x[part].to(x.device, x.dtype if x.is_floating_point() else None)
            self.wrong = [*self.wrong, self._wrong(evaluate(network, own), self.y[part])]

    def _wrong(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Tell for each sample whether its class is wrong, 1 or 0."""
        check_finite(outputs, "training samples")
        k = outputs.shape[1]
        y = y.to(outputs.device)
        if y.min() < (0 if k > 1 else -1) or y.max() >= max(k, 2):
            raise ValueError(
                f"the labels lie between {y.min()} and {y.max()}, but the network has {k} outputs: "
                f"expected {f'0 to {k - 1}' if k > 1 else '0 and 1, or -1 and 1'}."
            )
        return (decisions(outputs, self.threshold) != y.clamp(min=0)).float()

    def reset(self) -> None:
        """Forget the errors, but not since when they have been at most epsilon."""
        if self._holds is not None:
            self.since = self._since() if self._holds else None
            self.measured += 1
            self._holds = None
        super().reset()

    def measurement(self) -> Measurement:
        wrong = dim_zero_cat(self.wrong)
        share = Measurement.share(wrong, samples=len(self.x))
        holds = is_fitted(share.value, self.epsilon)
        self._holds = bool(holds)
        variants = {".interpolates": Measurement(holds.float())}
        if self._holds:
            variants[".since"] = Measurement.of(self._since(), device=wrong.device)
        return replace(share, variants=variants)

    def _since(self) -> int:
        return self.measured if self.since is None else self.since
