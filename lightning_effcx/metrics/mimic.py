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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.decisions import decisions
from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.observe import Network, differentiating, evaluate, observing
from lightning_effcx.tags import STDERR
from lightning_effcx.views import at_samples

_RATE = 0.1  # of the steps, relative to how large the weights are at the start


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
    z = _logits(teacher, x, chunk, centred=centred)
    return _fidelity(_logits(student, x, chunk, centred=centred), z, z.mean(0))


def _logits(network: Network, x: Tensor, chunk: int, *, centred: bool) -> Tensor:
    """Evaluate a network in float64; not every device has that."""
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: expected at least 1 row.")
    with torch.no_grad():
        parts = torch.arange(len(x)).split(chunk)
        outputs = torch.cat([evaluate(at_samples(network, part), x[part]) for part in parts])
        z = outputs.to("cpu" if outputs.device.type == "mps" else outputs.device, torch.float64)
        if centred and z.shape[1] == 1:
            raise ValueError("centred=True leaves nothing of a single output: mimic it as it is.")
        return z - z.mean(1, keepdim=True) if centred else z


def _fidelity(outputs: Tensor, z: Tensor, mean: Tensor) -> Fidelity:
    if outputs.shape != z.shape:
        raise ValueError(
            f"the student has {outputs.shape[1]} outputs and its teacher {z.shape[1]}: expected "
            "as many."
        )
    return Fidelity(
        squared_errors=(outputs - z).square().sum(1),
        spread=(z - mean).square().sum(1),
        agrees=(decisions(outputs) == decisions(z)).double(),
    )


