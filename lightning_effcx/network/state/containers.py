"""Containers: whatever holds other objects under keys, read, written and put back.

Attributes of an object, a dictionary, a list, a class and the globals of a file are containers. The
content of a container is the very objects that it holds, not copies of them.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from types import CellType, MemberDescriptorType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class State(ABC):
    """Something that a forward may change. It is read before, and restored afterwards."""

    @abstractmethod
    def read(self) -> Any:
        """Return what is needed to restore it later."""

    @abstractmethod
    def restore(self, kept: Any) -> bool:
        """Put it back as it was when `kept` was read. Return whether it had changed."""


class Container(State):
    """Abstract: holds other objects, by keys."""

    @abstractmethod
    @override
    def read(self) -> dict[Any, Any]:
        """Return what it holds now, by keys."""

    @abstractmethod
    def write(self, content: dict[Any, Any]) -> None:
        """Make it hold `content` and nothing else."""

    @override
    def restore(self, kept: dict[Any, Any]) -> bool:
        differs = not _same_objects(self.read(), kept)
        if differs:
            self.write(kept)
        return differs


def _same_objects(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    """Return whether two contents are the same objects in the same order."""
    return len(one) == len(other) and all(
        v is w and (k is m or (type(k) in {str, int} and type(k) is type(m) and k == m))
        for (k, v), (m, w) in zip(one.items(), other.items(), strict=True)
    )


class Items(Container):
    """A dictionary, of any class."""

    def __init__(self, of: dict[Any, Any]) -> None:
        self._of = of
        # The methods of dict would break an OrderedDict. The methods of a user's class may do
        # anything, so they are not called.
        self._methods: Any = OrderedDict if isinstance(of, OrderedDict) else dict

    @override
    def read(self) -> dict[Any, Any]:
        return dict(self._methods.items(self._of))

    @override
    def write(self, content: dict[Any, Any]) -> None:
        if list(self._of) == list(content):  # another thread never finds a key missing
            for key, value in content.items():
                if self._methods.__getitem__(self._of, key) is not value:
                    self._methods.__setitem__(self._of, key, value)
        else:
            self._methods.clear(self._of)
            for key, value in content.items():
                self._methods.__setitem__(self._of, key, value)


class Elements(Container):
    """A list, a deque or a set."""

    def __init__(self, of: "list[Any] | deque[Any] | set[Any]") -> None:
        self._of = of
        self._methods: Any = next(kind for kind in (list, deque, set) if isinstance(of, kind))

    @override
    def read(self) -> dict[Any, Any]:
        return dict(enumerate(self._of))

    @override
    def write(self, content: dict[Any, Any]) -> None:
        self._methods.clear(self._of)
        extend = "update" if self._methods is set else "extend"
        getattr(self._methods, extend)(self._of, content.values())


class Attributes(Container):
    """The attributes of an object, in its dictionary and in its slots."""

    def __init__(self, of: object) -> None:
        self._of = of
        self._named = Items(getattr(of, "__dict__", {}))
        self._slots = {
            name: slot
            for kind in type(of).__mro__
            if "__slots__" in vars(kind)
            for name, slot in vars(kind).items()
            if isinstance(slot, MemberDescriptorType)
        }

    @override
    def read(self) -> dict[Any, Any]:
        return self._named.read() | self._read_slots()

    def _read_slots(self) -> dict[str, Any]:
        found = {}
        for name, slot in self._slots.items():
            try:
                found[name] = slot.__get__(self._of)
            except AttributeError:  # the slot is empty
                continue
        return found

    @override
    def write(self, content: dict[Any, Any]) -> None:
        self._named.write({k: v for k, v in content.items() if k not in self._slots})
        for name in self._read_slots().keys() - content.keys():
            self._slots[name].__delete__(self._of)
        for name in self._slots.keys() & content.keys():
            self._slots[name].__set__(self._of, content[name])


class Names(Container):
    """Some names of a namespace, such as the globals of a file. Other names are left alone."""

    def __init__(self, of: dict[str, Any], names: Iterable[str]) -> None:
        self._of = of
        self._names = sorted(names)

    @override
    def read(self) -> dict[Any, Any]:
        return {name: self._of[name] for name in self._names if name in self._of}

    @override
    def write(self, content: dict[Any, Any]) -> None:
        for name in self._names:
            if name in content:
                self._of[name] = content[name]
            else:
                self._of.pop(name, None)


class ClassAttributes(Container):
    """The attributes of a class, without those that Python itself makes."""

    def __init__(self, of: type) -> None:
        self._of = of

    @override
    def read(self) -> dict[Any, Any]:
        return {k: v for k, v in vars(self._of).items() if not k.startswith("__")}

    @override
    def write(self, content: dict[Any, Any]) -> None:
        now = self.read()
        for name in now.keys() - content.keys():
            type.__delattr__(self._of, name)
        for name, value in content.items():
            if name not in now or now[name] is not value:
                type.__setattr__(self._of, name, value)


class Cell(Container):
    """A variable of an outer function."""

    def __init__(self, of: CellType) -> None:
        self._of = of

    @override
    def read(self) -> dict[Any, Any]:
        try:
            return {"": self._of.cell_contents}
        except ValueError:  # the cell is empty
            return {}

    @override
    def write(self, content: dict[Any, Any]) -> None:
        if content:
            self._of.cell_contents = content[""]
        else:
            del self._of.cell_contents


class Scripted(Container):
    """The attributes of a scripted module.

    Python sees copies of them, except for tensors and numbers, so that only these can be kept.
    """

    _PLAIN = (Tensor, int, float, str, type(None))

    def __init__(self, of: torch.jit.ScriptModule) -> None:
        self._of: Any = of._c  # noqa: SLF001 no other way to set a value
        own: Any = of
        self._names = own._concrete_type.get_attributes().keys() - {"training"}  # noqa: SLF001

    @override
    def read(self) -> dict[Any, Any]:
        found = {name: self._of.getattr(name) for name in sorted(self._names)}
        return {name: value for name, value in found.items() if isinstance(value, self._PLAIN)}

    @override
    def write(self, content: dict[Any, Any]) -> None:
        for name, value in content.items():
            self._of.setattr(name, value)
