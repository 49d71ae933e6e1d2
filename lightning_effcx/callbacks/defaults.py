"""The standard set: what the monitor measures by default of which network.

It is to take less than a tenth of the time of a small training. So there are few paths, and of
large networks less is measured, or estimated from a sample, as the names say then.
"""

from typing import NamedTuple

from torch import Tensor
from torchmetrics import Metric

from lightning_effcx.callbacks.measuring import named
from lightning_effcx.metrics import (
    FisherRaoNorm,
    JacobianNorm,
    LANNComplexity,
    LinearDeviation,
    LinearRegions,
    TrajectoryLength,
    Transitions,
)
from lightning_effcx.metrics.capacity import region_capacity
from lightning_effcx.network import Network
from lightning_effcx.paths import OriginLine, Segment
from lightning_effcx.piecewise import check_piecewise_linear
from lightning_effcx.targets import are_classes
from lightning_effcx.tracing import as_one, find_sites

_SAMPLED = Segment(count=4, points=32)
_EXACT = 3
_LINES = 2  # about as many knots each as the network has units
_MANY_OUTPUTS = 128
_DIRECTIONS = 16
_MANY_UNITS = 512
_KNOTS = 32  # at most about as many are looked for on a segment


class Suited(NamedTuple):
    """Metrics that suit a network, by name."""

    metrics: dict[str, Metric]
    why: list[str]
    """What they take for granted, in words."""
    left_out: str
    """Those that hold for piecewise-linear networks only, if this is none."""
    because: str


def candidates(seed: int) -> dict[str, Metric]:
    """Return all metrics that are in the standard set of some network."""
    return named(
        [
            JacobianNorm("both", seed=seed),
            FisherRaoNorm(seed=seed),
            Transitions(_SAMPLED, seed=seed),
            TrajectoryLength(_SAMPLED, seed=seed),
            *_counted(seed, classes=True),
            # From here on, of some networks only.
            _estimated(seed, _MANY_UNITS),
            LANNComplexity(),
            JacobianNorm("outputs", _DIRECTIONS, seed=seed),
            JacobianNorm("probabilities", _DIRECTIONS, seed=seed),
        ]
    )


def suited(seed: int, network: Network, x: Tensor, y: Tensor | None, outputs: Tensor) -> Suited:
    """Choose the metrics that suit a network, as it is at samples `x` with targets `y`."""
    classes = y is not None and are_classes(y) and outputs.shape[1] > 1
    metrics, why = _of_any(seed, outputs.shape[1], classes=classes)
    exact, left_out, because = _counted(seed, classes=classes), "", ""
    try:
        count = _bending_units(network, x)
    except Exception as error:  # noqa: BLE001 whatever it is, it is about the exact measures only
        left_out, because = ", ".join(named(exact)), str(error) or type(error).__name__
    else:
        if count > _MANY_UNITS:
            exact = [_estimated(seed, count)]
            why.append(
                f"there are {count} units, so linear regions are estimated: LinearRegions() counts "
                "them, at its cost."
            )
        metrics += exact
    try:
        count = _curved_units(network, x)
    except Exception:  # noqa: BLE001 what is wrong was said of the exact measures
        count = 0
    if count > _MANY_UNITS:
        why.append(
            f"there are {count} units, so lann_complexity is left out: LANNComplexity() measures "
            "it, at its cost."
        )
    elif count:
        metrics.append(LANNComplexity())
    return Suited(named(metrics), why, left_out, because)


def _of_any(seed: int, outputs: int, *, classes: bool) -> tuple[list[Metric], list[str]]:
    """Return what holds for every network."""
    metrics: list[Metric] = []
    directions, why = None, []
    if outputs > _MANY_OUTPUTS:
        directions = _DIRECTIONS
        why.append(
            f"there are {outputs} outputs, so jacobian_norm takes {directions} random directions "
            "of them: JacobianNorm() takes all, at its cost."
        )
    if classes:
        why.append("the targets are classes, so the outputs are taken for logits.")
        if directions is None:
            metrics.append(JacobianNorm("both", seed=seed))
        else:
            metrics.append(JacobianNorm("outputs", directions, seed=seed))
            metrics.append(JacobianNorm("probabilities", directions, seed=seed))
        metrics.append(FisherRaoNorm(seed=seed))
    else:
        reason = "there is a single output" if outputs == 1 else "the targets are no classes"
        why.append(
            f"{reason}, so the outputs are taken for the mean of a Gaussian in fisher_rao_norm, "
            "and what takes classes is left out."
        )
        metrics.append(JacobianNorm("outputs", directions, seed=seed))
        metrics.append(FisherRaoNorm("gaussian", seed=seed))
    metrics += [Transitions(_SAMPLED, seed=seed), TrajectoryLength(_SAMPLED, seed=seed)]
    return metrics, why


def _bending_units(network: Network, x: Tensor) -> int:
    """Count the units of a piecewise-linear network; raise, naming the site, for others."""
    check_piecewise_linear(network, x)
    return region_capacity(network, x[:1]).units


def _curved_units(network: Network, x: Tensor) -> int:
    """Count the units of a network with curves, if beside them there is nothing but kinks."""
    with as_one(network):
        sites = find_sites(network, x[:2]).values()
    kinds = {site.kind for site in sites}
    if "curve" not in kinds or "other" in kinds:
        return 0
    return sum(site.z.shape[1] for site in sites)


def _counted(seed: int, *, classes: bool) -> list[Metric]:
    """Return what is exact, of piecewise-linear networks."""
    between = [
        LinearRegions(Segment("same", _EXACT, points=2), seed=seed),
        LinearRegions(Segment("different", _EXACT, points=2), seed=seed),
    ]
    return [
        *(between if classes else []),
        LinearRegions(OriginLine(_LINES), seed=seed),
        LinearDeviation(Segment(count=_EXACT, points=2), seed=seed),
    ]


def _estimated(seed: int, count: int) -> Metric:
    # A line meets about one boundary for each unit.
    segments = Segment(count=_SAMPLED.count, points=2)
    return LinearRegions(segments, share=_KNOTS / count, seed=seed)
