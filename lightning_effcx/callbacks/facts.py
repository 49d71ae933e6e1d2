"""Facts: what decides which measures suit a network, found by a few evaluations."""

from contextlib import suppress
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_effcx.metrics.capacity import region_capacity
from lightning_effcx.network import Network
from lightning_effcx.piecewise import check_piecewise_linear
from lightning_effcx.targets import are_classes
from lightning_effcx.tracing import as_one, find_sites


@dataclass(frozen=True)
class Facts:
    """What decides which measures suit a network.

    Attributes:
        has_classes: Whether the targets are classes. The outputs are taken for their logits then.
        outputs: The number of outputs.
        kinked_units: The number of units if the network is piecewise linear, otherwise None.
        curved_units: The number of units if every site is a curve or a kink, and at least one is a
            curve; otherwise 0.
        error: Why the network is not piecewise linear, if it is not.
    """

    has_classes: bool
    outputs: int
    kinked_units: int | None = None
    curved_units: int = 0
    error: str = ""

    @property
    def is_piecewise_linear(self) -> bool:
        """Whether linear regions can be counted."""
        return self.kinked_units is not None


def find_facts(network: Network, x: Tensor, y: Tensor | None, outputs: Tensor) -> Facts:
    """Find the facts about a network, from its outputs at samples `x` with targets `y`.

    Call it inside `observing`.
    """
    has_classes = y is not None and are_classes(y) and outputs.shape[1] > 1
    facts = Facts(has_classes, outputs.shape[1])
    try:
        facts = replace(facts, kinked_units=_count_kinked_units(network, x))
    except Exception as error:  # noqa: BLE001 whatever it is, only the exact measures need this
        facts = replace(facts, error=str(error) or type(error).__name__)
    with suppress(Exception):  # the error above says what is wrong
        facts = replace(facts, curved_units=_count_curved_units(network, x))
    return facts


def _count_kinked_units(network: Network, x: Tensor) -> int:
    """Count the units of a piecewise-linear network; raise for others, and name the site."""
    check_piecewise_linear(network, x)
    return region_capacity(network, x[:1]).units


def _count_curved_units(network: Network, x: Tensor) -> int:
    """Count the units of a network whose sites are curves, or curves and kinks."""
    with as_one(network):
        sites = find_sites(network, x[:2]).values()
    kinds = {site.kind for site in sites}
    if "curve" not in kinds or "other" in kinds:
        return 0
    return sum(site.z.shape[1] for site in sites)
