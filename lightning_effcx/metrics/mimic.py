r"""Mimic gap: how much of a network a shallow student, of a fixed size, cannot do.

The student $g(x) = \beta f(W x)$ has one hidden layer, whose weights may be factored through a
linear bottleneck, $W \approx U V$, and is fitted to the teacher's logits $z$ by least squares,

$$L = \frac{1}{2T} \sum_t \lVert g(x_t) - z_t \rVert^2,$$

with the factor one half, and summed over outputs. The gap is what it misses of the logits' spread,

$$1 - R^2 = \sum_t \lVert g(x_t) - z_t \rVert^2 \Big/ \sum_t \lVert z_t - \bar z \rVert^2,$$

pooled over outputs: 0 for a perfect student, 1 for one that only knows the mean, more for a worse
one. Scaling or shifting the logits of both does not change it. Agreement is the share of samples
for which both decide for the same class: the largest of several outputs, the sign of one.

A gap that grows while a network is trained says that it becomes a function which few units in one
layer no longer express, or no longer from so few samples: the more samples, the less of the latter.
It falls while a network learns what is simple, and grows as it learns wrong labels by heart.

Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014: shallow students as good as deep
teachers, when they are trained on many unlabelled samples. Logits are regressed raw there, as here;
`centred` takes off the mean over outputs first, which a softmax does not see.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.shallow_student import (
    check_share,
    check_steps,
    check_widths,
    fit_student,
    logits,
    split_samples,
)
from lightning_effcx.network import Network, observing, select_samples
from lightning_effcx.options import check_seed, check_switch
from lightning_effcx.tags import STDERR
from lightning_effcx.targets import decisions


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How well a student does what its teacher does, at samples.

    Attributes:
        squared_errors: Squared distance of the student's outputs from the teacher's, `(n,)`.
        spread: Squared distance of the teacher's outputs from their mean, `(n,)`.
        agrees: Whether both decide for the same class, 1 or 0, `(n,)`.
    """

    squared_errors: Tensor
    spread: Tensor
    agrees: Tensor

    @property
    def loss(self) -> float:
        """Half the mean squared distance, summed over outputs: the loss of Ba and Caruana."""
        return float(self.squared_errors.mean()) / 2

    @property
    def gap(self) -> float:
        """What the student misses of the teacher's spread, 1 - R²."""
        if not self.spread.any():
            raise ValueError(
                "the teacher's outputs are the same for all samples, so there is nothing to mimic."
            )
        return float(self.squared_errors.sum() / self.spread.sum())

    @property
    def gap_stderr(self) -> float | None:
        """Standard error of the gap, as a ratio of means to first order, of two or more samples."""
        if len(self.spread) < 2:  # noqa: PLR2004 one sample has no spread
            return None
        residuals = self.squared_errors - self.gap * self.spread
        return float(residuals.std() / len(residuals) ** 0.5 / self.spread.mean())

    @property
    def r2(self) -> float:
        """Share of the spread of the outputs that the student explains, pooled over outputs."""
        return 1 - self.gap

    @property
    def agreement(self) -> float:
        """Share of the samples for which both decide for the same class."""
        return float(self.agrees.mean())

    @property
    def agreement_stderr(self) -> float | None:
        """Standard error of the agreement, that of a binomial share, of two or more samples."""
        if len(self.agrees) < 2:  # noqa: PLR2004
            return None
        return (self.agreement * (1 - self.agreement) / len(self.agrees)) ** 0.5


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
        student: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        teacher: The same; both in the mode in which they are to be compared.
        x: The samples, best ones that the student has not seen.
        centred: Whether to take each sample's mean over the outputs off both first.
        chunk: Rows that the networks evaluate at once.

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
    """Compare outputs with the teacher's, `z`, whose spread is that around `mean`."""
    if outputs.shape != z.shape:
        raise ValueError(
            f"the student has {outputs.shape[1]} outputs and its teacher {z.shape[1]}: expected "
            "as many."
        )
    return Fidelity(
        squared_errors=(outputs - z).square().sum(1),
        spread=(z - mean).square().sum(1),
        agrees=(decisions(outputs) == decisions(z)).to(z),
    )


class MimicGap(NetworkMetric):
    """Share of the outputs' spread that a small shallow student misses at samples it has not seen.

    At each update a `fit_student` is fitted to the network's outputs at part of the samples, from
    the same weights each time and in as many steps; the gap is 1 - R² at the others, the spread
    being that around the mean of those it was fitted to. Beside it is `.agreement`, the share of
    the others for which both decide for the same class. Both have standard errors.

    The student sees all samples of a batch together, so that batches are measured apart and put
    together: give all samples at once where you can, as `ComplexityMonitor` does. Nor can the fit
    be shared: shard 0 measures alone, the others add nothing. Cost: one forward, and the steps of
    the student on all samples at once: half a second for 64 samples of 784 inputs, more for more.

    Args:
        hidden: As in `ShallowStudent`.
        bottleneck: As in `ShallowStudent`.
        steps: As in `fit_student`.
        held_out: Which share of the samples the student does not see.
        centred: As in `fit_student`.
        seed: Of the student's weights, and of which samples it does not see.
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "mimic_gap"
    beside = (".agreement",)

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
        check_share(held_out)
        check_switch("centred", centred)
        check_seed(seed)
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.steps = steps
        self.held_out = held_out
        self.centred = centred
        self.seed = seed
        self.add_state("found", default=[], dist_reduce_fx="cat")

    def update(self, network: Network, x: Tensor, y: Tensor | None = None) -> None:
        """Fit a student to the network as it is now, at part of the samples `x`, `(n, ...)`."""
        del y
        if self.shard.index > 0:
            return
        held, seen = split_samples(len(x), self.held_out, self.seed)
        with observing(network):
            x = x.detach().clone()
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

    def compute(self) -> dict[str, Tensor]:
        """Gap and agreement over all samples that were held out, each with its standard error."""
        found = Fidelity(*dim_zero_cat(self.found).T)
        values = {
            "": found.gap,
            STDERR: found.gap_stderr,
            ".agreement": found.agreement,
            ".agreement" + STDERR: found.agreement_stderr,
        }
        return {
            self.name + ending: torch.tensor(value, device=self.device)
            for ending, value in values.items()
            if value is not None
        }
