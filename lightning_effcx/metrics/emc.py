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
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.options import check_number
from lightning_effcx.tags import STDERR

Numbers: TypeAlias = float | Sequence[float] | Tensor

_ROUNDING = 1e-6  # relative: a tenth, in float32 or as a mean of tenths, is at most a tenth


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
    check_epsilon(epsilon)
    observed, errors = _observed(n, train_error)
    if not len(observed):
        raise ValueError("no training was observed: expected at least one pair (n, train_error).")
    sizes, which, repeats = observed.unique(return_inverse=True, return_counts=True)
    total = torch.zeros(len(sizes), dtype=torch.float64)
    mean = total.index_add(0, which, errors) / repeats
    squares = total.index_add(0, which, (errors - mean[which]).square())
    fitted = sizes[is_fitted(mean, epsilon)].tolist()
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


def is_fitted(error: Tensor, epsilon: float) -> Tensor:
    """Tell whether an error is at most epsilon, up to rounding."""
    return error <= epsilon * (1 + _ROUNDING)


def check_epsilon(epsilon: float) -> None:
    """Refuse what is no error that a training could be allowed."""
    expected = "an error of at least 0 and below 1"
    check_number("epsilon", epsilon, lambda given: 0 <= given < 1, expected)


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
    and, unless `emc` is 0, `emc.train_error`, the mean error there, with its standard error
    `emc.train_error_stderr` over repeats if there are two or more.

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
        check_epsilon(epsilon)
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
            values[".train_error"] = float(found.errors[there])
            if found.repeats[there] > 1:
                values[".train_error" + STDERR] = float(found.stderrs[there])
        return {
            self.name + ending: torch.tensor(float(value), device=self.device)
            for ending, value in values.items()
        }

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or more results of `compute`; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)
