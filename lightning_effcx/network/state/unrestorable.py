"""Iterators, open files and connections: objects that cannot be put back once they are used.

While a network is measured it holds a substitute for each of them. If the object can be copied, the
substitute is a copy. Otherwise it is a tripwire, which raises at its first use, before anything has
changed.
"""

import io
import pickle
import socket
import sys
import warnings
from collections.abc import Coroutine, Iterator
from typing import Any, Never

import torch
from torch import Tensor
from typing_extensions import override

_LONGEST = 2**24  # bytes that a copy is made of
# Operations that Python looks up in the class.
_OPERATIONS = (
    "next iter call len getitem setitem delitem contains enter exit aiter anext await reversed "
    "add radd iadd sub rsub mul rmul matmul truediv floordiv mod pow neg and or xor invert "
    "lt le gt ge int float index array copy deepcopy reduce_ex"
).split()


class UnrestorableError(ValueError):
    """The network uses an object that cannot be put back."""


class Tripwire:
    """Raises at its first use, and names the object that it replaces.

    Args:
        name: Where the network holds that object.
        kind: The class of that object.
    """

    def __init__(self, name: str, kind: str) -> None:
        self._effcx = name, kind

    def __getattr__(self, _: str) -> Never:
        self._raise()

    def _raise(self) -> Never:
        name, kind = self._effcx
        raise UnrestorableError(
            f"the network uses {name!r} ({kind}), which cannot be put back as it was, so that "
            "measuring would change the training: leave it out with network=, the name of a part "
            "or a function (module, x) -> outputs that does not use it"
        )


def _tripping(self: Tripwire, *_: Any, **__: Any) -> Never:
    self._raise()


for _operation in _OPERATIONS:
    setattr(Tripwire, f"__{_operation}__", _tripping)


def is_unrestorable(value: Any) -> bool:
    """Return whether an object is an iterator, a generator, a file or a connection."""
    # The standard streams need not be put back.
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(value, (Iterator, Coroutine, io.IOBase, socket.socket)) and not any(
        value is stream for stream in streams
    )


def substitute(name: str, value: Any) -> Any:
    """Return what the network holds in place of an object while it is measured."""
    if isinstance(value, Tensor):  # made in inference mode, such as a cached table: no autograd
        with torch.inference_mode(False):
            return value.clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copying iterators is deprecated in Python
            return _copy(value)
    except Exception:  # noqa: BLE001 an object of any class may refuse to be copied
        return Tripwire(name, type(value).__name__)


def _copy(value: Any) -> Any:
    """Copy an iterator of Python's own. What it iterates over must be small and Python's own."""
    file = _ShortFile()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return pickle.loads(file.getvalue())  # noqa: S301 it was written in the line above


class _ShortFile(io.BytesIO):
    """Raises if too much is written to it."""

    @override
    def write(self, data: Any) -> int:
        if self.tell() > _LONGEST:
            raise ValueError("it is too long to be copied")
        return super().write(data)


class _Pickler(pickle.Pickler):
    """Refuses objects that are not Python's own, such as the data behind an iterator."""

    @override
    def reducer_override(self, obj: Any) -> Any:
        kind = obj if isinstance(obj, type) else type(obj)
        if kind.__module__ not in {"builtins", "itertools", "collections", "_io"}:
            raise ValueError(f"a {kind.__name__} is not copied")
        return NotImplemented
