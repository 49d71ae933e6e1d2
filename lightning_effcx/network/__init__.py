"""The network: find what to measure, and look at it without leaving a trace."""

from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import Captured, capture_network
from lightning_effcx.network.independence import check_samples_independent
from lightning_effcx.network.inputs import (
    ChooseInput,
    ChooseNetwork,
    Target,
    choose_input,
    find_input,
    is_target,
)
from lightning_effcx.network.naming import join_words
from lightning_effcx.network.nested import describe, is_empty, map_tensors, parts
from lightning_effcx.network.observe import (
    Network,
    check_finite,
    differentiating,
    evaluate,
    keeping_random_states,
    observing,
    owner_of,
)
from lightning_effcx.network.precision import (
    NetworkInPrecision,
    in_precision,
    is_close,
    own_precision,
    to_own,
    to_precision,
)
from lightning_effcx.network.recorder import Recorder
from lightning_effcx.network.state.keeping import state_of
from lightning_effcx.network.state.replacing import replacing_tensors
from lightning_effcx.network.state.unrestorable import UnrestorableError
from lightning_effcx.network.views import (
    has_per_sample_arguments,
    select_samples,
    with_own_embedding,
)

__all__ = [
    "Call",
    "Captured",
    "ChooseInput",
    "ChooseNetwork",
    "Network",
    "NetworkInPrecision",
    "Recorder",
    "Target",
    "UnrestorableError",
    "capture_network",
    "check_finite",
    "check_samples_independent",
    "choose_input",
    "describe",
    "differentiating",
    "evaluate",
    "find_input",
    "has_per_sample_arguments",
    "in_precision",
    "is_close",
    "is_empty",
    "is_target",
    "join_words",
    "keeping_random_states",
    "map_tensors",
    "observing",
    "own_precision",
    "owner_of",
    "parts",
    "replacing_tensors",
    "select_samples",
    "state_of",
    "to_own",
    "to_precision",
    "with_own_embedding",
]
