"""Reach: all that a forward of a module may change, as far as it can be known.

From a module the walk goes on to what it holds: modules, also those that are not registered;
containers; objects of the user's classes, and these classes; functions, with the variables and the
globals that their code names. It never enters libraries, trainers, loggers, data loaders or
threads, and it ends after a number of objects and bytes: what is near comes first.
"""

from collections import deque
from contextlib import suppress
from copy import copy
from enum import Enum, auto
from functools import cached_property, partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_effcx.network.state.code_names import named_by
from lightning_effcx.network.state.contents import Content, copied, has_content
from lightning_effcx.network.state.holders import (
    Attributes,
    Cell,
    ClassAttributes,
    Elements,
    Holder,
    Items,
    Names,
    Scripted,
    State,
)
from lightning_effcx.network.state.ownership import Ownership
from lightning_effcx.network.state.standins import is_spent_by_use

_OBJECTS = 10_000  # besides modules and what they are registered with
_MODULES = 1000  # in one container, beyond these objects
_BYTES = 2**28  # of tensors and arrays that are not registered
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device})
_OF_TORCH = frozenset(vars(nn.Module()))
_MADE_BY = frozenset(  # methods that make, copy or show an object
    "__init__ __new__ __init_subclass__ __del__ __reduce__ __reduce_ex__ __getstate__ "
    "__setstate__ __copy__ __deepcopy__ __repr__ __str__ __class_getitem__".split()
)


class Kind(Enum):
    """What a state is."""

    HOLDER = auto()
    PARAMETERS = auto()  # the names of a module's parameters, and which they are
    HOOKS = auto()
    PARAMETER = auto()  # the content of one
    CONTENT = auto()


class Found(NamedTuple):
    """A state, where it was found, and what it is."""

    name: str
    state: State
    kind: Kind


