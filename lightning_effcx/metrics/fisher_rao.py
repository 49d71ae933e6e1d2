r"""Fisher-Rao norm: how much the predictions react to scaling the weights.

$\|\theta\|_{fr} = \sqrt{\langle\theta, I(\theta)\theta\rangle}$ with the Fisher information
$I(\theta) = E[\nabla_\theta \ell\, \nabla_\theta \ell^T]$ of the loss $\ell$. The expectation is
over samples, and over targets drawn from the model's own distribution or over the given targets
(the empirical Fisher). A network whose outputs do not depend on its weights scores 0. A bias-free
ReLU network scores the same after a factor moves from one layer to the next. In units of the loss.
In the authors' experiments the norm is higher if more training labels are random. Cost: one
backward pass that is differentiated once more, about six forward passes, for any number of outputs.

Since $\langle\theta, \nabla_\theta \ell\rangle = \frac{d}{ds}\ell(f_{s\theta})|_{s=1}$, one
Jacobian-vector product $t = \partial f/\partial\theta \cdot \theta$, `(n, k)`, is enough. With
$p = \mathrm{softmax}(f)$, the square of the norm is per sample:

* categorical, model: the variance of $t_c$ over classes $c \sim p$;
* categorical, empirical: $(\sum_c p_c t_c - t_y)^2$;
* Gaussian of unit variance, model: $\|t\|^2$; empirical: $\langle f - y, t\rangle^2$.

Liang, Poggio, Rakhlin, Stokes, "Fisher-Rao Metric, Geometry, and Complexity of Neural Networks",
AISTATS 2019. Their closed form $(L+1)^2 E[(\langle p, f\rangle - f_y)^2]$ holds for bias-free,
positively homogeneous networks, where it agrees with the definition. With biases it does not hold.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.sample_metric import SampleMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Chunk, Scores
from lightning_effcx.metrics.weight_derivative import along_the_weights
from lightning_effcx.network import Network, differentiating, with_own_embedding
from lightning_effcx.options import check_kind, check_switch, check_word
from lightning_effcx.targets import classes_of
from lightning_effcx.tracing import without_wrappers

Distribution: TypeAlias = Literal["categorical", "gaussian"]


@dataclass(frozen=True)
class FisherRao:
    """The Fisher-Rao norm and the squares that it is made of.

    Attributes:
        norm: The root of the mean of `squares`, a scalar.
        squares: The contribution of each sample to the squared norm, `(n,)`.
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
    """Return the Fisher-Rao norm of the network's parameters; differentiable in them.

    Args:
        network: A module, whose parameters are differentiated. It maps `(n, ...)` to `(n, k)`, each
            sample independently.
        x: The samples.
        y: The targets for the empirical Fisher: classes `(n,)`, or values `(n, k)` for a Gaussian.
            With `None` the expectation is over the model's own distribution.
        distribution: The meaning of the outputs: logits if `categorical`, the mean if `gaussian`.
        parameters: A pattern for the dotted names of the parameters to use, such as `*.weight`. By
            default all are used.

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
            "the Fisher-Rao norm needs the network's parameters: expected a torch.nn.Module, "
            f"got a {type(network).__name__}."
        )
    _check(distribution, parameters)
    theta = _matching(network, parameters)
    with differentiating():
        x = x.clone() if x.is_inference() else x  # autograd refuses inference tensors
        f, t = along_the_weights(network, theta, x)
        squares = _categorical(f, t, y) if distribution == "categorical" else _gaussian(f, t, y)
        return FisherRao(_root(squares.mean()), squares)


class FisherRaoNorm(SampleMetric):
    """The `fisher_rao_norm` over all samples.

    Args:
        distribution: As in `fisher_rao_norm`.
        empirical: Whether to use the targets of each batch instead of the model's own distribution.
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

    def score(self, network: Network, chunk: Chunk) -> Scores:
        if self.empirical and chunk.y is None:
            raise ValueError(
                "the empirical Fisher needs targets, but the batch has none: give y, or use "
                "empirical=False."
            )
        fisher_rao = fisher_rao_norm(
            with_own_embedding(network),
            chunk.x,
            chunk.y if self.empirical else None,
            distribution=self.distribution,
            parameters=self.parameters_matching,
        )
        return Scores(fisher_rao.squares)

    def summarize(self, scores: Scores) -> Measurement:
        squares = self.mean(scores.value)
        norm = squares.value.sqrt()
        if squares.stderr is None or not norm:
            return Measurement(norm, squares.stderr)
        return Measurement(norm, squares.stderr / (2 * norm))  # to first order


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
            f"the targets have shape {tuple(y.shape)}: expected the shape of the outputs, "
            f"{tuple(f.shape)}."
        )
    return ((f - y.reshape(f.shape)) * t).sum(1).square()


def _root(mean: Tensor) -> Tensor:
    """Return the square root, with the gradient 0 at 0. NaN there would spoil a penalty."""
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
