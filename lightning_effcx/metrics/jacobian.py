r"""Jacobian norm: how far the output moves when the input is nudged.

For a network $f: \mathbb{R}^d \to \mathbb{R}^k$ the sensitivity at a sample $x$ is the Frobenius
norm $\|J(x)\|_F$ of $J(x) = \partial f(x) / \partial x$, in units of output per unit of input; not
squared. A constant map scores 0, a linear map $Wx$ scores $\|W\|_F$ everywhere, an isometry of
$\mathbb{R}^d$ scores $\sqrt{d}$, and $cf$ scores $|c|$ times what $f$ scores. It rises where the
function grows steeper around the samples, as it does while a network fits noise; it scales
inversely with the input, so compare runs on the same input scale. Cost: one forward and $k$
backward passes, or as many as there are `directions`.

Of the outputs (logits) it grows with confidence alone; of the probabilities, which are what Novak
et al. measure, confidence makes it vanish. The two rank networks differently.

Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in Neural
Networks: an Empirical Study", ICLR 2018: the norm of the input-output Jacobian of the softmax
output, averaged over test points. Random directions are those of Hoffman, Roberts, Yaida, "Robust
Learning with Jacobian Regularization", 2019.
"""

from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightning_effcx.metrics.base import SampleMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.network import Network, differentiating, evaluate
from lightning_effcx.options import check_count, check_word
from lightning_effcx.paths import check_generator

Of: TypeAlias = Literal["outputs", "probabilities"]
OfBoth: TypeAlias = Literal["outputs", "probabilities", "both"]


def jacobian_norm(
    network: Network,
    x: Float[Tensor, "n ..."],
    *,
    of: Of = "outputs",
    directions: int | None = None,
    generator: Generator | Draws | None = None,
) -> Float[Tensor, " n"]:
    """Frobenius norm of the input-output Jacobian at each sample; differentiable in the weights.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        x: The samples at which to measure.
        of: What moves: the outputs, or their softmax.
        directions: Pull back this many random output directions instead of all `k`. The square of
            the result is then unbiased, with relative variance at most `2 / directions`; the result
            itself lies a little low on average.
        generator: Source of those directions, or the draws of each sample.

    Example:
        >>> jacobian_norm(lambda x: 2 * x, torch.zeros(1, 3))  # 2 * sqrt(3)
        tensor([3.4641])
    """
    check_samples(network, x, moves=True)
    check_word("of", of, *get_args(Of))
    _check_directions(directions)
    keep_graph = torch.is_grad_enabled()
    with differentiating(), torch.enable_grad():
        # A fresh leaf, also where x itself was made in inference mode; a caller's graph goes on.
        x = x.clone() if keep_graph and x.requires_grad else x.detach().clone().requires_grad_()
        y = evaluate(network, x)
        y = y if of == "outputs" else _probabilities(y)
        norms = []
        for cotangent in _cotangents(y, directions, generator):
            row = _pulled_back(y, x, cotangent, keep_graph=keep_graph)
            # vector_norm, unlike sqrt of a sum, has gradient 0 rather than NaN where J vanishes.
            norms.append(torch.linalg.vector_norm(row.flatten(1), dim=1))
        return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def _both(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the norms of outputs and of probabilities, by one backward pass more than the first.

    If $J_c$ are the rows of the one Jacobian, $p_c (J_c - \sum_j p_j J_j)$ are those of the other.
    """
    with differentiating(), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        y = evaluate(network, x)

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
        (row,) = torch.autograd.grad(
            y, x, cotangent, retain_graph=True, create_graph=keep_graph, allow_unused=True
        )
    if row is None and not torch.equal(y, y[:1].expand_as(y)):  # else it is a constant
        raise ValueError(
            "the network's outputs change with its input, but no gradient leads back to it, as "
            "after no_grad, detach, NumPy or argmax: measure another part of the module with "
            "network=, or count transitions instead."
        )
    return torch.zeros_like(x) if row is None else row


class JacobianNorm(SampleMetric):
    """Mean `jacobian_norm` over the samples seen, exact unless `directions` are given.

    Args:
        of: As in `jacobian_norm`; or `both`, which costs hardly more than one of them: the name is
            that of the outputs, and the probabilities are beside it.
        directions: As in `jacobian_norm`.
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
        _check_directions(directions)
        if of == "both" and directions is not None:
            raise ValueError(
                f"of='both' is exact, but directions={directions}: take two metrics, of='outputs' "
                "and of='probabilities'."
            )
        self.of: OfBoth = of
        self.directions = directions
        self.beside = (".probabilities",) if of == "both" else ()

    @property
    def name(self) -> str:
        variant = ["probabilities"] if self.of == "probabilities" else []
        variant += ["sampled"] if self.directions else []
        return ".".join(["jacobian_norm", *filter(None, ["_".join(variant)])])

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del y
        if self.of == "both":
            norms, of_probabilities = _both(network, x)
            return norms, {".probabilities": of_probabilities}
        norms = jacobian_norm(network, x, of=self.of, directions=self.directions, generator=draws)
        return norms, {}


def _check_directions(directions: int | None) -> None:
    if directions is not None:
        check_count("directions", directions, of=", or None for all")


def _probabilities(y: Tensor) -> Tensor:
    if y.shape[1] < 2:  # noqa: PLR2004 one class is certain
        raise ValueError(
            "the softmax of a single output is always 1: measure of='outputs' instead."
        )
    return y.softmax(1)


def _cotangents(y: Tensor, directions: int | None, generator: Generator | Draws | None) -> Tensor:
    """All output directions, `(k, n, k)`, or random ones whose squares average to the same."""
    n, k = y.shape
    if directions is None:
        return torch.eye(k, dtype=y.dtype, device=y.device)[:, None].expand(k, n, k)
    if isinstance(generator, Draws):
        noise = generator.randn(directions, k).transpose(0, 1)
    else:  # all at once, which counts in penalties
        check_generator(generator)
        device = None if generator is None else generator.device
        noise = torch.randn(directions, n, k, generator=generator, device=device)
    noise = noise.to(y)
    # E (v·r)² = |r|²/k for v uniform on the unit sphere, which spreads less than Gaussian v does.
    return torch.nn.functional.normalize(noise, dim=2) * (k / directions) ** 0.5
