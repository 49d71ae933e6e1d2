"""Follow: run a network and see each operation that is not linear in what depends on the input."""

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_effcx.tracing.lineage import Lineage
from lightning_effcx.tracing.operators import FRESH, Operation, nonlinearity, tensors
from lightning_effcx.tracing.site_names import SiteNames


class Follower(TorchDispatchMode):
    """Sees every operation, follows what depends on `x`, and is asked to run what is not linear.

    Enter `names` before it, which says in which module an operation runs.
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
        """What is wrong with a site, which counts only if the outputs depend on it."""

    def needed(self, outputs: Tensor) -> frozenset[str]:
        """Return the sites that the outputs depend on, or say what is wrong with one of them."""
        needed = self.lineage.needed(outputs)
        for site, error in self.refused.items():
            if site in needed:
                raise error
        return needed

    @abstractmethod
    def run(
        self, operation: Operation, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, str]:
        """Return what is to leave a nonlinear operation, and the name of the site if it is one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        origins = self.lineage.of(args, kwargs)
        if not self.following or not origins:
            return func(*args, **kwargs)
        out, site = self._followed(func, args, kwargs)
        self.lineage.ran(func, args, kwargs, out, origins | {site} if site else origins)
        return out

    def _followed(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, str]:
        if not any(map(self._depends, tensors(args, kwargs))):
            return func(*args, **kwargs), ""  # such as of comparisons, which are no numbers
        operation = nonlinearity(func, args, kwargs, self._depends)
        if operation is None:
            out, site = func(*args, **kwargs), ""
        else:
            out, site = self.run(operation, func, args, kwargs)
        if func.overloadpacket.__name__ not in FRESH:
            self._mark(out)
        if func._schema.is_mutable:  # noqa: SLF001
            self._mark(args[0])
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
