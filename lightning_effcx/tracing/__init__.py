"""What a network does, operation by operation."""

from lightning_effcx.tracing.custom_activations import as_one
from lightning_effcx.tracing.dispatch import Follower
from lightning_effcx.tracing.lineage import Leaving, Lineage
from lightning_effcx.tracing.operators import (
    Operation,
    OperatorCall,
    check_continuous,
    keeps_samples_apart,
    nonlinearity,
    only_reshapes,
    operator_of,
    returns_views,
    tensors,
)
from lightning_effcx.tracing.places import SamplePlace, by_sample, join_samples, separate_samples
from lightning_effcx.tracing.refusals import (
    RefusedError,
    becoming_infinite,
    choose_refusal,
    deciding,
    jumping,
    losing_digits,
    mixing,
    tying,
    writing,
)
from lightning_effcx.tracing.site_names import SiteNames, without_wrappers
from lightning_effcx.tracing.sites import Site
from lightning_effcx.tracing.units import check_numbers, find_sites, listen, without_units

__all__ = [
    "Follower",
    "Leaving",
    "Lineage",
    "Operation",
    "OperatorCall",
    "RefusedError",
    "SamplePlace",
    "Site",
    "SiteNames",
    "as_one",
    "becoming_infinite",
    "by_sample",
    "check_continuous",
    "check_numbers",
    "choose_refusal",
    "deciding",
    "find_sites",
    "join_samples",
    "jumping",
    "keeps_samples_apart",
    "listen",
    "losing_digits",
    "mixing",
    "nonlinearity",
    "only_reshapes",
    "operator_of",
    "returns_views",
    "separate_samples",
    "tensors",
    "tying",
    "without_units",
    "without_wrappers",
    "writing",
]
