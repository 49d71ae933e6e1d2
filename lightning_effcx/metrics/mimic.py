r"""Mimic gap: how much of a network a shallow student of a fixed size misses.

The student $g(x) = \beta f(W x)$ has one hidden layer. Its weights can be factored through a linear
bottleneck, $W \approx U V$. It is fitted to the teacher's logits $z$ by least squares,

$$L = \frac{1}{2T} \sum_t \lVert g(x_t) - z_t \rVert^2,$$

with the factor one half, and summed over outputs. The gap is what the student misses of the spread
of the logits,

$$1 - R^2 = \sum_t \lVert g(x_t) - z_t \rVert^2 \Big/ \sum_t \lVert z_t - \bar z \rVert^2,$$

pooled over outputs: 0 for a perfect student, 1 for one that only knows the mean, more for a worse
one. Scaling or shifting the logits of both does not change it. The agreement is the share of
samples for which both choose the same class: the largest of several outputs, the sign of one.

A gap that grows in training says that the network becomes a function that a few units in one layer
no longer express, or no longer learn from so few samples. With more samples the second reason
weakens. The gap falls while a network learns what is simple, and grows as it memorises labels.

Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014: shallow students are as good as deep
teachers if they are trained on many unlabelled samples. There, as here, raw logits are regressed.
`centred` subtracts the mean over outputs first, which does not change a softmax.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.error_bars import standard_error
from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Batch
from lightning_effcx.metrics.shallow_student import check_widths
from lightning_effcx.metrics.student_fit import (
    check_held_out,
    check_steps,
    fit_student,
    logits,
    split_samples,
)
from lightning_effcx.network import Network, select_samples
from lightning_effcx.options import check_seed, check_switch
from lightning_effcx.targets import decisions


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How well a student imitates its teacher, at `n` samples.

    Attributes:
        squared_errors: The squared distances of the student's outputs from the teacher's, `(n,)`.
        spread: The squared distances of the teacher's outputs from their mean, `(n,)`.
        agrees: Whether both choose the same class, 1 or 0, `(n,)`.
    """

    squared_errors: Tensor
    spread: Tensor
    agrees: Tensor

    @property
    def loss(self) -> float:
        """The loss of Ba and Caruana: half the mean squared distance, summed over outputs."""
        return float(self.squared_errors.mean()) / 2

    @property
    def gap(self) -> float:
        """The share of the teacher's spread that the student misses, 1 - R²."""
        if not self.spread.any():
            raise ValueError(
                "the teacher's outputs are the same for all samples, so there is nothing to mimic."
            )
        return float(self.squared_errors.sum() / self.spread.sum())

    @property
    def gap_stderr(self) -> float | None:
        """The standard error of the gap, to first order; `None` for a single sample."""
        residuals = (self.squared_errors - self.gap * self.spread) / self.spread.mean()
        stderr = standard_error(residuals)
        return None if stderr is None else float(stderr)

    @property
    def r2(self) -> float:
        """The share of the teacher's spread that the student explains, pooled over outputs."""
        return 1 - self.gap

    @property
    def agreement(self) -> float:
        """The share of the samples for which both choose the same class."""
        return float(self.agrees.mean())

    @property
    def agreement_stderr(self) -> float | None:
        """The standard error of the agreement, by its bounds; `None` for a single sample."""
        stderr = Measurement.share(self.agrees).stderr
        return None if stderr is None else float(stderr)


