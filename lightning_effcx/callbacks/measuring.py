"""Selection: what the metrics that the monitor computes are called, and what they find."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_effcx.callbacks.distributed import rank, share_errors, world
from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.shard import Shard
from lightning_effcx.network import Network, map_tensors
from lightning_effcx.tags import check_name, dotted


def named(metrics: Any) -> dict[str, Metric]:
    """Return metrics by name, or say in one sentence which of them is none, or has none."""
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    elif isinstance(metrics, Sequence) and not isinstance(metrics, str):
        pairs = [(str(getattr(metric, "name", "")), metric) for metric in metrics]
    else:
        raise TypeError(f"metrics={metrics!r}: expected a list or a dict of metrics.")
    found: dict[str, Metric] = {}
    for name, metric in pairs:
        _check(name, metric)
        if name in found:
            raise ValueError(
                f"two metrics are named {name!r}: give them names of your own in a dict."
            )
        found[name] = metric
    return found


def _check(name: str, metric: Any) -> None:
    if isinstance(metric, type):
        raise TypeError(
            f"metrics has the class {metric.__name__}, expected an instance: "
            f"write {metric.__name__}()."
        )
    if not isinstance(metric, Metric):
        raise TypeError(f"metrics has {metric!r}, expected a torchmetrics.Metric.")
    if not name:
        raise ValueError(
            f"{type(metric).__name__} has no name of its own: pass it in a dict, "
            "such as {'my_measure': ...}."
        )
    check_name(name)


def declared(metric: Metric) -> tuple[str, ...]:
    """Return which of a metric's values are known before they come, by what follows its name."""
    return ("", *getattr(metric, "beside", ()))


def memory(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """Return what our metrics remember over resets, by their names; nothing of those of the user.

    Example:
        >>> from lightning_effcx.metrics import JacobianNorm, TrainingError
        >>> error = TrainingError((torch.eye(2), torch.arange(2)))
        >>> memory({"norm": JacobianNorm(), "error": error})
        {'error': {'measured': 0, 'since': None}}
    """
    return {
        name: {attribute: getattr(metric, attribute) for attribute in metric.remembered}
        for name, metric in metrics.items()
        if isinstance(metric, NetworkMetric) and metric.remembered
    }


def remember(metrics: Mapping[str, Metric], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Let our metrics go on from what they remembered; what they do not know is left out."""
    known = {dotted(name): attributes for name, attributes in known.items()}  # of any version
    for name, own in memory(metrics).items():
        metrics[name].reset()  # what is under way belongs to what it remembered until now
        for attribute in own.keys() & known.get(name, {}).keys():
            setattr(metrics[name], attribute, known[name][attribute])


def measure(metric: Metric, network: Network, x: Tensor, y: Tensor | None) -> dict[str, float]:
    """Measure afresh; return what was found, by what follows the metric's name in its keys.

    The processes of a distributed training share the work of our metrics. Those of the user are
    given everything on every process, and are not synchronized.
    """
    shared = isinstance(metric, NetworkMetric)
    if shared:
        metric.shard = Shard(rank(), of=world())

    def updated() -> dict[str, Any]:
        metric.update(network, x, y)
        return metric.metric_state if shared else {}

    def computed() -> dict[str, float]:
        if shared and rank() > 0:
            return {}
        for state in others if shared else ():
            metric.merge_state(map_tensors(state, lambda _, tensor: tensor.to(metric.device)))
        return _by_ending(metric)

    with torch.inference_mode(False):  # a state made in inference mode could not be added to later
        metric.reset()
        _, *others = share_errors(updated)
        found, *_ = share_errors(computed)
        metric.reset()
    for key, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"its {key.strip('_./') or 'value'} is {value}.")
    return found


def _by_ending(metric: Metric) -> dict[str, float]:
    synchronizes, metric.distributed_available_fn = metric.distributed_available_fn, _alone
    try:
        found = metric.compute()
    finally:
        metric.distributed_available_fn = synchronizes
    own = str(getattr(metric, "name", ""))
    if isinstance(found, Tensor):  # a metric of the user's, as its dictionaries may be
        found = {own: found}
    endings = {key: _ending(key.removeprefix(own)) for key in found}
    if not isinstance(metric, NetworkMetric):  # whose slashes stand before sites
        endings = {key: dotted(ending) for key, ending in endings.items()}
    return {endings[key]: float(value) for key, value in found.items()}


def _alone() -> bool:
    return False


def _ending(key: str) -> str:
    return key if not key or key[0] in "_./" else f"_{key}"
