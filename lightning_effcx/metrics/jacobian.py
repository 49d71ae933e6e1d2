r"""Jacobian norm: how much the output changes when the input changes a little.

For a network $f: \mathbb{R}^d \to \mathbb{R}^k$ the sensitivity at a sample $x$ is the Frobenius
norm $\|J(x)\|_F$ of $J(x) = \partial f(x) / \partial x$, in units of output per unit of input. It
is not squared. A constant map scores 0, a linear map $Wx$ scores $\|W\|_F$ everywhere, an isometry
of $\mathbb{R}^d$ scores $\sqrt{d}$, and $cf$ scores $|c|$ times the score of $f$. The norm rises
where the function becomes steeper around the samples, as it does while a network fits noise. It
scales inversely with the input: compare runs with the same input scale. Cost: one forward and $k$
backward passes, or one backward pass for each of the `directions`.

The norm of the outputs (logits) grows with confidence alone. The norm of the probabilities, which
Novak et al. measure, vanishes with confidence. The two rank networks differently.

Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in Neural
Networks: an Empirical Study", ICLR 2018: the norm of the input-output Jacobian of the softmax
output, averaged over test points. Hoffman, Roberts, Yaida, "Robust Learning with Jacobian
Regularization", 2019: random directions.
"""

from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.sample_metric import SampleMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Chunk, Scores
from lightning_effcx.network import Network, differentiating, evaluate
from lightning_effcx.options import check_count, check_word
from lightning_effcx.paths import check_generator
from lightning_effcx.tags import name_of

Of: TypeAlias = Literal["outputs", "probabilities"]
OfBoth: TypeAlias = Literal["outputs", "probabilities", "both"]

_LEAST = 8  # directions; with 8 the bias is at most 0.07 %, with 4 it can be 0.4 %, with 2 2.5 %


def jacobian_norm(
    network: Network,
    x: Float[Tensor, "n ..."],
    *,
    of: Of = "outputs",
    directions: int | None = None,
    generator: Generator | Draws | None = None,
) -> Float[Tensor, " n"]:
    """Return the Frobenius norm of the Jacobian at each sample; differentiable in the weights.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently.
        x: The samples.
        of: Which Jacobian: of the `outputs`, or of the `probabilities`, their softmax.
        directions: Pull back this many random output directions instead of all `k`. The square of
            the result is then unbiased, with a relative variance of at most `2 / directions`. The
            result itself is too low on average: if the Jacobian has rank one, by 20 % with one
            direction, and by 1.6 % with 16. `JacobianNorm` corrects this.
        generator: The source of the directions, or the draws of each sample.

    Example:
        >>> jacobian_norm(lambda x: 2 * x, torch.zeros(1, 3))  # 2 * sqrt(3)
        tensor([3.4641])
    """
    check_samples(network, x, moves=True)
    check_word("of", of, *get_args(Of))
    if directions is not None:
        check_count("directions", directions, of=", or None for all")
    return torch.linalg.vector_norm(_rows(network, x, of, directions, generator), dim=0)


def _rows(
    network: Network,
    x: Tensor,
    of: Of,
    directions: int | None,
    generator: Generator | Draws | None,
) -> Tensor:
    """Return the norms of the rows of the Jacobian, or of those along directions, `(m, n)`."""
    keep_graph = torch.is_grad_enabled()
    with differentiating(), torch.enable_grad():
        # The gradient needs a leaf that is not an inference tensor. The graph of a caller who
        # differentiates by x must continue instead.
        x = x.clone() if keep_graph and x.requires_grad else x.detach().clone().requires_grad_()
        y = _evaluate_with_graph(network, x)
        y = y if of == "outputs" else _probabilities(y)
        norms = []
        for cotangent in _cotangents(y, directions, generator):
            row = _pulled_back(y, x, cotangent, keep_graph=keep_graph)
            # Where J is 0, vector_norm has the gradient 0. The root of a sum would have NaN.
            norms.append(torch.linalg.vector_norm(row.flatten(1), dim=1))
        return torch.stack(norms)


def _without_bias(rows: Tensor) -> Tensor:
    """Return the root of the mean of m squares, `(m, n)` to `(n,)`, without most of its bias.

    The root of an unbiased square is too low, by about `c / m`. The jackknife compares it with the
    roots of all but one square each, and removes this bias. About `1 / m²` of it stays.
    """
    m = len(rows)
    squares = rows.square()
    total = squares.sum(0)
    others = (total - squares).clamp(min=0) * (m / (m - 1))
    return m * total.sqrt() - (m - 1) * others.sqrt().mean(0)


