"""Data: tensors, arrays and generators of random numbers, which are kept as copies."""

import pickle
import random
from array import array
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_effcx.network.state.containers import State

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Kept(NamedTuple):
    """A tensor's memory as it was, a copy or the sum of its bytes, and whether it was trained."""

    data: Tensor
    content: Tensor
    requires_grad: bool


class TensorData(State):
    """The bytes of a tensor, and where they lie in memory.

    Args:
        of: The tensor.
        copies: Whether to keep a copy. Without one a change is noticed, but cannot be put back.
    """

    def __init__(self, of: Tensor, *, copies: bool = True) -> None:
        self.of = of
        self.copies = copies

    @override
    def read(self) -> _Kept:
        return _Kept(self.of.data, self._content(self.of.data), self.of.requires_grad)

    def _content(self, data: Tensor) -> Tensor:
        """Return a copy of the bytes, or only their sum."""
        numbers = _as_integers(data)
        return numbers.clone() if self.copies else numbers.sum(dtype=torch.int64)

    @override
    def restore(self, kept: _Kept) -> bool:
        differs = not _lies_as(self.of.data, kept.data)
        if differs:
            self.of.data = kept.data
        # The bytes are compared, since a write through `.data` raises no version counter.
        now = _as_integers(kept.data) if self.copies else self._content(kept.data)
        if not torch.equal(now, kept.content):
            differs = True
            if self.copies:
                _as_integers(kept.data).copy_(kept.content)
        if self.of.is_leaf and self.of.requires_grad != kept.requires_grad:
            differs = True
            self.of.requires_grad_(kept.requires_grad)
        return differs


def has_data(tensor: Tensor) -> bool:
    """Return whether a tensor has bytes of its own that can be kept."""
    is_plain = type(tensor) in {Tensor, nn.Parameter} and tensor.layout == torch.strided
    is_other = tensor.is_meta or tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001 no public one
    return is_plain and not is_other and not wrapped and not tensor.is_nested


def _lies_as(one: Tensor, other: Tensor) -> bool:
    return all(
        how(one) == how(other)
        for how in (
            Tensor.data_ptr,
            Tensor.stride,
            lambda tensor: (tensor.shape, tensor.dtype, tensor.device),
        )
    )


def _as_integers(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes as integers, because NaN does not equal itself."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.view(_INTEGERS[tensor.element_size()])


class CopiedData(State):
    """Data that is read as one copy and written back as a whole."""

    def __init__(
        self,
        read: Callable[[], Any],
        write: Callable[[Any], Any],
        same: Callable[[Any, Any], bool],
    ) -> None:
        self._read, self._write, self._same = read, write, same

    @override
    def read(self) -> Any:
        return self._read()

    @override
    def restore(self, kept: Any) -> bool:
        differs = not self._same(self._read(), kept)
        if differs:
            self._write(kept)
        return differs


def copied_data(thing: Any) -> CopiedData | None:
    """Return how to keep an array or a generator of random numbers; `None` for anything else."""
    if isinstance(thing, np.random.Generator):
        thing = thing.bit_generator
    fixed = isinstance(thing, np.ndarray) and not thing.flags.writeable
    if fixed or isinstance(thing, (np.memmap, random.SystemRandom)):
        return None
    return next((make(thing) for kind, make in _KINDS.items() if isinstance(thing, kind)), None)


def _elements(thing: Any, every: Any, same: Callable[[Any, Any], bool]) -> CopiedData:
    return CopiedData(lambda: copy(thing), lambda kept: thing.__setitem__(every, kept), same)


def _bit_generator(thing: Any) -> CopiedData:
    return CopiedData(lambda: thing.state, lambda kept: setattr(thing, "state", kept), _same_pickle)


def _same_array(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.tobytes() == other.tobytes())


def _same_pickle(one: Any, other: Any) -> bool:
    return pickle.dumps(one) == pickle.dumps(other)


_KINDS: dict[type, Callable[[Any], CopiedData]] = {
    np.ndarray: lambda thing: _elements(thing, ..., _same_array),
    bytearray: lambda thing: _elements(thing, slice(None), _same_pickle),
    array: lambda thing: _elements(thing, slice(None), _same_pickle),
    torch.Generator: lambda thing: CopiedData(thing.get_state, thing.set_state, torch.equal),
    random.Random: lambda thing: CopiedData(thing.getstate, thing.setstate, _same_pickle),
    np.random.RandomState: lambda thing: CopiedData(thing.get_state, thing.set_state, _same_pickle),
    np.random.BitGenerator: _bit_generator,
}
