"""The measures as torchmetrics, which `ComplexityMonitor` computes at every validation."""

from lightning_effcx.metrics.base import NetworkMetric
from lightning_effcx.metrics.boundary_density import BoundaryDensity
from lightning_effcx.metrics.boundary_distance import BoundaryDistance
from lightning_effcx.metrics.capacity import CapacityGap
from lightning_effcx.metrics.deviation import LinearDeviation
from lightning_effcx.metrics.emc import EffectiveModelComplexity
from lightning_effcx.metrics.fisher_rao import FisherRaoNorm
from lightning_effcx.metrics.jacobian import JacobianNorm
from lightning_effcx.metrics.lann import LANNComplexity
from lightning_effcx.metrics.mimic import MimicGap
from lightning_effcx.metrics.path_metric import PathMetric
from lightning_effcx.metrics.patterns import ActivationPatterns
from lightning_effcx.metrics.regions import LinearRegions
from lightning_effcx.metrics.sample_metric import SampleMetric
from lightning_effcx.metrics.training_error import TrainingError
from lightning_effcx.metrics.trajectory import TrajectoryGrowth, TrajectoryLength
from lightning_effcx.metrics.transitions import Transitions

__all__ = [
    "ActivationPatterns",
    "BoundaryDensity",
    "BoundaryDistance",
    "CapacityGap",
    "EffectiveModelComplexity",
    "FisherRaoNorm",
    "JacobianNorm",
    "LANNComplexity",
    "LinearDeviation",
    "LinearRegions",
    "MimicGap",
    "NetworkMetric",
    "PathMetric",
    "SampleMetric",
    "TrainingError",
    "TrajectoryGrowth",
    "TrajectoryLength",
    "Transitions",
]
