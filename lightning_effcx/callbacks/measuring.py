"""Measuring: the names of the monitor's metrics, and one measurement with each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_effcx.callbacks.distributed import rank, share_errors, world_size
from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.shard import Shard
from lightning_effcx.network import Network, map_tensors
from lightning_effcx.tags import Tag, check_name, dotted, of_foreign_key, variant_of


def metrics_by_name(metrics: Any) -> dict[str, Metric]:
    """Return the metrics by name. Refuse what is not a metric, or has no name."""
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
            raise ValueError(f"two metrics are named {name!r}: give them your own names in a dict.")
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


def declared_names(name: str, metric: Metric) -> list[str]:
    """Return the names of a metric's values that are known before the first measurement.

    Args:
        name: The name of the metric in the tags.
        metric: The metric.
    """
    variants = metric.variants if isinstance(metric, NetworkMetric) else ()
    return [name, *(variant_of(name, ending) for ending in variants)]


def memory(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """Return what our metrics remember over resets, by the names of the metrics.

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


def restore_memory(metrics: Mapping[str, Metric], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Restore what our metrics remembered. Attributes that they do not know are left out."""
    known = {dotted(name): attributes for name, attributes in known.items()}  # any version's names
    for name, own in memory(metrics).items():
        metrics[name].reset()  # a measurement under way belongs to the old memory
        for attribute in own.keys() & known.get(name, {}).keys():
            setattr(metrics[name], attribute, known[name][attribute])


def measure(
    name: str, metric: Metric, network: Network, x: Tensor, y: Tensor | None
) -> dict[Tag, float]:
    """Measure afresh, and return the values by their tags.

    In a distributed training the processes split the work of our metrics. A metric of the user gets
    all samples on every process, and is not synchronized.

    Args:
        name: The name of the metric in the tags.
        metric: The metric, which is reset before and after.
        network: The network.
        x: The samples.
        y: Their targets, if there are any.
    """
    # A state that is made in inference mode cannot be added to later.
    with torch.inference_mode(False):
        metric.reset()
        if isinstance(metric, NetworkMetric):
            found = _measure_together(name, metric, network, x, y)
        else:
            found = _measure_alone(name, metric, network, x, y)
        metric.reset()
    for tag, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"its {'value' if tag == Tag(name) else tag.key} is {value}.")
    return found


def _measure_together(
    name: str, metric: NetworkMetric, network: Network, x: Tensor, y: Tensor | None
) -> dict[Tag, float]:
    """Measure a shard on each process, and join the shards on the first."""
    metric.shard = Shard(rank(), of=world_size())

    def update() -> dict[str, Any]:
        metric.update(network, x, y)
        return metric.metric_state

    _, *others = share_errors(update)

    def join() -> dict[Tag, float]:
        if rank() > 0:
            return {}
        for state in others:
            metric.merge_state(map_tensors(state, lambda _, tensor: tensor.to(metric.device)))
        return {tag: float(value) for tag, value in metric.measurement().tagged(name).items()}

    found, *_ = share_errors(join)
    return found


def _measure_alone(
    name: str, metric: Metric, network: Network, x: Tensor, y: Tensor | None
) -> dict[Tag, float]:
    """Measure with a metric of the user on each process, and return what the first found."""

    def work() -> dict[Tag, float]:
        metric.update(network, x, y)
        synchronizes, metric.distributed_available_fn = metric.distributed_available_fn, _alone
        try:
            found = metric.compute()
        finally:
            metric.distributed_available_fn = synchronizes
        if isinstance(found, Tensor):
            return {Tag(name): float(found)}
        own_name = str(getattr(metric, "name", ""))
        return {of_foreign_key(name, key, own_name): float(v) for key, v in found.items()}

    found, *_ = share_errors(work)
    return found


def _alone() -> bool:
    return False
