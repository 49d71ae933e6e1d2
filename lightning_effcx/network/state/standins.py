"""Stand-ins: what a network holds for a time in place of what it would spend.

An iterator, an open file or a connection cannot be put back once it is used. Where it can be
copied, a copy stands in for it. Else a tripwire does, which raises before anything has changed.
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

_LONG = 2**24  # bytes of what a copy is made of
# Operations that Python looks up in the class.
_OPERATIONS = (
    "next iter call len getitem setitem delitem contains enter exit aiter anext await reversed "
    "add radd iadd sub rsub mul rmul matmul truediv floordiv mod pow neg and or xor invert "
    "lt le gt ge int float index array copy deepcopy reduce_ex"
).split()


class SpentError(ValueError):
    """The network uses what cannot be put back."""


class Tripwire:
    """Raises as soon as it is used, and says what it stands for.

    Args:
        name: Where the network holds what it stands for.
        kind: Of which class that is.
    """

    def __init__(self, name: str, kind: str) -> None:
        self._effcx = name, kind

    def __getattr__(self, _: str) -> Never:
        self._raise()

    def _raise(self) -> Never:
        name, kind = self._effcx
        raise SpentError(
            f"the network uses {name!r} ({kind}), which cannot be put back as it was, so that "
            "measuring would change the training: leave it out with network=, a part's name or a "
            "function (module, x) -> outputs that does not use it"
        )


def _tripping(self: Tripwire, *_: Any, **__: Any) -> Never:
    self._raise()


for _operation in _OPERATIONS:
    setattr(Tripwire, f"__{_operation}__", _tripping)


def is_spent_by_use(value: Any) -> bool:
    """Tell whether something is an iterator, a generator, a file or a connection."""
    shown = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)  # nobody wants these back
    return isinstance(value, (Iterator, Coroutine, io.IOBase, socket.socket)) and not any(
        value is stream for stream in shown
    )


def stand_in(name: str, value: Any) -> Any:
    """Return what the network holds for a time in place of a value."""
    if isinstance(value, Tensor):  # made in inference mode, such as a cached table: no autograd
        with torch.inference_mode(False):
            return value.clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python means to end copies of iterators
            return _copied(value)
    except Exception:  # noqa: BLE001 whatever it is, it cannot be copied
        return Tripwire(name, type(value).__name__)


def _copied(value: Any) -> Any:
    """Copy an iterator of Python's own, over what is small and Python's own as well."""
    file = _Short()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return pickle.loads(file.getvalue())  # noqa: S301 it was written in the line above


class _Short(io.BytesIO):
    """Ends where too much is written to it."""

    @override
    def write(self, data: Any) -> int:
        if self.tell() > _LONG:
            raise ValueError("it is too long to be copied")
        return super().write(data)


class _Pickler(pickle.Pickler):
    """Refuses whatever is not Python's own, such as the data that an iterator goes through."""

    @override
    def reducer_override(self, obj: Any) -> Any:
        kind = obj if isinstance(obj, type) else type(obj)
        if kind.__module__ not in {"builtins", "itertools", "collections", "_io"}:
            raise ValueError(f"a {kind.__name__} is not copied")
        return NotImplemented
