r"""Student: a network with one hidden layer, and the one way in which it is fitted to another.

The student is $g(x) = \beta f(W x)$, whose weights $W \approx U V$ may be factored through a linear
bottleneck. It is fitted to the teacher's outputs by least squares.

Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.network import Network, differentiating, evaluate, select_samples, to_precision
from lightning_effcx.options import check_count, check_number, check_seed, check_switch

_RATE = 0.1  # of the steps, relative to how large the weights are at the start


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
        check_widths(hidden, bottleneck)
        check_seed(seed)
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


def check_widths(hidden: int, bottleneck: int | None) -> None:
    """Refuse a student without units."""
    check_count("hidden", hidden, of=" unit")
    if bottleneck is not None:
        check_count("bottleneck", bottleneck, of=", or None for none")


def check_steps(steps: int) -> None:
    """Refuse to fit without a step."""
    check_count("steps", steps)


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
        >>> bool((student(x) - x.abs()).square().mean() < 0.01 * x.abs().var())
        True
    """
    check_steps(steps)
    check_seed(seed)
    check_samples(teacher, x)
    with torch.no_grad(), differentiating():
        z = logits(teacher, x, chunk, centred=centred).clone()
        student = ShallowStudent(
            x[0].numel(),
            z.shape[1],
            hidden=hidden,
            bottleneck=bottleneck,
            activation=activation,
            seed=seed,
        ).to(z)
        fit_outputs(student, x.detach().flatten(1).to(z, copy=True), z, steps)
    return student


def fit_outputs(student: ShallowStudent, x: Tensor, z: Tensor, steps: int) -> None:
    """Fit a student, from the weights it has, to outputs `(n, k)` at samples `(n, d)`, in place."""
    with torch.no_grad():
        (x, x_mean, x_scale), (z, z_mean, z_scale) = _standardized(x), _standardized(z)
        if student.activation is None:
            _solve(student, x, z)
        else:
            _descend(student, x, lambda outputs: (outputs - z).square().sum(1).mean(), steps)
        student.output.weight.mul_(z_scale)
        student.output.bias.mul_(z_scale).add_(z_mean)
        _take_raw(student, x_mean, x_scale)


def fit_labels(student: ShallowStudent, x: Tensor, y: Tensor, steps: int) -> None:
    """Fit it to classes `(n,)` instead, by cross-entropy, in the same steps; 0 and 1 of one output.

    A linear student, too, is trained.
    """

    def loss(outputs: Tensor) -> Tensor:
        if outputs.shape[1] > 1:
            return nn.functional.cross_entropy(outputs, y)
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], y.to(outputs))

    with torch.no_grad():
        x, mean, scale = _standardized(x)
        _descend(student, x, loss, steps)
        _take_raw(student, mean, scale)


def _take_raw(student: ShallowStudent, mean: Tensor, scale: Tensor) -> None:
    """Make a student that was fitted to standardized samples take them as they are."""
    first = student.hidden if student.bottleneck is None else student.bottleneck
    first.weight.div_(scale)
    shift = nn.functional.linear(mean, first.weight)
    if student.bottleneck is not None:
        shift = nn.functional.linear(shift, student.hidden.weight)
    student.hidden.bias.sub_(shift)


def _standardized(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the mean off, and divide by one number for all, so that least squares stay such."""
    mean = values.mean(0)
    scale = (values - mean).square().sum(1).mean().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    return (values - mean) / scale, mean, scale


def _descend(
    student: ShallowStudent, x: Tensor, loss: Callable[[Tensor], Tensor], steps: int
) -> None:
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
            loss(student(x)).backward()
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


def logits(network: Network, x: Tensor, chunk: int, *, centred: bool) -> Tensor:
    """Return the outputs of a network in float64, without a gradient."""
    check_count("chunk", chunk, of=" row")
    check_switch("centred", centred)
    with torch.no_grad():
        parts = torch.arange(len(x)).split(chunk)
        outputs = torch.cat([evaluate(select_samples(network, part), x[part]) for part in parts])
        z = to_precision(outputs, torch.float64)
        if centred and z.shape[1] == 1:
            raise ValueError("centred=True leaves nothing of a single output: mimic it as it is.")
        return z - z.mean(1, keepdim=True) if centred else z


def split_samples(samples: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return which samples are held out, at random, and which the student sees."""
    if samples < 2:  # noqa: PLR2004 one for each
        raise ValueError(
            f"x has {samples} samples: expected at least 2, to fit a student and to test it."
        )
    held = min(max(round(held_out * samples), 1), samples - 1)
    order = torch.randperm(samples, generator=Generator().manual_seed(seed))
    return order[:held].sort().values, order[held:].sort().values


def check_share(held_out: float) -> None:
    """Refuse to hold out nothing or everything."""
    check_number("held_out", held_out, lambda given: 0 < given < 1, "a share between 0 and 1")