class ShallowStudent(nn.Module):
    """A network with one hidden layer, and before it a linear bottleneck if one is asked for.

    Its initial weights depend on `seed` alone: no random numbers of others are drawn. It starts as
    the constant 0.

    Args:
        inputs: How many entries a sample has; it is flattened.
        outputs: How many outputs there are.
        hidden: How many hidden units.
        bottleneck: Width of the linear layer before them, which has no activation: of rank k, with
            k (hidden + inputs) weights in place of hidden times inputs.
        activation: Of the hidden units; `None` for a linear student.
        seed: Of the initial weights.
    """

    def __init__(  # noqa: PLR0913 each is one thing that users may choose
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        bottleneck: int | None = None,
        activation: Callable[[Tensor], Tensor] | None = torch.relu,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_widths(hidden, bottleneck)
        generator = Generator().manual_seed(seed)
        rank = inputs if bottleneck is None else bottleneck
        self.activation = activation
        self.bottleneck = None if bottleneck is None else _layer(inputs, rank, bias=False)
        self.hidden = _layer(rank, hidden)
        self.output = _layer(hidden, outputs)
        with torch.no_grad():
            if self.bottleneck is not None:
                self.bottleneck.weight.copy_(torch.randn(rank, inputs, generator=generator))
            scale = 1.0 if bottleneck is None else rank**-0.5
            self.hidden.weight.copy_(scale * torch.randn(hidden, rank, generator=generator))
            self.hidden.bias.copy_(torch.randn(hidden, generator=generator))
            self.output.weight.zero_()
            self.output.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs `(n, k)`, in the student's own precision."""
        h = x.flatten(1).to(self.output.weight)
        h = self.hidden(h if self.bottleneck is None else self.bottleneck(h))
        return self.output(h if self.activation is None else self.activation(h))


def _layer(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    # Weights that nobody draws.
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)


def _check_widths(hidden: int, bottleneck: int | None) -> None:
    if hidden < 1:
        raise ValueError(f"hidden={hidden}: expected at least 1 unit.")
    if bottleneck is not None and bottleneck < 1:
        raise ValueError(f"bottleneck={bottleneck}: expected at least 1, or None for none.")


def fit_student(  # noqa: PLR0913 each is one thing that users may choose
    teacher: Network,
    x: Float[Tensor, "n ..."],
    *,
    hidden: int,
    bottleneck: int | None = None,
    activation: Callable[[Tensor], Tensor] | None = torch.relu,
    steps: int = 200,
    centred: bool = False,
    seed: int = 0,
    chunk: int = 1024,
) -> ShallowStudent:
    """Fit a shallow student to a network's outputs, always in the same way, in bounded time.

    In float64, by full-batch steps of Adam whose size falls linearly to 0; inputs and outputs are
    shifted and scaled before, by one factor each, which is put into the weights afterwards. A
    linear student is not trained: it is the least-squares solution of its rank. The teacher gets
    no gradient, and no random numbers but the student's own are drawn.

    Args:
        teacher: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        x: The samples; all at once in every step.
        hidden: As in `ShallowStudent`.
        bottleneck: As in `ShallowStudent`.
        activation: As in `ShallowStudent`.
        steps: How many steps to take.
        centred: Whether to fit the outputs without each sample's mean over them.
        seed: As in `ShallowStudent`.
        chunk: Rows that the teacher evaluates at once.

    Example:
        >>> x = torch.linspace(-1, 1, 101)[:, None]
        >>> student = fit_student(torch.abs, x, hidden=8)
        >>> mimic_gap(student, torch.abs, x).gap < 0.01
        True
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: expected at least 1.")
    if not len(x):
        raise ValueError("x has no samples, expected at least one sample to fit the student at.")
    with torch.no_grad(), differentiating():
        z = _logits(teacher, x, chunk, centred=centred).clone()
        student = ShallowStudent(
            x[0].numel(),
            z.shape[1],
            hidden=hidden,
            bottleneck=bottleneck,
            activation=activation,
            seed=seed,
        ).to(z)
        _fit(student, x.detach().flatten(1).to(z, copy=True), z, steps)
    return student


def _fit(student: ShallowStudent, x: Tensor, z: Tensor, steps: int) -> None:
    first = student.hidden if student.bottleneck is None else student.bottleneck
    (x, x_mean, x_scale), (z, z_mean, z_scale) = _standardized(x), _standardized(z)
    if student.activation is None:
        _solve(student, x, z)
    else:
        _descend(student, x, z, steps)
    first.weight.div_(x_scale)
    shift = nn.functional.linear(x_mean, first.weight)
    if student.bottleneck is not None:
        shift = nn.functional.linear(shift, student.hidden.weight)
    student.hidden.bias.sub_(shift)
    student.output.weight.mul_(z_scale)
    student.output.bias.mul_(z_scale).add_(z_mean)


def _standardized(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the mean off, and divide by one number for all, so that least squares stay such."""
    mean = values.mean(0)
    scale = (values - mean).square().sum(1).mean().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    return (values - mean) / scale, mean, scale


def _descend(student: ShallowStudent, x: Tensor, z: Tensor, steps: int) -> None:
    layers = [*filter(None, [student.bottleneck, student.hidden, student.output])]
    widths = [1, *(layer.in_features for layer in layers[1:])]
    groups = [
        {"params": [*layer.parameters()], "lr": _RATE / width**0.5}
        for layer, width in zip(layers, widths, strict=True)
    ]
    optimizer = torch.optim.Adam(groups, foreach=False)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (student(x) - z).square().sum(1).mean().backward()
            optimizer.step()
            falling.step()
    optimizer.zero_grad()


def _solve(student: ShallowStudent, x: Tensor, z: Tensor) -> None:
    """Set the weights of a linear student to the best of its rank, by least squares."""
    mapping = torch.linalg.pinv(x) @ z  # (inputs, outputs)
    # The best approximation of the fitted outputs of a rank is their projection onto the first
    # right singular vectors.
    directions = torch.linalg.svd(x @ mapping, full_matrices=False).Vh
    for parameter in student.parameters():
        parameter.zero_()
    rank = min(student.hidden.out_features, student.hidden.in_features, len(directions))
    first = student.hidden if student.bottleneck is None else student.bottleneck
    first.weight[:rank] = (mapping @ directions[:rank].T).T
    if student.bottleneck is not None:
        student.hidden.weight.fill_diagonal_(1.0)
    student.output.weight[:, :rank] = directions[:rank].T


class MimicGap(NetworkMetric):
    """Share of the outputs' spread that a small shallow student misses at samples it has not seen.

    At each update a `fit_student` is fitted to the network's outputs at part of the samples, from
    the same weights each time and in as many steps; the gap is 1 - R² at the others, the spread
    being that around the mean of those it was fitted to. Beside it is `/agreement`, the share of
    the others for which both decide for the same class. Both have standard errors.

    The student sees all samples of a batch together, so that batches are measured apart and put
    together: give all samples at once where you can, as `ComplexityMonitor` does. Nor can the fit
    be shared: share 0 measures alone, the others add nothing. Cost: one forward, and the steps of
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
    beside = ("/agreement",)

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
        _check_widths(hidden, bottleneck)
        if steps < 1:
            raise ValueError(f"steps={steps}: expected at least 1.")
        if not 0 < held_out < 1:
            raise ValueError(f"held_out={held_out}: expected a share between 0 and 1.")
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
        if self.share.index > 0:
            return
        held, seen = self._split(len(x))
        with observing(network):
            x = x.detach().clone()
            student = fit_student(
                at_samples(network, seen),
                x[seen],
                hidden=self.hidden,
                bottleneck=self.bottleneck,
                steps=self.steps,
                centred=self.centred,
                seed=self.seed,
                chunk=self.chunk,
            )
            z = _logits(network, x, self.chunk, centred=self.centred)
            with torch.no_grad():
                found = _fidelity(student(x[held]), z[held], z[seen].mean(0))
            columns = [found.squared_errors, found.spread, found.agrees]
            exact = torch.float32 if x.device.type == "mps" else torch.float64
            self.found = [*self.found, torch.stack(columns, 1).to(x.device, exact)]

    def _split(self, samples: int) -> tuple[Tensor, Tensor]:
        """Return which samples are held out, and which the student sees."""
        if samples < 2:  # noqa: PLR2004 one for each
            raise ValueError(
                f"x has {samples} samples: expected at least 2, to fit a student and to test it."
            )
        held = min(max(round(self.held_out * samples), 1), samples - 1)
        order = torch.randperm(samples, generator=Generator().manual_seed(self.seed))
        return order[:held].sort().values, order[held:].sort().values

    def compute(self) -> dict[str, Tensor]:
        """Gap and agreement over all samples that were held out, each with its standard error."""
        found = Fidelity(*dim_zero_cat(self.found).T)
        values = {
            "": found.gap,
            STDERR: found.gap_stderr,
            "/agreement": found.agreement,
            "/agreement" + STDERR: found.agreement_stderr,
        }
        return {
            self.name + ending: torch.tensor(value, device=self.device)
            for ending, value in values.items()
            if value is not None
        }
