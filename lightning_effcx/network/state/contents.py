"""Contents: tensors, arrays and sources of random numbers, which are kept as copies."""

import pickle
import random
from array import array
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_effcx.network.state.holders import State

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Content(State):
    """A tensor's own data: its bytes, and where they lie.

    Args:
        of: The tensor.
        copies: Whether to keep a copy. Without one a change is seen, but not put back.
    """

    def __init__(self, of: Tensor) -> None:
        self.of = of
        self.copies = True

    @override
    def keep(self) -> None:
        self._data = self.of.data
        self._kept = self._read()
        self._requires_grad = self.of.requires_grad

    def _read(self) -> Tensor:
        """Return a copy of the bytes, or just their sum."""
        words = _words(self._data)
        return words.clone() if self.copies else words.sum(dtype=torch.int64)

    @override
    def restore(self) -> bool:
        differs = not _lies_as(self.of.data, self._data)
        if differs:
            self.of.data = self._data
        # Bytes, since writing through `.data` counts no version.
        if not torch.equal(_words(self._data) if self.copies else self._read(), self._kept):
            differs = True
            if self.copies:
                _words(self._data).copy_(self._kept)
        if self.of.is_leaf and self.of.requires_grad != self._requires_grad:
            differs = True
            self.of.requires_grad_(self._requires_grad)
        return differs


def has_content(tensor: Tensor) -> bool:
    """Tell whether a tensor has bytes of its own that can be kept."""
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


def _words(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes as integers, since NaN equals nothing, not even itself."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.view(_WORDS[tensor.element_size()])


class Copied(State):
    """Something whose state can be read and set as a whole."""

    def __init__(
        self,
        read: Callable[[], Any],
        write: Callable[[Any], Any],
        same: Callable[[Any, Any], bool],
    ) -> None:
        self._read, self._write, self._same = read, write, same

    @override
    def keep(self) -> None:
        self._kept = self._read()

    @override
    def restore(self) -> bool:
        differs = not self._same(self._read(), self._kept)
        if differs:
            self._write(self._kept)
        return differs


def copied(thing: Any) -> Copied | None:
    """Return how to keep an array, or a source of random numbers; nothing for others."""
    if isinstance(thing, np.random.Generator):
        thing = thing.bit_generator
    fixed = isinstance(thing, np.ndarray) and not thing.flags.writeable
    if fixed or isinstance(thing, (np.memmap, random.SystemRandom)):
        return None
    return next((way(thing) for kind, way in _WAYS.items() if isinstance(thing, kind)), None)


def _of_parts(thing: Any, every: Any, same: Callable[[Any, Any], bool]) -> Copied:
    return Copied(lambda: copy(thing), lambda kept: thing.__setitem__(every, kept), same)


def _of_bits(thing: Any) -> Copied:
    return Copied(lambda: thing.state, lambda kept: setattr(thing, "state", kept), _same_bytes)


def _same_array(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.tobytes() == other.tobytes())


def _same_bytes(one: Any, other: Any) -> bool:
    return pickle.dumps(one) == pickle.dumps(other)


_WAYS: dict[type, Callable[[Any], Copied]] = {
    np.ndarray: lambda thing: _of_parts(thing, ..., _same_array),
    bytearray: lambda thing: _of_parts(thing, slice(None), _same_bytes),
    array: lambda thing: _of_parts(thing, slice(None), _same_bytes),
    torch.Generator: lambda thing: Copied(thing.get_state, thing.set_state, torch.equal),
    random.Random: lambda thing: Copied(thing.getstate, thing.setstate, _same_bytes),
    np.random.RandomState: lambda thing: Copied(thing.get_state, thing.set_state, _same_bytes),
    np.random.BitGenerator: _of_bits,
}
