"""Followers: run a network and see each operation that is not affine in its input.

A follower runs every call with the arguments that the network gives it. So it is enough to know
which memory depends on the input. A pass of `piecewise` is another mode, because it inserts rows
while the network runs: each tensor, views among them, has rows of its own there, and every call
runs on other arguments. Both read calls by the same table and find origins by the same lineage.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_effcx.tracing.lineage import Lineage
from lightning_effcx.tracing.operators import (
    Operation,
    OperatorCall,
    nonlinearity,
    operator_of,
    tensors,
)
from lightning_effcx.tracing.site_names import SiteNames


class Follower(TorchDispatchMode, ABC):
    """A mode that follows what depends on `x`, and lets subclasses run what is not affine.

    Enter `names` before the follower. They say in which module an operation runs.

    Args:
        x: The input of the network.

    Attributes:
        names: The names of the sites.
        following: Whether calls are followed at all.
        lineage: The sites that each tensor comes from.
        refused: The error of each site that something is wrong with. It counts only if the outputs
            depend on the site.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = SiteNames()
        self.following = True
        # Views and in-place results share their storage, so dependence is a matter of storages. A
        # weak reference keeps the address of a dead one from being given to another.
        self.dependent: dict[int, StorageWeakRef] = {}
        self.lineage = Lineage()
        self._mark(x)
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
        call = OperatorCall(func, args, kwargs, self._depends)
        out, site = self._follow(call)
        self.lineage.add_call(call, out, origins | {site} if site else origins)
        return out

    def _follow(self, call: OperatorCall) -> tuple[Any, str]:
        if not call.operands:
            return call.run(), ""  # such as of comparisons, which are no numbers
        operation = nonlinearity(call)
        out, site = (call.run(), "") if operation is None else self.run(operation, call)
        if not operator_of(call.func).is_fresh:
            self._mark(out)
        # Some operators return nothing, but write. A buffer beside the result is no number of x.
        self._mark(call.written() if out is None else call.overwritten())
        return out, site

    def _depends(self, argument: Any) -> bool:
        if not isinstance(argument, Tensor):
            return isinstance(argument, (list, tuple)) and any(map(self._depends, argument))
        return StorageWeakRef(argument.untyped_storage()).cdata in self.dependent

    def _mark(self, out: Any) -> None:
        for tensor in tensors(out):
            # What is no number, such as a comparison, is constant between the kinks.
            if tensor.is_floating_point() or tensor.is_complex():
                reference = StorageWeakRef(tensor.untyped_storage())
                self.dependent[reference.cdata] = reference
