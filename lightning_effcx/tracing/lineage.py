"""Lineage: the sites that each tensor was computed from.

A network may compute more than the outputs that are measured: a loss, the other outputs of a
structure, an auxiliary head. The measures are about the outputs alone. While a network runs, the
lineage notes the sites of every tensor. At the end, the lineage of the outputs says which sites
matter.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from lightning_effcx.tracing.operators import OperatorCall, operator_of, tensors
from lightning_effcx.tracing.places import memory_of

# Python methods that take numbers out of torch, where nobody can follow them.
_LEAVING = frozenset(
    {
        Tensor.__array__,
        Tensor.__dlpack__,
        Tensor.data_ptr,
        Tensor.numpy,
        Tensor.storage,
        Tensor.tolist,
    }
)
# Python functions that copy numbers out of a list, also numbers of tensors.
_COPYING = frozenset({torch.as_tensor, torch.asarray, torch.tensor})


class Lineage:
    """The origins of tensors. An origin is anything that the caller adds, such as a site's name.

    Views and in-place results share the memory of another tensor, so origins are noted for each
    storage. A weak reference keeps the address of a dead storage from being given to another.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, frozenset[Any]]] = {}
        self._originals: dict[int, tuple[StorageWeakRef, int]] = {}
        self.asked: frozenset[Any] = frozenset()
        """The origins of numbers that the network itself read: anything may depend on them."""

    def of(self, *arguments: Any) -> frozenset[Any]:
        """Return the origins of all tensors among the arguments."""
        found: frozenset[Any] = frozenset()
        for tensor in tensors(*arguments):
            _, origins = self._known.get(memory_of(tensor), (None, found))
            found = found | origins if origins is not found else found
        return found

    def add(self, origins: frozenset[Any], *arguments: Any) -> None:
        """Add origins to those of all tensors among the arguments."""
        for tensor in tensors(*arguments):
            memory = memory_of(tensor)
            if memory not in self._known:
                self._known[memory] = _storage(tensor), origins
            elif self._known[memory][1] != origins:
                storage, known = self._known[memory]
                self._known[memory] = storage, known | origins

    def copied(self, copy: Tensor, original: Tensor) -> None:
        """Note that a copy stands for a tensor: what is written to it is meant for the other."""
        storage = _storage(copy)
        self._originals[storage.cdata] = storage, memory_of(original)

    def add_call(self, call: OperatorCall, out: Any, origins: frozenset[Any]) -> None:
        """Note the origins of what a call returned and of what it wrote to."""
        operator = operator_of(call.func)
        if operator.is_fresh:
            return
        targets = call.written()
        self.add(origins, out, *targets)
        for target in tensors(targets):
            self._add_to_original(origins, target)
        if torch.Tag.dynamic_output_shape in call.func.tags:
            # The network may read the size of the result, which leaves no trace.
            self.asked |= self.of(_masks(call.args)) if operator.is_masked else origins
        if not any(True for _ in tensors(out)) and not call.is_in_place():
            self.asked |= origins  # such as the number that item() returns

    def _add_to_original(self, origins: frozenset[Any], copy: Tensor) -> None:
        _, original = self._originals.get(memory_of(copy), (None, 0))
        if original in self._known:
            reference, known = self._known[original]
            self._known[original] = reference, known | origins

    def read(self, argument: Any, reader: str) -> None:
        """Note that the network reads the numbers in a tensor itself."""
        del reader
        self.asked |= self.of(argument)

    def needed(self, outputs: Any) -> frozenset[Any]:
        """Return everything that the outputs may depend on."""
        return self.of(outputs) | self.asked


class Leaving(TorchFunctionMode):
    """A mode that tells which tensors the network takes out of torch.

    Args:
        read: Called with each such tensor, or a list with some, and the name of the reader.
    """

    def __init__(self, read: Callable[[Any, str], None]) -> None:
        super().__init__()
        self.read = read

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        read = args[0] if args else next(iter(kwargs.values()), None)  # the first may have a name
        if func in _LEAVING or (func in _COPYING and not isinstance(read, Tensor)):
            self.read(read, func.__name__.strip("_"))
        return func(*args, **kwargs)


def _masks(args: tuple[Any, ...]) -> list[Tensor]:
    """Return the truth values among the arguments."""
    return [tensor for tensor in tensors(args) if tensor.dtype in {torch.bool, torch.uint8}]


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())