class Reach:
    """Walks through all that a module's forward may change.

    Args:
        *roots: The module, and what else is at work beside it, such as a function of it.
    """

    def __init__(self, *roots: Any) -> None:
        self.modules: list[nn.Module] = []
        """It, and every module that it reaches, each once."""
        self.states: list[Found] = []
        self.tensors: dict[int, Tensor] = {}
        """Every tensor that is held anywhere, by identity."""
        self.odd: dict[int, tuple[str, Any]] = {}
        """What cannot be put back as it is, with its name, by identity."""
        self._own = Ownership()
        self._seen: dict[int, Any] = {}  # by identity, and alive, so that no other gets that
        self._waiting: deque[tuple[str, Any]] = deque(("", root) for root in roots)
        self._registered: set[int] = set()  # the identities of buffers
        self._objects, self._bytes = _OBJECTS, _BYTES
        self._named = {"forward", "__call__"}  # attributes that code of the user's names
        self._spaces: list[Any] = []  # the classes and the files that may have them
        while self._waiting:
            # Objects of users may do anything when they are looked at.
            with suppress(Exception):
                self._visit(*self._waiting.popleft())

    def covers(self, root: Any) -> bool:
        """Tell whether all modules of a network were found, but those that are ours around them.

        They must hold the same parameters, too, which are others where they are made whole anew.
        """
        if not isinstance(root, nn.Module):
            return id(root) in self._seen
        ours = __name__.partition(".")[0]
        return all(
            id(part) in self._seen or type(part).__module__.partition(".")[0] == ours
            for part in root.modules()
        ) and all(id(parameter) in self.tensors for parameter in root.parameters())

    def holders(self) -> list[Holder]:
        """Return copies of what holds tensors, and other things, to be kept by whoever asks."""
        kinds = {Kind.HOLDER, Kind.PARAMETERS}
        return [
            copy(found.state)
            for found in self.states
            if found.kind in kinds and isinstance(found.state, Holder)
        ]

    def _visit(self, name: str, value: Any) -> None:
        if id(value) in self._seen:
            return
        if not isinstance(value, (nn.Module, nn.Parameter)):
            self._objects -= 1
            if self._objects < 0:
                return
        self._seen[id(value)] = value
        match value:
            case nn.Module():
                self._module(name, value)
            case Tensor():
                self._tensor(name, value)
            case dict():
                self._hold(name, Items(value))
            case list() | set() | deque():
                self._hold(name, Elements(value))
            case tuple() | frozenset():
                self._push(name, dict(enumerate(value)))
            case _ if not self._callable(name, value):
                self._object(name, value)

    def _push(self, name: str, parts: dict[Any, Any]) -> None:
        most = max(self._objects, 0) + _MODULES  # more would not be entered
        for key, part in islice(parts.items(), most):
            if type(part) not in _ATOMS:
                at = f"{name}.{key}" if isinstance(key, str) else f"{name}[{key!r}]"
                self._waiting.append((at.lstrip("."), part))

    def _hold(self, name: str, holder: Holder, kind: Kind = Kind.HOLDER) -> None:
        self.states.append(Found(name, holder, kind))
        self._push(name, holder.read())

    # -- modules and tensors

    def _module(self, name: str, module: nn.Module) -> None:
        self.modules.append(module)
        self._own.add(module)
        for kind in type(module).__mro__:
            self._class(kind)
        held = vars(module)
        if any(map(is_lazy, held["_parameters"].values())):
            return  # its first call makes it another module
        self.states.append(Found(name, Attributes(module), Kind.HOLDER))
        self._push(name, {key: part for key, part in held.items() if key not in _OF_TORCH})
        if isinstance(module, torch.jit.ScriptModule):
            self._hold(name, Scripted(module))
            self._push(name, dict(module.named_children()))
            return
        self._hold(name, Items(held["_parameters"]), Kind.PARAMETERS)
        self._registered |= {id(buffer) for buffer in held["_buffers"].values()}
        self._hold(name, Items(held["_buffers"]))
        self._hold(name, Items(held["_modules"]))
        self.states.append(Found(name, Elements(held["_non_persistent_buffers_set"]), Kind.HOLDER))
        for key in _OF_TORCH & held.keys():
            if key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
                self._hold(name, Items(held[key]), Kind.HOOKS)

    def _tensor(self, name: str, tensor: Tensor) -> None:
        is_parameter = isinstance(tensor, nn.Parameter)
        if not is_parameter and id(tensor) not in self._registered:
            self._bytes -= tensor.nbytes if tensor.layout == torch.strided else 0
            if self._bytes < 0:
                return
        self.tensors[id(tensor)] = tensor
        if tensor.is_inference() and not is_parameter:
            self.odd[id(tensor)] = name, tensor
        elif has_content(tensor):
            kind = Kind.PARAMETER if is_parameter else Kind.CONTENT
            self.states.append(Found(name, Content(tensor), kind))

    # -- objects

    def _object(self, name: str, value: Any) -> None:
        state = copied(value)
        if isinstance(value, type):
            self._class(value)
        elif state is not None:
            self._bytes -= getattr(value, "nbytes", 0)
            if self._bytes >= 0:
                self.states.append(Found(name, state, Kind.CONTENT))
        elif isinstance(value, ModuleType):
            if self._own.of_name(value.__name__):
                self._space(value)
        elif self._own.of_object(value) and not self._own.is_compiled(value):
            self._hold(name, Attributes(value))
            for kind in type(value).__mro__:
                self._class(kind, used=True)
        elif is_spent_by_use(value) or self._own.is_compiled(value):
            self.odd[id(value)] = name, value

    def _class(self, kind: type, *, used: bool = False) -> None:
        """Go on to the attributes of a class; to its operators, where it is that of an object."""
        if not self._own.of_class(kind):
            return
        if not any(kind is space for space in self._spaces):
            self._seen[id(kind)] = kind
            holder = ClassAttributes(kind)
            self.states.append(Found(kind.__name__, holder, Kind.HOLDER))
            data = {k: v for k, v in holder.read().items() if not isinstance(v, FunctionType)}
            self._push(kind.__name__, data)
            self._space(kind)
        if used:
            operators = {
                k: v for k, v in vars(kind).items() if k.startswith("__") and k not in _MADE_BY
            }
            self._push(kind.__name__, {k: v for k, v in operators.items() if callable(v)})

    # -- code

    def _callable(self, name: str, value: Any) -> bool:
        """Go on to what a function uses; tell whether it is one."""
        match value:
            case FunctionType():
                self._function(name, value)
            case MethodType():
                self._push(name, {"__func__": value.__func__, "__self__": value.__self__})
            case partial():
                self._push(name, {"func": value.func, "args": value.args, "kw": value.keywords})
            case property():
                self._push(name, {"fget": value.fget, "fset": value.fset})
            case cached_property():
                self._push(name, {"func": value.func})
            case staticmethod() | classmethod():
                self._push(name, {"__func__": value.__func__})
            case _:
                return False
        return True

    def _function(self, name: str, function: FunctionType) -> None:
        self._push(name, {"__wrapped__": getattr(function, "__wrapped__", None)})
        cells = function.__closure__ or ()
        variables = dict(zip(function.__code__.co_freevars, cells, strict=True))
        if not self._own.of_function(function):  # it may be a wrapper around one that is
            held = {key: Cell(cell).read().get("") for key, cell in variables.items()}
            self._push(name, {k: v for k, v in held.items() if isinstance(v, FunctionType)})
            return
        for key, cell in variables.items():
            self.states.append(Found(name, Cell(cell), Kind.HOLDER))
            self._push(name, {key: Cell(cell).read().get("")})
        self._push(name, dict(enumerate(function.__defaults__ or ())))
        self._push(name, {"__kwdefaults__": function.__kwdefaults__, "__dict__": vars(function)})
        names, space = named_by(function.__code__), function.__globals__
        wanted = (names.read & space.keys()) | names.assigned
        self._hold(str(space.get("__name__")), Names(space, wanted))
        self._learn(names.attributes)

    def _learn(self, names: frozenset[str]) -> None:
        """Go on to the methods, and to the names in other files, that code names."""
        new = names - self._named
        self._named |= new
        for space in self._spaces if new else ():
            self._in_space(space, new & vars(space).keys())

    def _space(self, space: Any) -> None:
        self._spaces.append(space)
        self._in_space(space, self._named & vars(space).keys())

    def _in_space(self, space: Any, names: set[str] | frozenset[str]) -> None:
        if isinstance(space, ModuleType):
            self._hold(space.__name__, Names(vars(space), names))
        else:
            self._push(space.__name__, {name: vars(space)[name] for name in names})
