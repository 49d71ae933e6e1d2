"""The measures as pure functions of a network and samples or paths, under one name."""

from lightning_effcx.metrics.fisher_rao import FisherRao, fisher_rao_norm
from lightning_effcx.metrics.jacobian import jacobian_norm
from lightning_effcx.metrics.patterns import activation_patterns
from lightning_effcx.metrics.regions import linear_regions, transitions, transitions_per_site
from lightning_effcx.metrics.trajectory import trajectory_length

__all__ = [
    "FisherRao",
    "activation_patterns",
    "fisher_rao_norm",
    "jacobian_norm",
    "linear_regions",
    "trajectory_length",
    "transitions",
    "transitions_per_site",
]
