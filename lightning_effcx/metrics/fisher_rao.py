r"""Fisher-Rao norm: how much the predictions react to scaling the weights.

$\|\theta\|_{fr} = \sqrt{\langle\theta, I(\theta)\theta\rangle}$ with the Fisher information
$I(\theta) = E[\nabla_\theta \ell\, \nabla_\theta \ell^T]$ of the loss $\ell$, the expectation being
over samples and over targets drawn from the model's own distribution, or over the given targets
(the empirical Fisher). A network whose outputs do not depend on its weights scores 0; a bias-free
ReLU network scores the same after moving a factor from one layer to the next. In units of the loss.
In the authors' experiments it is the higher, the more training labels are random. Cost: one
backward pass differentiated once more, about six forward passes, whatever the number of outputs.

Since $\langle\theta, \nabla_\theta \ell\rangle = \frac{d}{ds}\ell(f_{s\theta})|_{s=1}$, one
Jacobian-vector product $t = \partial f/\partial\theta \cdot \theta$, `(n, k)`, holds all of it.
With $p = \mathrm{softmax}(f)$, per sample:

* categorical, model: the variance of $t_c$ over classes $c \sim p$;
* categorical, empirical: $(\sum_c p_c t_c - t_y)^2$;
* Gaussian of unit variance, model: $\|t\|^2$; empirical: $\langle f - y, t\rangle^2$.

Liang, Poggio, Rakhlin, Stokes, "Fisher-Rao Metric, Geometry, and Complexity of Neural Networks",
AISTATS 2019. Their closed form $(L+1)^2 E[(\langle p, f\rangle - f_y)^2]$ holds for bias-free,
positively homogeneous networks, where both agree; with biases only the definition does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_effcx.metrics.base import SampleMetric
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.network import (
    Network,
    differentiating,
    evaluate,
    replacing_tensors,
    state_of,
    with_own_embedding,
)
from lightning_effcx.options import check_kind, check_switch, check_word
from lightning_effcx.targets import classes_of
from lightning_effcx.tracing import without_wrappers

Distribution: TypeAlias = Literal["categorical", "gaussian"]


@dataclass(frozen=True)
class FisherRao:
    """The Fisher-Rao norm and what it is made of.

    Attributes:
        norm: Root of the mean of `squares`, a scalar.
        squares: Each sample's share of the squared norm, `(n,)`.
    """

    norm: Tensor
    squares: Tensor


def fisher_rao_norm(
    network: Network,
    x: Float[Tensor, "n ..."],
    y: Tensor | None = None,
    *,
    distribution: Distribution = "categorical",
    parameters: str | None = None,
) -> FisherRao:
    """Fisher-Rao norm of the network's parameters; differentiable in them.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently; a module, since its
            parameters are differentiated.
        x: The samples.
        y: Their targets, for the empirical Fisher: classes `(n,)`, or values `(n, k)` for a
            Gaussian. `None` takes the expectation over the model's own distribution.
        distribution: What the outputs parametrise: `categorical`, they are logits; `gaussian`, they
            are the mean.
        parameters: Only those whose dotted name matches this pattern, such as `*.weight`.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> x = torch.full((4, 1), 3.0)
        >>> fr = fisher_rao_norm(network, x, distribution="gaussian")  # one weight: |f|
        >>> torch.allclose(fr.norm, network(x)[0, 0].abs())
        True
    """
    check_samples(network, x, y)
    if not isinstance(network, nn.Module):
        raise TypeError(
            "the Fisher-Rao norm is about a network's parameters: expected a torch.nn.Module, "
            f"got a {type(network).__name__}."
        )
    _check(distribution, parameters)
    theta = _matching(network, parameters)
    with differentiating():
        x = x.clone() if x.is_inference() else x  # autograd refuses it
        f, t = _along_the_weights(network, theta, x)
        squares = _categorical(f, t, y) if distribution == "categorical" else _gaussian(f, t, y)
        return FisherRao(_root(squares.mean()), squares)


class FisherRaoNorm(SampleMetric):
    """`fisher_rao_norm` over all samples seen.

    Args:
        distribution: As in `fisher_rao_norm`.
        empirical: Use the targets of each batch, rather than the model's own distribution.
        parameters: As in `fisher_rao_norm`.
        **kwargs: `seed`, `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    pointwise = True

    def __init__(
        self,
        distribution: Distribution = "categorical",
        *,
        empirical: bool = False,
        parameters: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check(distribution, parameters)
        check_switch("empirical", empirical)
        self.distribution: Distribution = distribution
        self.empirical = empirical
        self.parameters_matching = parameters

    @property
    def name(self) -> str:
        return "fisher_rao_norm.empirical" if self.empirical else "fisher_rao_norm"

    def score(
        self, network: Network, x: Tensor, y: Tensor | None, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del draws
        if self.empirical and y is None:
            raise ValueError("the empirical Fisher needs targets, but the batch has none.")
        fisher_rao = fisher_rao_norm(
            with_own_embedding(network),
            x,
            y if self.empirical else None,
            distribution=self.distribution,
            parameters=self.parameters_matching,
        )
        return fisher_rao.squares, {}

    def average(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Root of the mean; its standard error to first order, as that of the mean over 2 roots."""
        mean, stderr = super().average(scores)
        norm = mean.sqrt()
        if stderr is None or not norm:
            return norm, stderr
        return norm, stderr / (2 * norm)


def _check(distribution: Distribution, parameters: str | None) -> None:
    check_word("distribution", distribution, *get_args(Distribution))
    if parameters is not None:
        check_kind("parameters", parameters, str, "a pattern of their names, such as '*.weight'")


def _categorical(f: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    if f.shape[1] < 2:  # noqa: PLR2004 one class is certain
        raise ValueError(
            "the softmax of a single output is always 1: use distribution='gaussian' for a "
            "network with one output."
        )
    p = f.softmax(1)
    mean = (p * t).sum(1, keepdim=True)
    if y is None:
        return (p * (t - mean).square()).sum(1)
    return (mean - t.gather(1, classes_of(y)[:, None])).square().squeeze(1)


def _gaussian(f: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    if y is None:
        return t.square().sum(1)
    if y.numel() != f.numel():
        raise ValueError(
            f"the targets have shape {tuple(y.shape)}, expected that of the outputs, "
            f"{tuple(f.shape)}."
        )
    return ((f - y.reshape(f.shape)) * t).sum(1).square()


def _root(mean: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 rather than NaN: a dead network can be penalised."""
    nothing = mean == 0
    return torch.where(nothing, 1.0, mean).sqrt() * ~nothing


def _matching(network: nn.Module, pattern: str | None) -> dict[str, nn.Parameter]:
    everything = dict(network.named_parameters())
    if pattern is None:
        return everything
    chosen = {
        name: p for name, p in everything.items() if fnmatchcase(without_wrappers(name), pattern)
    }
    if not chosen:
        raise ValueError(f"no parameter matches {pattern!r}; the network has: {[*everything]}.")
    return chosen


def _along_the_weights(
    network: nn.Module, theta: dict[str, nn.Parameter], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs and their derivatives along the weights themselves."""
    # Forward mode is the cheaper one to differentiate once more. For a value alone it is too, but
    # torch loads its rules for up to half a second, as long as some small trainings measure.
    if torch.is_grad_enabled():
        try:
            return _forward_mode(network, theta, x)
        except RuntimeError:
            pass  # some operators have no forward mode, and scripted modules take no parameters
    return _double_backward(network, theta, x)


def _forward_mode(
    network: nn.Module, theta: dict[str, nn.Parameter], x: Tensor
) -> tuple[Tensor, Tensor]:
    containers = state_of(network).containers()

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        with replacing_tensors(
            containers, {id(theta[name]): value for name, value in parameters.items()}
        ):
            return evaluate(network, x)

    f, t, *_ = torch.func.jvp(outputs, (dict(theta),), (dict(theta),))
    return f, t


def _double_backward(
    network: nn.Module, theta: dict[str, nn.Parameter], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Find t as ∂/∂u ⟨∂⟨u, f⟩/∂θ, θ⟩: what is differentiated is linear in u, so any u will do."""
    keep_graph = torch.is_grad_enabled()
    values = list(theta.values())
    with torch.enable_grad(), _all_recorded(values):
        f = evaluate(network, x)
        if not f.requires_grad:
            raise ValueError(
                "no gradient leads from the network's outputs to its weights, as after no_grad, "
                "NumPy or argmax: measure another part of the module with network=, or count "
                "transitions instead."
            )
        u = torch.zeros_like(f, requires_grad=True)
        rows = torch.autograd.grad(f, values, u, create_graph=True, materialize_grads=True)
        along = torch.stack([(r * v).sum() for r, v in zip(rows, values, strict=True)]).sum()
        (t,) = torch.autograd.grad(along, u, create_graph=keep_graph, materialize_grads=True)
    return (f, t) if keep_graph else (f.detach(), t)


@contextmanager
def _all_recorded(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let frozen parameters take part: they scale the outputs like any other."""
    frozen = [p for p in parameters if not p.requires_grad]
    for p in frozen:
        p.requires_grad_()
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
