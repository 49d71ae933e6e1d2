"""The default set: which measures the monitor takes if the user names none, as one table.

The default set should take about a tenth of the time of a small training, so it draws few paths.
The error bars tell how few (`lightning_effcx.metrics.error_bars`). On a large network it measures
less, or estimates from a sample. The name of the metric says so then.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_effcx.callbacks.facts import Facts, find_facts
from lightning_effcx.callbacks.measuring import metrics_by_name
from lightning_effcx.metrics import (
    FisherRaoNorm,
    JacobianNorm,
    LANNComplexity,
    LinearDeviation,
    LinearRegions,
    TrajectoryLength,
    Transitions,
)
from lightning_effcx.network import Network, select_samples
from lightning_effcx.paths import OriginLine, Segment

_DIRECTIONS = 16  # random directions of many outputs
_SAMPLED = Segment(count=16, points=17)  # both measures that take it together: 544 rows
_EXACT = 8  # segments whose knots are all found, which costs a row for each knot
_DEVIATING = 16  # the same for the deviation, which is skew: few segments often deviate most
_LINES = 4  # through the origin; each has several times as many knots as a segment
_ESTIMATED = 16  # segments on which knots are estimated
_KNOTS = 8  # expected on the share of such a segment in which an estimate looks for them

Make: TypeAlias = Callable[[Facts, int], Metric]
"""Makes a metric for a network, with a seed."""


@dataclass(frozen=True)
class Cut:
    """How a measure of the default set is cut for large networks.

    Attributes:
        size: Counts the outputs or the units of the network.
        most: The largest size at which nothing is cut.
        metrics: What is measured instead; nothing by default.
        note: What the user is told, with `{size}` in it.
    """

    size: Callable[[Facts], int]
    most: int
    metrics: tuple[Make, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Default:
    """A measure of the default set.

    Attributes:
        metric: Makes the metric.
        suits: Tells whether the measure suits a network.
        cut: How the measure is cut for large networks, if it is.
        note: What the user is told.
    """

    metric: Make
    suits: Callable[[Facts], bool]
    cut: Cut | None = None
    note: Callable[[Facts], str] | None = None


_OUTPUTS_CUT = Cut(
    size=lambda facts: facts.outputs,
    most=128,
    metrics=(lambda _, seed: JacobianNorm("outputs", _DIRECTIONS, seed=seed),),
    note=f"there are {{size}} outputs, so jacobian_norm takes {_DIRECTIONS} random directions of "
    "them: JacobianNorm() takes all, but needs more time.",
)
_KINKS_CUT = Cut(size=lambda facts: facts.kinked_units or 0, most=512)
_CURVES_CUT = Cut(
    size=lambda facts: facts.curved_units,
    most=512,
    note="there are {size} units, so lann_complexity is left out: LANNComplexity() measures it, "
    "but needs more time.",
)

DEFAULTS = (
    Default(
        lambda _, seed: JacobianNorm("both", seed=seed),
        suits=lambda facts: facts.has_classes,
        cut=replace(
            _OUTPUTS_CUT,
            metrics=(
                *_OUTPUTS_CUT.metrics,
                lambda _, seed: JacobianNorm("probabilities", _DIRECTIONS, seed=seed),
            ),
        ),
    ),
    Default(
        lambda _, seed: JacobianNorm("outputs", seed=seed),
        suits=lambda facts: not facts.has_classes,
        cut=_OUTPUTS_CUT,
    ),
    Default(
        lambda _, seed: FisherRaoNorm(seed=seed),
        suits=lambda facts: facts.has_classes,
        note=lambda _: "the targets are classes, so the outputs are taken for logits.",
    ),
    Default(
        lambda _, seed: FisherRaoNorm("gaussian", seed=seed),
        suits=lambda facts: not facts.has_classes,
        note=lambda facts: (
            ("there is a single output" if facts.outputs == 1 else "the targets are no classes")
            + ", so the outputs are taken for the mean of a Gaussian in fisher_rao_norm, and "
            "measures that need classes are left out."
        ),
    ),
    Default(
        lambda _, seed: Transitions(_SAMPLED, seed=seed),
        suits=lambda _: True,
    ),
    Default(
        lambda _, seed: TrajectoryLength(_SAMPLED, seed=seed),
        suits=lambda _: True,
    ),
    Default(
        lambda _, seed: LinearRegions(Segment("same", count=_EXACT, points=2), seed=seed),
        suits=lambda facts: facts.is_piecewise_linear and facts.has_classes,
        cut=_KINKS_CUT,
    ),
    Default(
        lambda _, seed: LinearRegions(Segment("different", count=_EXACT, points=2), seed=seed),
        suits=lambda facts: facts.is_piecewise_linear and facts.has_classes,
        cut=_KINKS_CUT,
    ),
    Default(
        # A line through the origin has about as many knots as the network has units.
        lambda _, seed: LinearRegions(OriginLine(count=_LINES), seed=seed),
        suits=lambda facts: facts.is_piecewise_linear,
        cut=replace(
            _KINKS_CUT,
            metrics=(
                lambda facts, seed: LinearRegions(
                    Segment(count=_ESTIMATED, points=2),
                    share=_KNOTS / (facts.kinked_units or 1),
                    seed=seed,
                ),
            ),
            note="there are {size} units, so linear regions are estimated: LinearRegions() counts "
            "them, but needs more time.",
        ),
    ),
    Default(
        lambda _, seed: LinearDeviation(Segment(count=_DEVIATING, points=2), seed=seed),
        suits=lambda facts: facts.is_piecewise_linear,
        cut=_KINKS_CUT,
    ),
    Default(
        lambda *_: LANNComplexity(),
        suits=lambda facts: facts.curved_units > 0,
        cut=_CURVES_CUT,
    ),
)

# The default sets of these networks hold every metric of the table.
_EXAMPLES = (
    Facts(has_classes=True, outputs=2, kinked_units=1),
    Facts(has_classes=True, outputs=2, kinked_units=_KINKS_CUT.most + 1),
    Facts(has_classes=True, outputs=2, curved_units=1),
    Facts(has_classes=True, outputs=_OUTPUTS_CUT.most + 1),
)


@dataclass(frozen=True)
class DefaultSet:
    """The metrics that suit a network.

    Attributes:
        metrics: By name.
        notes: Sentences for the user: what is assumed, and what was cut.
        left_out: Names of the metrics that are left out because they need a piecewise-linear
            network.
        reason: Why the network is not piecewise linear.
    """

    metrics: dict[str, Metric]
    notes: list[str]
    left_out: list[str]
    reason: str


def candidates(seed: int) -> dict[str, Metric]:
    """Return every metric that is in the default set of some network, by name."""
    found: dict[str, Metric] = {}
    for facts in _EXAMPLES:
        metrics, _ = _select(facts, seed)
        found |= {name: metric for name, metric in metrics.items() if name not in found}
    return found


def choose_metrics(
    seed: int, network: Network, x: Tensor, y: Tensor | None, outputs: Tensor
) -> DefaultSet:
    """Choose the default metrics for a network, from its outputs at samples `x` with targets `y`.

    Call it inside `observing`.
    """
    # A network may hold a mask for each sample. With the mask of the first it takes any rows.
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    facts = find_facts(select_samples(network, first), x, y, outputs)
    metrics, notes = _select(facts, seed)
    exact, _ = _select(replace(facts, kinked_units=facts.kinked_units or 0), seed)
    left_out = [name for name in exact if name not in metrics]
    return DefaultSet(metrics, notes, left_out, facts.error)


def _select(facts: Facts, seed: int) -> tuple[dict[str, Metric], list[str]]:
    """Return what the table says of a network: the metrics by name, and the notes."""
    metrics: list[Metric] = []
    notes: list[str] = []
    for default in DEFAULTS:
        if not default.suits(facts):
            continue
        cut = default.cut
        if cut is not None and (size := cut.size(facts)) > cut.most:
            metrics += [make(facts, seed) for make in cut.metrics]
            notes += [cut.note.format(size=size)] if cut.note else []
        else:
            metrics.append(default.metric(facts, seed))
        notes += [default.note(facts)] if default.note else []
    return metrics_by_name(metrics), notes
