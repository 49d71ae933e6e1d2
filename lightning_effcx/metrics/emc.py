r"""Effective model complexity (EMC): how many samples a training procedure can fit.

With the mean error $\mathrm{err}_S(M)$ of a model $M$ on its own training samples $S$,

$$\mathrm{EMC}_\varepsilon(T) = \max\{n : E_{S \sim D^n}[\mathrm{err}_S(T(S))] \le \varepsilon\},$$

where $T$ is the whole procedure: architecture, optimizer, steps, augmentation, regularization. It
grows with width, with training time and with cleaner labels. If it is near the number of samples at
hand, the test error of a larger or longer training can go either way. The paper uses
$\varepsilon = 0.1$.

`observed_emc` takes the maximum over those $n$ at which trainings were observed. Errors need not
rise with $n$, so a size that fails does not rule out a larger one. A single training only tells
whether its own $n$ is within the complexity so far: that is `TrainingError`. The errors that a
training logs on its way are something else: they include dropout, augmentation and older weights.

Nakkiran, Kaplun, Bansal, Yang, Barak, Sutskever, "Deep Double Descent: Where Bigger Models and More
Data Hurt", ICLR 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.error_bars import widening
from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.options import check_number

Numbers: TypeAlias = float | Sequence[float] | Tensor

_ROUNDING = 1e-6  # relative: 0.1 in float32, or as a mean of several 0.1, still counts as 0.1


@dataclass(frozen=True, eq=False)
class EMC:
    """The largest observed number of samples that is fitted, and all observations.

    Attributes:
        emc: The largest size whose mean error is at most epsilon; 0 if there is none.
        lower: The next smaller size that was observed; 0 if there is none.
        upper: The next larger size that was observed; `None` if there is none.
        sizes: The numbers of samples that were observed, `(m,)`, each once, ascending.
        errors: The mean training error of each size, `(m,)`.
        stderrs: Its standard error over repeats, `(m,)`; NaN without a repeat. The bar is about all
            trainings of this procedure. It is widened for few repeats, as all bars are.
        repeats: How often each size was observed, `(m,)`.
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
        """Whether the largest size is still fitted, so that the true value can be larger."""
        return self.upper is None


def observed_emc(n: Numbers, train_error: Numbers, *, epsilon: float = 0.1) -> EMC:
    """Return the largest observed number of samples whose mean error is at most epsilon.

    Args:
        n: The number of samples of each training, `(r,)`, in any order. Repeats are averaged.
        train_error: The error of each training on these samples, `(r,)`.
        epsilon: The largest error at which samples count as fitted, up to rounding.

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
    wider = total.new_tensor([widening(n) if n > 1 else 1.0 for n in repeats.tolist()])
    return EMC(
        emc=emc,
        lower=max((size for size in sizes.tolist() if size < emc), default=0),
        upper=min((size for size in sizes.tolist() if size > emc), default=None),
        sizes=sizes,
        errors=mean,
        stderrs=(squares / (repeats - 1) / repeats).sqrt() * wider,  # 0 / 0 = NaN without a repeat
        repeats=repeats,
    )


def is_fitted(error: Tensor, epsilon: float) -> Tensor:
    """Tell whether an error is at most epsilon, up to rounding."""
    return error <= epsilon * (1 + _ROUNDING)


def check_epsilon(epsilon: float) -> None:
    """Refuse anything but an error of at least 0 and below 1."""
    expected = "an error of at least 0 and below 1"
    check_number("epsilon", epsilon, lambda given: 0 <= given < 1, expected)


def _observed(n: Numbers, train_error: Numbers) -> tuple[Tensor, Tensor]:
    """Return the sizes and errors of the trainings, `(r,)` each, or say what is wrong with them."""
    sizes = torch.as_tensor(n).detach().cpu().reshape(-1).double()
    errors = torch.as_tensor(train_error).detach().cpu().reshape(-1).double()
    if len(sizes) != len(errors):
        raise ValueError(
            f"there are {len(sizes)} sizes and {len(errors)} errors: expected one for each."
        )
    for size in sizes[~((sizes >= 1) & (sizes == sizes.round()))].tolist():
        raise ValueError(f"n={size:g}: expected a whole number of at least 1 sample.")
    for error in errors[~((errors >= 0) & (errors <= 1))].tolist():
        raise ValueError(f"train_error={error:g}: expected a share of samples, between 0 and 1.")
    return sizes.long(), errors


class EffectiveModelComplexity(Metric):
    """The `observed_emc` of trainings, given one by one or many at once.

    Its values are

    * `emc`, and its neighbours among the sizes, `emc_lower` and `emc_upper`;
    * `emc_censored`: 1 if the largest size is still fitted, else 0. `emc_upper` is then infinite;
    * `emc.train_error`: the mean error at `emc`, absent if `emc` is 0. With two or more repeats it
      has a standard error.

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
        # See NetworkMetric: a MetricCollection must not let two metrics share their states.
        self.add_state("unshared", default=torch.tensor(torch.nan), dist_reduce_fx="mean")

    def update(self, n: Numbers, train_error: Numbers) -> None:
        """Add the error that a training on `n` samples has on these samples at its end."""
        sizes, errors = _observed(n, train_error)
        self.sizes = [*self.sizes, sizes.to(self.device)]
        self.errors = [*self.errors, errors.float().to(self.device)]  # not all have float64

    def measurement(self) -> Measurement:
        """Return the complexity, its neighbours, whether it is censored, and the error there."""
        found = observed_emc(
            dim_zero_cat(self.sizes), dim_zero_cat(self.errors), epsilon=self.epsilon
        )

        upper = torch.inf if found.upper is None else found.upper
        measured = partial(Measurement.of, device=self.device)
        variants = {
            "_lower": measured(found.lower),
            "_upper": measured(upper),
            "_censored": measured(found.censored),
        }
        if found.emc:
            there = int((found.sizes == found.emc).nonzero())
            stderr = float(found.stderrs[there]) if found.repeats[there] > 1 else None
            variants[".train_error"] = measured(float(found.errors[there]), stderr)
        return replace(measured(found.emc), variants=variants)

    def compute(self) -> dict[str, Tensor]:
        """Return the measurement as a dictionary of scalars."""
        return self.measurement().scalars(self.name)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or more results of `compute`; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)
