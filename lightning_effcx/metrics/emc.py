r"""Effective model complexity (EMC): how many samples a training procedure can fit.

With the mean error $\mathrm{err}_S(M)$ of a model $M$ on its own training samples $S$,

$$\mathrm{EMC}_\varepsilon(T) = \max\{n : E_{S \sim D^n}[\mathrm{err}_S(T(S))] \le \varepsilon\},$$

where $T$ is the whole procedure: architecture, optimizer, steps, augmentation, regularization. It
grows with width, with training time and with cleaner labels; where it is near the number of samples
at hand, the test error of larger or longer training may go either way. $\varepsilon = 0.1$ there.

`observed_emc` takes the maximum over those $n$ at which trainings were observed. Errors need not
rise with $n$, so that a size which fails does not rule out a larger one. One training alone says
whether its own $n$ is within the complexity so far: that is `TrainingError`. Errors that a training
logs on its way are something else, with dropout, augmentation and older weights in them.

Nakkiran, Kaplun, Bansal, Yang, Barak, Sutskever, "Deep Double Descent: Where Bigger Models and More
Data Hurt", ICLR 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, default_collate
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.capture import varies
from lightning_effcx.decisions import decisions
from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.observe import Network, evaluate, observing
from lightning_effcx.structures import structure
from lightning_effcx.tags import STDERR

Numbers: TypeAlias = float | Sequence[float] | Tensor

_ROUNDING = 1e-6  # relative: a tenth, in float32 or as a mean of tenths, is at most a tenth
_READ_TWICE = 8


@dataclass(frozen=True, eq=False)
class EMC:
    """The largest observed number of samples that is fitted, and what was observed.

    Attributes:
        emc: The largest size whose mean error is at most epsilon; 0 where there is none.
        lower: The next smaller size that was observed; 0 where there is none.
        upper: The next larger size that was observed; `None` where there is none.
        sizes: The numbers of samples that were observed, `(m,)`, each once, ascending.
        errors: The mean training error of each, `(m,)`.
        stderrs: Its standard error over repeats, `(m,)`; NaN where there was no repeat.
        repeats: How often each was observed, `(m,)`.
    """

    emc: int
    lower: int
    upper: int | None
    sizes: Tensor
    errors: Tensor
    stderrs: Tensor
    repeats: Tensor

    @property
    def censored(self) -> bool:
        """Whether the largest size is still fitted, so that the true value may be any larger."""
        return self.upper is None


def observed_emc(n: Numbers, train_error: Numbers, *, epsilon: float = 0.1) -> EMC:
    """Find the largest of the observed numbers of samples with a mean error of at most epsilon.

    Args:
        n: How many samples each training had, `(r,)`, in any order. Repeated sizes are averaged.
        train_error: The error of each on these samples, `(r,)`.
        epsilon: Up to which error samples count as fitted. Equality counts, whatever the rounding.

    Example:
        >>> found = observed_emc([10, 10, 20, 40], [0.0, 0.1, 0.1, 0.3])
        >>> found.emc, found.lower, found.upper, found.censored
        (20, 10, 40, False)
    """
    _check_epsilon(epsilon)
    observed, errors = _observed(n, train_error)
    if not len(observed):
        raise ValueError("no training was observed: expected at least one pair (n, train_error).")
    sizes, which, repeats = observed.unique(return_inverse=True, return_counts=True)
    total = torch.zeros(len(sizes), dtype=torch.float64)
    mean = total.index_add(0, which, errors) / repeats
    squares = total.index_add(0, which, (errors - mean[which]).square())
    fitted = sizes[_is_fitted(mean, epsilon)].tolist()
    emc = fitted[-1] if fitted else 0
    return EMC(
        emc=emc,
        lower=max((size for size in sizes.tolist() if size < emc), default=0),
        upper=min((size for size in sizes.tolist() if size > emc), default=None),
        sizes=sizes,
        errors=mean,
        stderrs=(squares / (repeats - 1) / repeats).sqrt(),  # 0 / 0 without a repeat
        repeats=repeats,
    )


def _is_fitted(error: Tensor, epsilon: float) -> Tensor:
    return error <= epsilon * (1 + _ROUNDING)


def _check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon={epsilon}: expected an error of at least 0 and below 1.")


def _observed(n: Numbers, train_error: Numbers) -> tuple[Tensor, Tensor]:
    """Return sizes and errors of as many trainings, `(r,)` each, or say what is wrong with them."""
    sizes = torch.as_tensor(n).detach().cpu().reshape(-1).double()
    errors = torch.as_tensor(train_error).detach().cpu().reshape(-1).double()
    if len(sizes) != len(errors):
        raise ValueError(
            f"there are {len(sizes)} sizes and {len(errors)} errors: expected one error for each."
        )
    for size in sizes[~((sizes >= 1) & (sizes == sizes.round()))].tolist():
        raise ValueError(f"n={size:g}: expected a whole number of at least 1 sample.")
    for error in errors[~((errors >= 0) & (errors <= 1))].tolist():
        raise ValueError(f"train_error={error:g}: expected a share of samples, between 0 and 1.")
    return sizes.long(), errors


class EffectiveModelComplexity(Metric):
    """`observed_emc` of the trainings that it is told of, one by one or many at once.

    It computes `emc` with its neighbours among the sizes, `emc_lower` and `emc_upper`;
    `emc_censored`, 1 where the largest size is still fitted, and then `emc_upper` is infinite;
    and, unless `emc` is 0, `emc/train_error`, the mean error there, with its standard error
    `emc/train_error_stderr` over repeats if there are two or more.

    Args:
        epsilon: As in `observed_emc`.
        **kwargs: The keyword arguments of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    name = "emc"

    sizes: list[Tensor]
    errors: list[Tensor]

    def __init__(self, *, epsilon: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_epsilon(epsilon)
        self.epsilon = epsilon
        self.add_state("sizes", default=[], dist_reduce_fx="cat")
        self.add_state("errors", default=[], dist_reduce_fx="cat")
        # See NetworkMetric: a MetricCollection must not take it for another that was told the same.
        self.add_state("unshared", default=torch.tensor(torch.nan), dist_reduce_fx="mean")

    def update(self, n: Numbers, train_error: Numbers) -> None:
        """Take the error that a training on `n` samples ended with on these samples."""
        sizes, errors = _observed(n, train_error)
        self.sizes = [*self.sizes, sizes.to(self.device)]
        self.errors = [*self.errors, errors.float().to(self.device)]  # not all have float64

    def compute(self) -> dict[str, Tensor]:
        """Return the complexity, its neighbours, whether it is censored, and the error there."""
        found = observed_emc(
            dim_zero_cat(self.sizes), dim_zero_cat(self.errors), epsilon=self.epsilon
        )
        values = {
            "": found.emc,
            "_lower": found.lower,
            "_upper": torch.inf if found.upper is None else found.upper,
            "_censored": found.censored,
        }
        if found.emc:
            there = int((found.sizes == found.emc).nonzero())
            values["/train_error"] = float(found.errors[there])
            if found.repeats[there] > 1:
                values["/train_error" + STDERR] = float(found.stderrs[there])
        return {
            self.name + ending: torch.tensor(float(value), device=self.device)
            for ending, value in values.items()
        }

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or more results of `compute`; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


class TrainingError(NetworkMetric):
    """Share of fixed training samples that the network, as it is now, puts in a wrong class.

    In eval mode, without augmentation, and against the labels that are trained on: give it the very
    samples of the training, wrong labels included, from a dataset that augments nothing. They are
    read once, here. The samples that `update` is given only say on which device and in which
    precision to evaluate. Several outputs decide by the largest, a single one by a threshold.
    Beside the error and its standard error, that of a binomial share, there are

    * `/interpolates`: 1 where the error is at most epsilon, so that the number of samples trained
      on is within the effective model complexity of the training so far; else 0;
    * `/since`: the measurement since which that has held without a break, counted from 0; absent
      where it does not hold now. A measurement is what was computed before a `reset`, and the count
      goes on over resets: in a monitor that measures at every epoch it is the epoch. It is kept in
      copies and pickles, but in no checkpoint: a resumed training counts anew, while the curve of
      `/interpolates` tells all.

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
        _check_epsilon(epsilon)
        if samples is not None and samples < 1:
            raise ValueError(f"samples={samples}: expected at least 1, or None for all.")
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
        if varies(network):
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
        mine = self.share(torch.arange(len(self.x)))
        with observing(network):
            for part in mine.split(self.chunk) if len(mine) else ():
                own = self.x[part].to(x.device, x.dtype if x.is_floating_point() else None)
                self.wrong = [*self.wrong, self._wrong(evaluate(network, own), self.y[part])]

    def _wrong(self, outputs: Tensor, y: Tensor) -> Tensor:
        if not outputs.isfinite().all():
            bad = (~outputs.isfinite()).any(1).sum()
            raise ValueError(
                f"the network's outputs are not finite for {bad} of {len(y)} training samples."
            )
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
        holds = _is_fitted(error, self.epsilon)
        self._holds = bool(holds)
        found[f"{self.name}/interpolates"] = holds.float()
        if self._holds:
            found[f"{self.name}/since"] = torch.tensor(float(self._since()), device=wrong.device)
        return found

    def _since(self) -> int:
        return self.measured if self.since is None else self.since


def _samples(
    data: tuple[Tensor, Tensor] | Dataset[Any], samples: int | None, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return the inputs `(n, ...)` and classes `(n,)` of so many samples, in order."""
    try:
        total = len(data[0] if isinstance(data, tuple) else data)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"data={data!r} has no length: expected tensors (x, y), or a dataset with a length."
        ) from None
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
    if y.numel() != len(y) or not torch.equal(y.double(), y.double().round()):
        raise ValueError(
            f"the labels are {structure(y)}: expected the whole number of a class for each sample; "
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
        raise ValueError(f"the dataset's items are {structure(item)}: expected pairs (x, y).")
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
        f"the dataset's items, such as {structure(items[0])}, do not make tensors (n, ...) and "
        "(n,): expected tensors or numbers of one shape."
    )
