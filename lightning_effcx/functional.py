"""The measures as pure functions of a network and samples or paths, under one name."""

from lightning_effcx.metrics.boundary import (
    NearestBoundaries,
    boundary_density,
    boundary_distance,
    boundary_distance_per_site,
    nearest_boundaries,
)
from lightning_effcx.metrics.capacity import Capacity, region_capacity
from lightning_effcx.metrics.deviation import linear_deviation
from lightning_effcx.metrics.emc import EMC, observed_emc
from lightning_effcx.metrics.fisher_rao import FisherRao, fisher_rao_norm
from lightning_effcx.metrics.jacobian import jacobian_norm
from lightning_effcx.metrics.lann import LANN, lann_complexity
from lightning_effcx.metrics.mimic import Fidelity, mimic_gap
from lightning_effcx.metrics.patterns import activation_patterns
from lightning_effcx.metrics.regions import (
    estimated_linear_regions,
    linear_regions,
    transitions,
    transitions_per_site,
)
from lightning_effcx.metrics.shallow_student import ShallowStudent, fit_student
from lightning_effcx.metrics.trajectory import trajectory_length

__all__ = [  # noqa: RUF022 EMC and LANN are no constants
    "Capacity",
    "EMC",
    "Fidelity",
    "FisherRao",
    "LANN",
    "NearestBoundaries",
    "ShallowStudent",
    "activation_patterns",
    "boundary_density",
    "boundary_distance",
    "boundary_distance_per_site",
    "estimated_linear_regions",
    "fisher_rao_norm",
    "fit_student",
    "jacobian_norm",
    "lann_complexity",
    "linear_deviation",
    "linear_regions",
    "mimic_gap",
    "nearest_boundaries",
    "observed_emc",
    "region_capacity",
    "trajectory_length",
    "transitions",
    "transitions_per_site",
]
