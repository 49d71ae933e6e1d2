r"""LANN complexity: how many linear pieces it takes to approximate a network with curves.

A linear approximation neural network (LANN) $g$ has the weights of the network $f$. In place of the
activation $\phi$ of unit $j$ of layer $i$ it has a piecewise-linear function of $k_{ij}$ pieces,
each a tangent of $\phi$. It has as few pieces as possible such that the mean absolute error of the
$c$ outputs, $E(g; f) = E_x[\frac{1}{c} \sum_o |g_o(x) - f_o(x)|]$, is within a tolerance $\lambda$.
The complexity of $f$ is then

$$C(f)_\lambda = d \sum_i \log\Bigl(\sum_j k_{ij} - m_i + 1\Bigr),$$

with $d$ inputs and $m_i$ units in layer $i$: the logarithm of a bound on the number of regions of
$g$. It is 0 if every unit is nearly linear on the data, and $\log k$ for one unit with $k$ pieces
on one input. It rises as training overfits. The tolerance is in units of the outputs, so scaling
the last layer changes the result: compare within one architecture and one tolerance. Negating the
weights into and out of a tanh unit changes nothing.

Tangents are added greedily, each where it lowers the bound $\sum_{ij} w_{ij} E|e_{ij}|$ on the
error most. $e_{ij}$ are the errors of the units, and $w_{ij}$ tell how much each error is amplified
(`lightning_effcx.tangents.amplification`). By default the bound is compared with the tolerance. Its
absolute weights cannot cancel. So it is often several times the true error, and dozens of times
with initial weights. `error="measured"` compares the true error at the samples instead. Cost: one
pass with its graph, one backward pass, and the choice of tangents: some seconds for a thousand
units. With `measured` there is also a forward pass for each of some dozens of numbers of tangents.

Hu, Liu, Bian, Pei, "Measuring Model Complexity of Neural Networks with Curve Activation Functions",
KDD 2020: tangents, propagated error, greedy choice and complexity, for fully connected layers of
tanh or sigmoid, where each unit starts with its tangent at 0. What we add: any graph of operations;
curves of other shapes, where a unit starts with the tangents at its turning points among the
samples, or with the best single tangent; the measured error; tangents shared over positions. Every
site counts as a layer. Units with kinks count with their own pieces, and a window of max pooling
with one piece for each element.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.metrics.scoring import Batch, Layout, Scores
from lightning_effcx.metrics.tangent_search import TangentSearch, find_weights, without_curves
from lightning_effcx.network import Network, differentiating
from lightning_effcx.options import check_count, check_number, check_switch, check_word
from lightning_effcx.tangents import GreedyOrder, SubstitutedNetwork, find_layers
from lightning_effcx.tracing import as_one

Error: TypeAlias = Literal["propagated", "measured"]


@dataclass(frozen=True, eq=False)
class LANN:
    """A network of tangents that approximates a network, and its complexity.

    Attributes:
        complexity: d Σ log(Σ k - m + 1), with the natural logarithm.
        complexity_per_input: The complexity divided by the number d of inputs.
        pieces: The number of linear pieces of each unit, `(u,)`, by site in order of execution.
        tangents: The points where the tangents of each unit touch, one tensor for each unit, by
            site. Only for sites with curves. A jump of the slope has two.
        propagated_error: A bound on the error, to first order; `None` where it is not known.
        measured_error: The mean absolute difference of the outputs at the samples.
        network: The approximating network.
    """

    complexity: float
    complexity_per_input: float
    pieces: dict[str, Tensor]
    tangents: dict[str, tuple[Tensor, ...]]
    propagated_error: float | None
    measured_error: float
    network: SubstitutedNetwork


def lann_complexity(  # noqa: PLR0913 each is one thing that users may choose
    network: Network,
    x: Float[Tensor, "n ..."],
    *,
    tolerance: float = 0.1,
    error: Error = "propagated",
    share_positions: bool = False,
    candidates: int = 256,
    chunk: int = 1024,
) -> LANN:
    """Approximate a network by tangents, and count the pieces; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, each sample independently. The propagated error needs
            a module, for the absolute values of its weights.
        x: The samples. The pre-activations at all samples are kept in memory, in float64.
        tolerance: The largest error that is allowed, in units of the outputs.
        error: Which error the tolerance limits: `propagated`, the bound, or `measured`, the true
            error at the samples. The order of the tangents is the same for both. If amplification
            is not known, all units have equal weight in it. The measured error is evaluated after
            0, 1, 2, ... tangents, later after every tenth more.
        share_positions: Whether all positions of a channel get the same tangents. Channels are the
            second of three or more dimensions. Pieces are still counted for each unit.
        candidates: The most samples at which a unit can have tangents, chosen by quantiles.
        chunk: The most rows that the network evaluates at once.

    Example:
        >>> x = torch.linspace(-2, 2, 101, dtype=torch.float64)[:, None]
        >>> network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Tanh())
        >>> found = lann_complexity(network, x, tolerance=0.1)
        >>> [round(p, 1) for p in found.tangents["1"][0].tolist()], found.complexity  # log 3
        ([-1.4, 0.0, 1.4], 1.098...)
    """
    check_samples(network, x)
    _check(tolerance, error, share_positions)
    check_count("candidates", candidates, of=" sample")
    check_count("chunk", chunk, of=" row")
    with torch.no_grad(), differentiating(), as_one(network):
        x = x.clone() if x.is_inference() else x
        layers, samples = find_layers(network, x, share_positions=share_positions, chunk=chunk)
        if not samples:
            raise without_curves(layers.values())
        weights = find_weights(network, x, chunk, needed=error == "propagated")
        curves = [layers[name] for name in samples]
        # pop() frees the samples of a layer once they are sorted.
        greedy = GreedyOrder(
            [samples.pop(c.name).approximate(weights.get(c.name), candidates) for c in curves]
        )
        search = TangentSearch(network, x, curves, greedy, chunk)
        count = search.count(tolerance, measure_error=error == "measured")
        if count is None:
            raise ValueError(
                f"tangents at candidates={candidates} samples do not bring the error down to "
                f"tolerance={tolerance}: allow more of either."
            )
        tangents = search.tangents(count)
        pieces = {name: layer.pieces(tangents.get(name)) for name, layer in layers.items()}
        per_input = sum(math.log(float(k.sum()) - len(k) + 1) for k in pieces.values())
        return LANN(
            complexity=x[0].numel() * per_input,
            complexity_per_input=per_input,
            pieces=pieces,
            tangents={name: layers[name].points(chosen) for name, chosen in tangents.items()},
            propagated_error=greedy.error_after(count) if weights else None,
            measured_error=search.measured_error(count),
            network=search.substituted(count),
        )


class LANNComplexity(NetworkMetric):
    """The `lann_complexity` of the samples of a batch; averaged over batches by their size.

    Each batch is measured by itself, with all its samples together: give all samples at once if you
    can, as `ComplexityMonitor` does. The choice of tangents cannot be split: shard 0 measures
    alone. The variants are

    * `.per_input`: the complexity divided by the number of inputs;
    * `.pieces`: the mean number of pieces of a unit; at each site, their sum;
    * `.measured_error` and, if it is known, `.propagated_error`.

    Args:
        tolerance: As in `lann_complexity`.
        error: As in `lann_complexity`.
        share_positions: As in `lann_complexity`.
        **kwargs: `chunk`, and the keyword arguments of `torchmetrics.Metric`.
    """

    name = "lann_complexity"

    found: list[Tensor]
    samples: list[Tensor]

    def __init__(
        self,
        *,
        tolerance: float = 0.1,
        error: Error = "propagated",
        share_positions: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check(tolerance, error, share_positions)
        self.tolerance = tolerance
        self.error: Error = error
        self.share_positions = share_positions
        self.layout: Layout = ((), ())
        self.add_state("found", default=[], dist_reduce_fx="cat")
        self.add_state("samples", default=[], dist_reduce_fx="cat")

    def observe(self, network: Network, batch: Batch) -> None:
        if self.shard.index > 0:
            return
        lann = lann_complexity(
            network,
            batch.x,
            tolerance=self.tolerance,
            error=self.error,
            share_positions=self.share_positions,
            chunk=self.chunk,
        )
        scores = _scores(lann, batch.x.device)
        self.layout = scores.layout
        self.found = [*self.found, scores.table]
        self.samples = [*self.samples, torch.tensor([len(batch.x)], device=batch.x.device)]

    def measurement(self) -> Measurement:
        found, samples = dim_zero_cat(self.found), dim_zero_cat(self.samples)
        mean = (found * samples[:, None]).sum(0) / samples.sum()
        scores = Scores.of(mean, self.layout)
        return Measurement(
            scores.value,
            variants={ending: Measurement(value) for ending, value in scores.variants.items()},
            sites=scores.sites,
        )


def _scores(lann: LANN, device: torch.device) -> Scores:
    """Return the statistics of one batch, `(1,)` each."""
    units = sum(len(pieces) for pieces in lann.pieces.values())
    total = {site: float(pieces.sum()) for site, pieces in lann.pieces.items()}
    variants = {
        ".per_input": lann.complexity_per_input,
        ".pieces": sum(total.values()) / units,
        ".measured_error": lann.measured_error,
    }
    if lann.propagated_error is not None:
        variants[".propagated_error"] = lann.propagated_error

    def column(value: float) -> Tensor:
        return torch.tensor([value], device=device)

    return Scores(
        column(lann.complexity),
        variants={ending: column(value) for ending, value in variants.items()},
        sites={site: column(value) for site, value in total.items()},
    )


def _check(tolerance: float, error: Error, share_positions: bool) -> None:  # noqa: FBT001 as given
    check_number("tolerance", tolerance, lambda given: given > 0, "a positive number")
    check_word("error", error, *get_args(Error))
    check_switch("share_positions", share_positions)
