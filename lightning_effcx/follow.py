"""Follow: run a network and see each operation that is not linear in what depends on the input."""

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_effcx.operations import FRESH, Operation, nonlinearity, tensors
from lightning_effcx.sites import SiteNames


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
        self._mark(x)

    @abstractmethod
    def run(
        self, operation: Operation, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return what is to leave a nonlinear operation."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if not self.following or not any(map(self._depends, tensors(args, kwargs))):
            return func(*args, **kwargs)
        operation = nonlinearity(func, args, kwargs, self._depends)
        if operation is None:
            out = func(*args, **kwargs)
        else:
            out = self.run(operation, func, args, kwargs)
        if func.overloadpacket.__name__ not in FRESH:
            self._mark(out)
        if func._schema.is_mutable:  # noqa: SLF001
            self._mark(args[0])
        return out

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
