"""All metrics that measure a network."""

import inspect

from lightning_effcx import metrics

# Metrics of a network. What trainings are told to, `EffectiveModelComplexity`, sees none.
CONCRETE = [
    metric
    for metric in (getattr(metrics, name) for name in metrics.__all__)
    if issubclass(metric, metrics.NetworkMetric) and not inspect.isabstract(metric)
]
