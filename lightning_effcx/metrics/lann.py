r"""LANN complexity: how many linear pieces it takes to approximate a network with curves.

A linear approximation neural network (LANN) $g$ has the weights of the network $f$, and in place of
the activation $\phi$ of unit $j$ of layer $i$ a piecewise-linear function of $k_{ij}$ pieces, each
a tangent of $\phi$. With as few pieces as a tolerance $\lambda$ allows for the mean absolute error
$E(g; f) = E_x[\frac{1}{c} \sum_o |g_o(x) - f_o(x)|]$ of the $c$ outputs, the complexity of $f$ is

$$C(f)_\lambda = d \sum_i \log\Bigl(\sum_j k_{ij} - m_i + 1\Bigr),$$

$d$ being the number of inputs and $m_i$ that of the units of layer $i$: the logarithm of a bound on
the regions of $g$. It is 0 where every unit is nearly linear on the data, $\log k$ for one unit
with $k$ pieces on one input. It rises as training overfits. The tolerance is in units of the
outputs, so that scaling the last layer counts; compare within one architecture and one tolerance.
Negating the weights into and out of a tanh unit changes nothing.

Tangents are added greedily, each where it lowers the bound $\sum_{ij} w_{ij} E|e_{ij}|$ on the
error most, with the errors $e_{ij}$ of the units and their amplification $w_{ij}$
(`lightning_effcx.tangents.amplification`). The bound is what is compared with the tolerance; as its
absolute weights cannot cancel, it is often several times the true error, and with weights as
initialised dozens of times. `error="measured"` compares the true error at the samples. Cost: one
pass with its graph, one backward, then the choice of tangents: some seconds for a thousand units;
if measured, a forward pass for each of some dozens of numbers of tangents, too.

Hu, Liu, Bian, Pei, "Measuring Model Complexity of Neural Networks with Curve Activation Functions",
KDD 2020: tangents, propagated error, greedy choice and complexity, for fully connected layers of
tanh or sigmoid, each unit starting with its tangent at 0. Ours: any graph of operations; curves
with other turns, where a unit starts with the tangents at those among its samples, or with the best
single one if there are none; the measured error; sharing over positions. Every site counts as a
layer. Kinked units count with their own pieces, a window of max pooling with one for each element.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.samples import check_samples
from lightning_effcx.network import Network, differentiating, observing
from lightning_effcx.options import check_count, check_number, check_switch, check_word
from lightning_effcx.tags import site_key
from lightning_effcx.tangents import (
    GreedyOrder,
    SubstitutedNetwork,
    difference,
    error_amplification,
    find_layers,
)
from lightning_effcx.tracing import as_one

Error: TypeAlias = Literal["propagated", "measured"]

_GROWTH = 1.1  # of the number of tangents, from one measurement of the error to the next


@dataclass(frozen=True, eq=False)
class LANN:
    """A network of tangents that approximates a network, and how complex it has to be.

    Attributes:
        complexity: d Σ log(Σ k - m + 1), by the natural logarithm.
        complexity_per_input: That over the number d of inputs.
        pieces: How many linear pieces each unit has, `(u,)`, by site, in order of execution.
        tangents: Where the tangents of each unit touch, a tensor for each, by site; two at a jump
            of the slope. Only of sites with curves.
        propagated_error: Bound on the error, to first order; `None` where it is not known.
        measured_error: Mean absolute difference of the outputs at the samples.
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
    """Approximate a network by tangents, and count its pieces; not differentiable.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently. For the propagated
            error a module, since its weights are made absolute.
        x: The samples. The pre-activations at all of them take memory, in float64.
        tolerance: How large the error may be, in units of the outputs.
        error: Which error: `propagated`, the bound; `measured`, the true one at the samples, looked
            at after 0, 1, 2, ... tangents and every tenth more. Those are added in the same order;
            where amplification is not known, units count alike in it.
        share_positions: Give all positions of a channel the same tangents; the channels are the
            second dimension, where there are three or more. Pieces are counted for each unit.
        candidates: At how many of its samples a unit may have tangents, by quantiles unless at all.
        chunk: Rows that the network evaluates at once.

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
            raise _without_curves(layers)
        weights = _weights(network, x, error, chunk)
        curves = [layers[name] for name in samples]
        # pop() frees the samples of a layer once they are sorted.
        greedy = GreedyOrder(
            [samples.pop(c.name).approximate(weights.get(c.name), candidates) for c in curves]
        )

        def approximate(count: int) -> SubstitutedNetwork:
            pairs = zip(curves, greedy.choose(count), strict=True)
            return SubstitutedNetwork(network, {layer.name: layer.lines(t) for layer, t in pairs})

        def measured(count: int) -> float:
            return difference(network, approximate(count), x, chunk)

        if error == "propagated":
            count = greedy.count(tolerance)
        else:
            count = next((m for m in _growing(greedy) if measured(m) <= tolerance), None)
        if count is None:
            raise ValueError(
                f"tangents at candidates={candidates} samples do not bring the error down to "
                f"tolerance={tolerance}: allow more of either."
            )
        chosen = {c.name: t for c, t in zip(curves, greedy.choose(count), strict=True)}
        pieces = {name: layer.pieces(chosen.get(name)) for name, layer in layers.items()}
        per_input = sum(math.log(float(k.sum()) - len(k) + 1) for k in pieces.values())
        return LANN(
            complexity=x[0].numel() * per_input,
            complexity_per_input=per_input,
            pieces=pieces,
            tangents={name: layers[name].points(tangents) for name, tangents in chosen.items()},
            propagated_error=greedy.error_after(count) if weights else None,
            measured_error=measured(count),
            network=approximate(count),
        )


class LANNComplexity(NetworkMetric):
    """`lann_complexity` of the samples of a batch; averaged over batches by their size.

    The pre-activations of all samples are wanted together, so that batches are measured apart: give
    all samples at once where you can, as `ComplexityMonitor` does. The choice of tangents cannot be
    split either: shard 0 measures alone, the others add nothing. Beside the value there are

    * `.per_input`: the complexity over the number of inputs;
    * `.pieces`: pieces per unit, and `/<site>` those at a site, summed;
    * `.measured_error` and, where it is known, `.propagated_error`.

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
        self.keys: tuple[str, ...] = ()
        self.add_state("found", default=[], dist_reduce_fx="cat")
        self.add_state("samples", default=[], dist_reduce_fx="cat")

    def update(self, network: Network, x: Tensor, y: Tensor | None = None) -> None:
        """Approximate the network as it is now at the samples `x`, `(n, ...)`."""
        del y
        if self.shard.index > 0:
            return
        with observing(network):
            lann = lann_complexity(
                network,
                x.detach().clone(),
                tolerance=self.tolerance,
                error=self.error,
                share_positions=self.share_positions,
                chunk=self.chunk,
            )
        units = sum(len(pieces) for pieces in lann.pieces.values())
        total = sum(float(pieces.sum()) for pieces in lann.pieces.values())
        values = {
            self.name: lann.complexity,
            f"{self.name}.per_input": lann.complexity_per_input,
            f"{self.name}.pieces": total / units,
            f"{self.name}.measured_error": lann.measured_error,
        }
        if lann.propagated_error is not None:
            values[f"{self.name}.propagated_error"] = lann.propagated_error
        for site, pieces in lann.pieces.items():
            values[site_key(self.name, site)] = float(pieces.sum())
        self.keys = tuple(values)
        with torch.inference_mode(False):
            self.found = [*self.found, torch.tensor([list(values.values())], device=x.device)]
            self.samples = [*self.samples, torch.tensor([len(x)], device=x.device)]

    def compute(self) -> dict[str, Tensor]:
        """Average what was found in each batch, by how many samples it had."""
        found, samples = dim_zero_cat(self.found), dim_zero_cat(self.samples)
        mean = (found * samples[:, None]).sum(0) / samples.sum()
        return dict(zip(self.keys, mean, strict=True))


def _check(tolerance: float, error: Error, share_positions: bool) -> None:  # noqa: FBT001 as given
    check_number("tolerance", tolerance, lambda given: given > 0, "a positive number")
    check_word("error", error, *get_args(Error))
    check_switch("share_positions", share_positions)


def _without_curves(found: Collection[str]) -> ValueError:
    if found:
        return ValueError(
            "every unit of this network is piecewise linear already, so there is nothing to "
            "approximate: measure linear_regions instead."
        )
    return ValueError(
        "this network has no nonlinear units, so there is nothing to approximate: measure "
        "jacobian_norm instead."
    )


def _weights(network: Network, x: Tensor, error: Error, chunk: int) -> dict[str, Tensor]:
    """Return the amplification of the units; nothing where it is neither known nor needed."""
    try:
        return error_amplification(network, x, chunk=chunk)
    except ValueError:
        if error == "propagated":
            raise
        return {}


def _growing(greedy: GreedyOrder) -> Iterator[int]:
    """Return numbers of tangents to measure the error after, whatever the tolerance is."""
    count = 0
    while greedy.reach(count):
        yield count
        count = max(count + 1, int(count * _GROWTH))
    yield len(greedy.gains)
