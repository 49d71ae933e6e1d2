"""What a network does, operation by operation."""

from lightning_effcx.tracing.batches import mixes_samples
from lightning_effcx.tracing.custom_activations import as_one
from lightning_effcx.tracing.dispatch import Follower
from lightning_effcx.tracing.lineage import Leaving, Lineage
from lightning_effcx.tracing.operators import (
    FRESH,
    Operation,
    check_continuous,
    nonlinearity,
    tensors,
    written,
)
from lightning_effcx.tracing.refusals import (
    CurveError,
    RefusedError,
    deciding,
    mixing,
    writing_into_a_part,
)
from lightning_effcx.tracing.site_names import SiteNames, without_wrappers
from lightning_effcx.tracing.units import Site, find_sites, listen, without_units

__all__ = [
    "FRESH",
    "CurveError",
    "Follower",
    "Leaving",
    "Lineage",
    "Operation",
    "RefusedError",
    "Site",
    "SiteNames",
    "as_one",
    "check_continuous",
    "deciding",
    "find_sites",
    "listen",
    "mixes_samples",
    "mixing",
    "nonlinearity",
    "tensors",
    "without_units",
    "without_wrappers",
    "writing_into_a_part",
    "written",
]
