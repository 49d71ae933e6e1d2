"""Which network is measured, and how it is looked at without leaving a trace."""

from lightning_effcx.network.arguments import listed
from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import Captured, captured
from lightning_effcx.network.inputs import (
    ChooseInput,
    ChooseNetwork,
    Target,
    chosen,
    heard,
    is_target,
)
from lightning_effcx.network.nested import mapped, parts, structure
from lightning_effcx.network.observe import (
    Network,
    check_finite,
    differentiating,
    evaluate,
    in_precision,
    observing,
    owner_of,
    random_states_kept,
)
from lightning_effcx.network.recorder import Recorder
from lightning_effcx.network.state.keeping import reach_of
from lightning_effcx.network.state.lending import lent
from lightning_effcx.network.state.standins import SpentError
from lightning_effcx.network.views import as_called, at_samples, varies

__all__ = [
    "Call",
    "Captured",
    "ChooseInput",
    "ChooseNetwork",
    "Network",
    "Recorder",
    "SpentError",
    "Target",
    "as_called",
    "at_samples",
    "captured",
    "check_finite",
    "chosen",
    "differentiating",
    "evaluate",
    "heard",
    "in_precision",
    "is_target",
    "lent",
    "listed",
    "mapped",
    "observing",
    "owner_of",
    "parts",
    "random_states_kept",
    "reach_of",
    "structure",
    "varies",
]
