"""Followers: run a network and see each operation that is not affine in its input.

A follower runs every call with the arguments that the network gives it. So it is enough to know
which memory depends on the input, and where the samples lie in it. A pass of `piecewise` is another
mode, because it inserts rows while the network runs. There each tensor has rows of its own, also a
view, and every call runs on other arguments. Both modes read calls by the same table and find
origins by the same lineage.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_effcx.tracing.lineage import Lineage
from lightning_effcx.tracing.operators import Operation, OperatorCall, operator_of
from lightning_effcx.tracing.sample_places import SamplePlaces
from lightning_effcx.tracing.site_names import SiteNames
from lightning_effcx.tracing.step_memory import StepMemory


class Follower(TorchDispatchMode, ABC):
    """A mode that follows what depends on `x`, and lets subclasses run what is not affine.

    Enter `names` before the follower. They say in which module an operation runs.

    Args:
        x: The input of the network.

    Attributes:
        names: The names of the sites.
        following: Whether calls are followed at all.
        places: What depends on `x`, and where its samples lie.
        steps: What jumps at kinks, and is constant elsewhere.
        lineage: The sites that each tensor comes from.
        refused: The error of each site that something is wrong with. It counts only if the outputs
            depend on the site.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = SiteNames()
        self.following = True
        self.places = SamplePlaces(x)
        self.steps = StepMemory()
        self.lineage = Lineage()
        self.lineage.add(frozenset({"input"}), x)
        self.refused: dict[str, ValueError] = {}

    def needed(self, outputs: Tensor) -> frozenset[str]:
        """Return the sites that the outputs depend on; raise the error of a refused one."""
        needed = self.lineage.needed(outputs)
        for site, error in self.refused.items():
            if site in needed:
                raise error
        return needed

    @abstractmethod
    def run(self, operation: Operation, call: OperatorCall) -> tuple[Any, str]:
        """Run a nonlinear call; return its result, and the name of its site if it is one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        origins = self.lineage.of(args, kwargs)
        if not self.following or not origins:
            return func(*args, **kwargs)
        call = OperatorCall(func, args, kwargs, self.places.depends)
        out, site = self._follow(call)
        self.lineage.add_call(call, out, origins | {site} if site else origins)
        return out

    def _follow(self, call: OperatorCall) -> tuple[Any, str]:
        if not call.operands:
            return call.run(), ""  # such as of comparisons, which are no numbers
        operation = self.steps.read(call)
        out, site = (call.run(), "") if operation is None else self.run(operation, call)
        if not operator_of(call.func).is_fresh:
            self.places.note(call, out)
            self.steps.note(call, out)
        return out, site
