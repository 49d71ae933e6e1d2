"""The measures as pure functions of a network and samples or paths."""

from lightning_effcx.metrics.boundary_density import boundary_density
from lightning_effcx.metrics.boundary_distance import (
    NearestBoundaries,
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
from lightning_effcx.metrics.regions import linear_regions
from lightning_effcx.metrics.regions_estimate import estimated_linear_regions
from lightning_effcx.metrics.shallow_student import ShallowStudent
from lightning_effcx.metrics.student_fit import fit_student
from lightning_effcx.metrics.trajectory import trajectory_length
from lightning_effcx.metrics.transitions import transitions, transitions_per_site

__all__ = [  # noqa: RUF022 EMC and LANN are classes, not constants
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
