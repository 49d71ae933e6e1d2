"""The measures as torchmetrics: what `ComplexityMonitor` computes at every validation."""

from lightning_effcx.metrics.base import PathMetric, SampleMetric
from lightning_effcx.metrics.fisher_rao import FisherRaoNorm
from lightning_effcx.metrics.jacobian import JacobianNorm
from lightning_effcx.metrics.patterns import ActivationPatterns
from lightning_effcx.metrics.regions import LinearRegions, Transitions
from lightning_effcx.metrics.trajectory import TrajectoryLength

__all__ = [
    "ActivationPatterns",
    "FisherRaoNorm",
    "JacobianNorm",
    "LinearRegions",
    "PathMetric",
    "SampleMetric",
    "TrajectoryLength",
    "Transitions",
]
