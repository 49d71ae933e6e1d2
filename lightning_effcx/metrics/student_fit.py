"""The fit of a shallow student to a network's outputs, or to labels: always in the same way."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.shallow_student import ShallowStudent
from lightning_effcx.network import Network, differentiating, evaluate, select_samples, to_precision
from lightning_effcx.options import check_count, check_number, check_seed, check_switch

_RATE = 0.1  # of the first step, relative to the size of the initial weights


def check_steps(steps: int) -> None:
    """Refuse a fit without any step."""
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

    The fit takes full-batch steps of Adam in float64, whose size falls linearly to 0. Inputs and
    outputs are shifted and scaled before, by one factor each, which the weights take over
    afterwards. A linear student is not trained: it is the least-squares solution of its rank. The
    teacher gets no gradient. Only the student draws random numbers.

    Args:
        teacher: Maps `(n, ...)` to `(n, k)`, each sample independently.
        x: The samples. Every step takes all of them at once.
        hidden: As in `ShallowStudent`.
        bottleneck: As in `ShallowStudent`.
        activation: As in `ShallowStudent`.
        steps: The number of steps.
        centred: Whether to subtract each sample's mean over the outputs from the outputs.
        seed: As in `ShallowStudent`.
        chunk: The most rows that the teacher evaluates at once.

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
    """Fit a student in place to outputs `(n, k)` at samples `(n, d)`, from its present weights."""
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
    """Fit a student in place to classes `(n,)`, by cross-entropy, with the same steps.

    A single output has the classes 0 and 1. A linear student is trained as well.
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
    """Change a student that was fitted to standardized samples, so that it takes raw samples."""
    first = student.hidden if student.bottleneck is None else student.bottleneck
    first.weight.div_(scale)
    shift = nn.functional.linear(mean, first.weight)
    if student.bottleneck is not None:
        shift = nn.functional.linear(shift, student.hidden.weight)
    student.hidden.bias.sub_(shift)


def _standardized(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the mean, and divide by one scale for all columns.

    A scale for each column would change which student is the best in least squares.
    """
    mean = values.mean(0)
    scale = (values - mean).square().sum(1).mean().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    return (values - mean) / scale, mean, scale


def _descend(
    student: ShallowStudent, x: Tensor, loss: Callable[[Tensor], Tensor], steps: int
) -> None:
    """Train a student in place, in steps of Adam on all samples."""
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
    """Set the weights of a linear student to the least-squares solution of its rank."""
    mapping = torch.linalg.pinv(x) @ z  # (inputs, outputs)
    # The best approximation of a rank projects the fitted outputs onto their first right singular
    # vectors.
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
    """Return a network's outputs in float64, `(n, k)`, without a gradient.

    They are on the CPU if the device has no float64.
    """
    check_count("chunk", chunk, of=" row")
    check_switch("centred", centred)
    with torch.no_grad():
        parts = torch.arange(len(x)).split(chunk)
        outputs = torch.cat([evaluate(select_samples(network, part), x[part]) for part in parts])
        z = to_precision(outputs, torch.float64)
        if centred and z.shape[1] == 1:
            raise ValueError(
                "centred=True subtracts the mean over the outputs, which leaves 0 of a single "
                "output: use centred=False."
            )
        return z - z.mean(1, keepdim=True) if centred else z


def split_samples(samples: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of random samples that are held out, and of the others."""
    if samples < 2:  # noqa: PLR2004 one for each
        raise ValueError(
            f"x has {samples} samples: expected at least 2, to fit a student and to test it."
        )
    held = min(max(round(held_out * samples), 1), samples - 1)
    order = torch.randperm(samples, generator=Generator().manual_seed(seed))
    return order[:held].sort().values, order[held:].sort().values


def check_held_out(held_out: float) -> None:
    """Refuse a share that holds out nothing or everything."""
    check_number("held_out", held_out, lambda given: 0 < given < 1, "a share between 0 and 1")