def _both(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the norms for outputs and for probabilities, at one more backward pass than for one.

    If $J_c$ are the rows of the Jacobian of the outputs, then $p_c (J_c - \sum_j p_j J_j)$ are the
    rows of the Jacobian of the probabilities.
    """
    with differentiating(), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        y = _evaluate_with_graph(network, x)

        def pulled_back(cotangent: Tensor) -> Tensor:
            return _pulled_back(y, x, cotangent).flatten(1)

        p = _probabilities(y.detach())
        mean = pulled_back(p)
        of_outputs, of_probabilities = [], []
        for weight, cotangent in zip(p.T[..., None], _cotangents(y, None, None), strict=True):
            row = pulled_back(cotangent)
            of_outputs.append(torch.linalg.vector_norm(row, dim=1))
            of_probabilities.append(torch.linalg.vector_norm(weight * (row - mean), dim=1))
    return (
        torch.linalg.vector_norm(torch.stack(of_outputs), dim=0),
        torch.linalg.vector_norm(torch.stack(of_probabilities), dim=0),
    )


def _pulled_back(y: Tensor, x: Tensor, cotangent: Tensor, *, keep_graph: bool = False) -> Tensor:
    row: Tensor | None = None
    if y.requires_grad:
        try:
            (row,) = torch.autograd.grad(
                y, x, cotangent, retain_graph=True, create_graph=keep_graph, allow_unused=True
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _without_derivative(error) from error
    # Without a gradient, outputs that are equal for all samples count as constant.
    if row is None and not torch.equal(y, y[:1].expand_as(y)):
        raise ValueError(
            "the network's outputs change with its input, but have no gradient by it, as after "
            "no_grad, detach, NumPy or argmax: measure another part of the module with network=, "
            "or use Transitions."
        )
    if row is not None and row.isnan().any():
        raise ValueError(
            "the gradient of the network is NaN at some samples, where torch cannot differentiate "
            "one of its operators: measure another part of the module with network=, or use "
            "Transitions."
        )
    return torch.zeros_like(x) if row is None else row


def _evaluate_with_graph(network: Network, x: Tensor) -> Tensor:
    try:
        return evaluate(network, x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        with torch.no_grad():
            evaluate(network, x.detach())  # what is wrong without gradients is another error
        raise _without_derivative(error) from error


def _without_derivative(error: Exception) -> ValueError:
    first, *_ = str(error).splitlines() or [type(error).__name__]
    return ValueError(
        "the network has an operator that torch cannot differentiate: measure another part of the "
        f"module with network=, or use Transitions ({first.rstrip('.')})."
    )


class JacobianNorm(SampleMetric):
    """The mean `jacobian_norm` over the samples; exact unless `directions` are given.

    With random directions the value is an estimate of the same mean. Its bias is less than 0.1 %.
    The error bar is about the mean over the population of the samples, and includes the draws of
    directions.

    Args:
        of: As in `jacobian_norm`, or `both` at hardly more than the cost of one. The value is then
            for the outputs, and the variant `.probabilities` for the probabilities.
        directions: As in `jacobian_norm`, but at least 8. The bias of fewer could exceed the bar.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    moves = True
    pointwise = True

    def __init__(
        self,
        of: OfBoth = "outputs",
        directions: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_word("of", of, *get_args(OfBoth))
        if directions is not None:
            check_count("directions", directions, least=_LEAST, of=", or None for all")
        if of == "both" and directions is not None:
            raise ValueError(
                f"of='both' is exact, but directions={directions}: use two metrics, "
                "of='outputs' and of='probabilities'."
            )
        self.of: OfBoth = of
        self.directions = directions
        self.variants = (".probabilities",) if of == "both" else ()

    @property
    def name(self) -> str:
        words = {"probabilities": self.of == "probabilities", "sampled": bool(self.directions)}
        return name_of("jacobian_norm", *(word for word, holds in words.items() if holds))

    def score(self, network: Network, chunk: Chunk) -> Scores:
        if self.of == "both":
            of_outputs, of_probabilities = _both(network, chunk.x)
            return Scores(of_outputs, {".probabilities": of_probabilities})
        if self.directions is None:
            return Scores(jacobian_norm(network, chunk.x, of=self.of))
        return Scores(_without_bias(_rows(network, chunk.x, self.of, self.directions, chunk.draws)))


def _probabilities(y: Tensor) -> Tensor:
    if y.shape[1] < 2:  # noqa: PLR2004 one class is certain
        raise ValueError("the softmax of a single output is always 1: use of='outputs'.")
    return y.softmax(1)


def _cotangents(y: Tensor, directions: int | None, generator: Generator | Draws | None) -> Tensor:
    """Return all output directions, `(k, n, k)`, or random ones with the same mean square."""
    n, k = y.shape
    if directions is None:
        return torch.eye(k, dtype=y.dtype, device=y.device)[:, None].expand(k, n, k)
    if isinstance(generator, Draws):
        noise = generator.randn(directions, k).transpose(0, 1)
    else:  # draw for all samples at once: a penalty draws at every training step
        check_generator(generator)
        device = None if generator is None else generator.device
        noise = torch.randn(directions, n, k, generator=generator, device=device)
    noise = noise.to(y)
    # E (v·r)² = |r|²/k for v uniform on the unit sphere. A Gaussian v would have more variance.
    return torch.nn.functional.normalize(noise, dim=2) * (k / directions) ** 0.5
