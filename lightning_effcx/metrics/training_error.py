r"""Training error: how much of its own training samples a network gets wrong, as it is now.

The error in the definition of the effective model complexity, $\mathrm{err}_S(M)$: the share of
the samples $S$ that the model $M$ was trained on which it puts in a wrong class, as the labels say
that were trained on, wrong ones included. Where it is at most $\varepsilon$, the training so far
has an effective model complexity of at least the size of $S$: one training tells no more than that
(`lightning_effcx.metrics.emc`). Cost: one forward pass over the samples.

Nakkiran, Kaplun, Bansal, Yang, Barak, Sutskever, "Deep Double Descent: Where Bigger Models and More
Data Hurt", ICLR 2020.
"""

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, default_collate
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.emc import check_epsilon, is_fitted
from lightning_effcx.network import (
    Network,
    check_finite,
    describe,
    evaluate,
    has_per_sample_arguments,
    observing,
    to_precision,
)
from lightning_effcx.options import check_count, check_number, check_seed
from lightning_effcx.tags import STDERR
from lightning_effcx.targets import decisions

_READ_TWICE = 8


class TrainingError(NetworkMetric):
    """Share of fixed training samples that the network, as it is now, puts in a wrong class.

    In eval mode, without augmentation, and against the labels that are trained on: give it the very
    samples of the training, wrong labels included, from a dataset that augments nothing. They are
    read once, here. The samples that `update` is given only say on which device and in which
    precision to evaluate. Several outputs decide by the largest, a single one by a threshold.
    Beside the error and its standard error, that of a binomial share, there are

    * `.interpolates`: 1 where the error is at most epsilon, so that the number of samples trained
      on is within the effective model complexity of the training so far; else 0;
    * `.since`: the measurement since which that has held without a break, counted from 0; absent
      where it does not hold now. A measurement is what was computed before a `reset`, and the count
      goes on over resets: in a monitor that measures at every epoch it is the epoch. It is kept in
      copies, in pickles, and by the monitor in checkpoints, so that a resumed training counts on;
      what held before it was resumed did so by the samples and the epsilon of then.

    Args:
        data: The training samples: tensors `(x, y)` of shapes `(n, ...)` and `(n,)`, or a dataset
            with a length and items `(x, y)`; `x` as the network takes it, `y` the class: 0, 1, ...,
            or, of a single output, -1 and 1.
        samples: How many of them to take, at random, the same at all times; by default all.
        epsilon: Up to which error samples count as fitted.
        threshold: Above which a single output decides for class 1: 0 for logits, 0.5 for
            probabilities.
        seed: Which samples are taken.
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "training_error"
    remembered = ("measured", "since")

    wrong: list[Tensor]

    def __init__(
        self,
        # LightningCLI knows no arguments of what a subscripted class stands for.
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
        self.x, self.y = _samples(data, samples, Generator().manual_seed(seed))
        self.epsilon = epsilon
        self.threshold = threshold
        self.measured = 0
        self.since: int | None = None
        self._holds: bool | None = None  # in the measurement that is under way
        self.add_state("wrong", default=[], dist_reduce_fx="cat")

    def update(self, network: Network, x: Tensor, y: Tensor | None = None) -> None:
        """Find the fixed samples that are classified wrongly; `x`, `(m, ...)`, shows their form."""
        del y
        if has_per_sample_arguments(network):
            raise ValueError(
                "the network holds something fixed for each sample of its batch, which is not "
                "known for the training samples: measure a function of the input alone, with "
                "network=lambda module, x: ..."
            )
        if x.shape[1:] != self.x.shape[1:]:
            raise ValueError(
                f"a training sample has the shape {tuple(self.x.shape[1:])}, but the network's "
                f"input {tuple(x.shape[1:])}: give the samples as the network takes them."
            )
        mine = self.shard(torch.arange(len(self.x)))
        with observing(network):
            for part in mine.split(self.chunk) if len(mine) else ():
                own = self.x[part].to(x.device, x.dtype if x.is_floating_point() else None)
                self.wrong = [*self.wrong, self._wrong(evaluate(network, own), self.y[part])]

    def _wrong(self, outputs: Tensor, y: Tensor) -> Tensor:
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
        """Forget the errors, but not since when they have been small."""
        if self._holds is not None:
            self.since = self._since() if self._holds else None
            self.measured += 1
            self._holds = None
        super().reset()

    def compute(self) -> dict[str, Tensor]:
        """Error, standard error, whether it is at most epsilon, and since which measurement."""
        wrong = dim_zero_cat(self.wrong)
        error = wrong.mean()
        found = {self.name: error}
        if len(self.x) > 1:
            found[self.name + STDERR] = (error * (1 - error) / len(self.x)).sqrt()
        holds = is_fitted(error, self.epsilon)
        self._holds = bool(holds)
        found[f"{self.name}.interpolates"] = holds.float()
        if self._holds:
            found[f"{self.name}.since"] = torch.tensor(float(self._since()), device=wrong.device)
        return found

    def _since(self) -> int:
        return self.measured if self.since is None else self.since


def _samples(
    data: tuple[Tensor, Tensor] | Dataset[Any], samples: int | None, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return the inputs `(n, ...)` and classes `(n,)` of so many samples, in order."""
    if isinstance(data, tuple) and [isinstance(part, Tensor) for part in data] != [True, True]:
        raise TypeError(f"data is {describe(data)}: expected two tensors (x, y), or a dataset.")
    try:
        total = len(data[0] if isinstance(data, tuple) else data)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"data={data!r} has no length: expected tensors (x, y), or a dataset with a length."
        ) from None
    if not hasattr(data, "__getitem__"):
        raise TypeError(
            f"data is a {type(data).__name__}, which has no items: expected tensors (x, y), or a "
            "dataset, of which each sample can be read by its index."
        )
    if not total:
        raise ValueError("data has no samples: expected at least one.")
    chosen = torch.randperm(total, generator=generator)[:samples].sort().values
    if isinstance(data, tuple):
        x, y = data
        if len(x) != len(y):
            raise ValueError(
                f"there are {len(x)} inputs and {len(y)} labels: expected one for each."
            )
        x, y = x[chosen.to(x.device)].detach(), y[chosen.to(y.device)].detach()
    else:
        x, y = _read(data, chosen.tolist())
    exact = to_precision(y, torch.float64)
    if y.numel() != len(y) or not torch.equal(exact, exact.round()):
        raise ValueError(
            f"the labels are {describe(y)}: expected the whole number of a class for each sample; "
            "values that are no classes have no such error."
        )
    return x, y.flatten().long()


def _read(dataset: Dataset[Any], chosen: list[int]) -> tuple[Tensor, Tensor]:
    """Read samples of a dataset, which must return the same whenever it is asked."""
    with observing(dataset.__getitem__):  # if it draws, then not from the training's numbers
        items = [dataset[i] for i in chosen]
        again = [dataset[i] for i in chosen[:_READ_TWICE]]
    item = items[0]
    if not isinstance(item, (tuple, list)) or len(item) != 2:  # noqa: PLR2004 x and y
        raise ValueError(f"the dataset's items are {describe(item)}: expected pairs (x, y).")
    x, y = _together(items)
    for first, second in zip((x, y), _together(again), strict=True):
        if not torch.equal(first[: len(second)], second):
            raise ValueError(
                "the dataset returns something else each time: give it without augmentation."
            )
    return x, y


def _together(items: list[Any]) -> tuple[Tensor, Tensor]:
    try:
        x, y = default_collate([tuple(item) for item in items])
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x, y
    except (RuntimeError, TypeError):  # shapes that differ, images that are no tensors
        pass
    raise ValueError(
        f"the dataset's items, such as {describe(items[0])}, do not make tensors (n, ...) and "
        "(n,): expected tensors or numbers of one shape."
    )