def mimic_gap(
    student: Network,
    teacher: Network,
    x: Float[Tensor, "n ..."],
    *,
    centred: bool = False,
    chunk: int = 1024,
) -> Fidelity:
    """Compare the outputs of a student with those of its teacher; not differentiable.

    Args:
        student: Maps `(n, ...)` to `(n, k)`, each sample independently.
        teacher: The same. Set both to the mode in which they are to be compared.
        x: The samples. Choose samples that the student was not fitted to.
        centred: Whether to subtract the mean over the outputs first, from both and for each sample.
        chunk: The most rows that a network evaluates at once.

    Example:
        >>> x = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]])
        >>> found = mimic_gap(lambda x: x.sign(), lambda x: x, x)
        >>> found.gap, found.loss, found.agreement  # (4 + 4) / (9 + 1 + 1 + 9), 8 / 4 / 2
        (0.4..., 1.0, 1.0)
    """
    check_samples(teacher, x)
    check_samples(student, x)
    z = logits(teacher, x, chunk, centred=centred)
    return fidelity(logits(student, x, chunk, centred=centred), z, z.mean(0))


def fidelity(outputs: Tensor, z: Tensor, mean: Tensor) -> Fidelity:
    """Compare outputs with the teacher's, `z`, whose spread is taken around `mean`."""
    if outputs.shape != z.shape:
        raise ValueError(
            f"the student has {outputs.shape[1]} outputs and its teacher {z.shape[1]}: expected "
            "the same number."
        )
    return Fidelity(
        squared_errors=(outputs - z).square().sum(1),
        spread=(z - mean).square().sum(1),
        agrees=(decisions(outputs) == decisions(z)).to(z),
    )


class MimicGap(NetworkMetric):
    """The share of the outputs' spread that a small shallow student misses at new samples.

    At each update a student is fitted to the network's outputs at part of the samples, by
    `fit_student`, with the same initial weights and the same number of steps each time. The gap is
    1 - R² at the other samples. The spread is taken around the mean of the samples that the student
    was fitted to. The variant `.agreement` is the share of the other samples for which both choose
    the same class. The error bars of both are about the population that the other samples are drawn
    from, for this student. The bar of the agreement has the ends `.agreement_low` and
    `.agreement_high`.

    The student needs all samples of a batch together. So batches are measured one by one, and their
    results are pooled: give all samples at once if you can, as `ComplexityMonitor` does. The fit
    cannot be split: shard 0 measures alone. Cost: one forward pass, and the steps of the student on
    all samples at once, half a second for 64 samples of 784 inputs.

    Args:
        hidden: As in `ShallowStudent`.
        bottleneck: As in `ShallowStudent`.
        steps: As in `fit_student`.
        held_out: The share of the samples that the student is not fitted to.
        centred: As in `fit_student`.
        seed: The seed of the student's weights, and of the choice of samples.
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "mimic_gap"
    variants = (".agreement",)

    found: list[Tensor]

    def __init__(  # noqa: PLR0913 each is one thing that users may choose
        self,
        *,
        hidden: int = 32,
        bottleneck: int | None = None,
        steps: int = 200,
        held_out: float = 0.25,
        centred: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_widths(hidden, bottleneck)
        check_steps(steps)
        check_held_out(held_out)
        check_switch("centred", centred)
        check_seed(seed)
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.steps = steps
        self.held_out = held_out
        self.centred = centred
        self.seed = seed
        self.add_state("found", default=[], dist_reduce_fx="cat")

    def observe(self, network: Network, batch: Batch) -> None:
        if self.shard.index > 0:
            return
        x = batch.x
        held, seen = split_samples(len(x), self.held_out, self.seed)
        student = fit_student(
            select_samples(network, seen),
            x[seen],
            hidden=self.hidden,
            bottleneck=self.bottleneck,
            steps=self.steps,
            centred=self.centred,
            seed=self.seed,
            chunk=self.chunk,
        )
        z = logits(network, x, self.chunk, centred=self.centred)
        with torch.no_grad():
            found = fidelity(student(x[held]), z[held], z[seen].mean(0))
        columns = [found.squared_errors, found.spread, found.agrees]
        self.found = [*self.found, torch.stack(columns, 1)]

    def measurement(self) -> Measurement:
        found = Fidelity(*dim_zero_cat(self.found).T)
        gap = Measurement.of(found.gap, found.gap_stderr, device=self.device)
        agreement = Measurement.share(found.agrees.to(self.device))
        return replace(gap, variants={".agreement": agreement})
