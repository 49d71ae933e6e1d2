"""The walk: finds the state of a network.

From a module the walk goes on to all that it holds: modules, also those that are not registered,
containers, objects of the user's classes, and these classes. From a function it goes on to the
variables and the globals that its code names. It never enters libraries, trainers, loggers, data
loaders or threads. It ends after a number of objects and bytes, and goes to near objects first.
"""

from collections import deque
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_effcx.network.state.containers import (
    Attributes,
    Cell,
    ClassAttributes,
    Container,
    Elements,
    Items,
    Names,
    Scripted,
    State,
)
from lightning_effcx.network.state.data import TensorData, copied_data, has_data
from lightning_effcx.network.state.names_in_code import names_in
from lightning_effcx.network.state.network_state import Found, NetworkState, StateKind
from lightning_effcx.network.state.ownership import Ownership
from lightning_effcx.network.state.unrestorable import is_unrestorable

_OBJECTS = 10_000  # besides modules and what they are registered with
_MODULES = 1000  # in one container, beyond these objects
_BYTES = 2**28  # of tensors and arrays that are not registered
_COPIED_BYTES = 2**30  # of parameters; beyond that a change is noticed, but cannot be put back
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device})
_OF_TORCH = frozenset(vars(nn.Module()))
_MAKING = frozenset(  # methods that make, copy or show an object
    "__init__ __new__ __init_subclass__ __del__ __reduce__ __reduce_ex__ __getstate__ "
    "__setstate__ __copy__ __deepcopy__ __repr__ __str__ __class_getitem__".split()
)


def find_state(*roots: Any) -> NetworkState:
    """Find all that a forward may change.

    Args:
        *roots: The module, and what else is at work beside it, such as a function of it.
    """
    return _Walk(roots).found


class _Walk:
    """One walk, from its roots outwards."""

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self.found = NetworkState()
        self._own = Ownership()
        self._waiting: deque[tuple[str, Any]] = deque(("", root) for root in roots)
        self._buffers: set[int] = set()  # the identities of the registered buffers
        self._objects, self._bytes, self._copied_bytes = _OBJECTS, _BYTES, _COPIED_BYTES
        self._attributes = {"forward", "__call__"}  # that the user's code names
        self._spaces: list[Any] = []  # classes and files that may define these attributes
        while self._waiting:
            # An object of a user's class may raise when it is looked at.
            with suppress(Exception):
                self._visit(*self._waiting.popleft())

    def _visit(self, name: str, value: Any) -> None:
        if id(value) in self.found.seen:
            return
        if not isinstance(value, (nn.Module, nn.Parameter)):
            self._objects -= 1
            if self._objects < 0:
                return
        self.found.seen[id(value)] = value
        match value:
            case nn.Module():
                self._visit_module(name, value)
            case Tensor():
                self._visit_tensor(name, value)
            case dict():
                self._enter(name, Items(value))
            case list() | set() | deque():
                self._enter(name, Elements(value))
            case tuple() | frozenset():
                self._push(name, dict(enumerate(value)))
            case _ if not self._visit_callable(name, value):
                self._visit_object(name, value)

    def _push(self, name: str, parts: dict[Any, Any]) -> None:
        """Put objects last in the queue, with the names under which they were found."""
        most = max(self._objects, 0) + _MODULES  # more would not be visited
        for key, part in islice(parts.items(), most):
            if type(part) not in _ATOMS:
                at = f"{name}.{key}" if isinstance(key, str) else f"{name}[{key!r}]"
                self._waiting.append((at.lstrip("."), part))

    def _add(self, name: str, state: State, kind: StateKind = StateKind.CONTAINER) -> None:
        self.found.states.append(Found(name, state, kind))

    def _enter(
        self, name: str, container: Container, kind: StateKind = StateKind.CONTAINER
    ) -> None:
        """Add a container, and go on to what it holds."""
        self._add(name, container, kind)
        self._push(name, container.read())

    # -- modules and tensors

    def _visit_module(self, name: str, module: nn.Module) -> None:
        self.found.modules.append(module)
        self._own.add(module)
        for kind in type(module).__mro__:
            self._visit_class(kind)
        held = vars(module)
        if any(map(is_lazy, held["_parameters"].values())):
            return  # its first call makes it another module
        self._add(name, Attributes(module))
        self._push(name, {key: part for key, part in held.items() if key not in _OF_TORCH})
        if isinstance(module, torch.jit.ScriptModule):
            self._enter(name, Scripted(module))
            self._push(name, dict(module.named_children()))
            return
        self._enter(name, Items(held["_parameters"]), StateKind.PARAMETER_NAMES)
        self._buffers |= {id(buffer) for buffer in held["_buffers"].values()}
        self._enter(name, Items(held["_buffers"]))
        self._enter(name, Items(held["_modules"]))
        self._add(name, Elements(held["_non_persistent_buffers_set"]))
        for key in _OF_TORCH & held.keys():
            if key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
                self._enter(name, Items(held[key]), StateKind.HOOKS)

    def _visit_tensor(self, name: str, tensor: Tensor) -> None:
        is_parameter = isinstance(tensor, nn.Parameter)
        if not is_parameter and id(tensor) not in self._buffers:
            self._bytes -= tensor.nbytes if tensor.layout == torch.strided else 0
            if self._bytes < 0:
                return
        self.found.tensors[id(tensor)] = tensor
        if tensor.is_inference() and not is_parameter:
            self.found.unrestorable[id(tensor)] = name, tensor
        elif has_data(tensor) and is_parameter:
            self._copied_bytes -= tensor.nbytes
            data = TensorData(tensor, copies=self._copied_bytes >= 0)
            self._add(name, data, StateKind.PARAMETER_DATA)
        elif has_data(tensor):
            self._add(name, TensorData(tensor), StateKind.OTHER_DATA)

    # -- objects

    def _visit_object(self, name: str, value: Any) -> None:
        data = copied_data(value)
        if isinstance(value, type):
            self._visit_class(value)
        elif data is not None:
            self._bytes -= getattr(value, "nbytes", 0)
            if self._bytes >= 0:
                self._add(name, data, StateKind.OTHER_DATA)
        elif isinstance(value, ModuleType):
            if self._own.owns_file(value.__name__):
                self._add_space(value)
        elif self._own.owns_object(value) and not self._own.owns_compiled(value):
            self._enter(name, Attributes(value))
            for kind in type(value).__mro__:
                self._visit_class(kind, operators=True)
        elif is_unrestorable(value) or self._own.owns_compiled(value):
            self.found.unrestorable[id(value)] = name, value

    def _visit_class(self, kind: type, *, operators: bool = False) -> None:
        """Go on to the attributes of a class and, if asked to, to its operators."""
        if not self._own.owns_class(kind):
            return
        if not any(kind is space for space in self._spaces):
            self.found.seen[id(kind)] = kind
            attributes = ClassAttributes(kind)
            self._add(kind.__name__, attributes)
            data = {k: v for k, v in attributes.read().items() if not isinstance(v, FunctionType)}
            self._push(kind.__name__, data)
            self._add_space(kind)
        if operators:
            special = {
                k: v for k, v in vars(kind).items() if k.startswith("__") and k not in _MAKING
            }
            self._push(kind.__name__, {k: v for k, v in special.items() if callable(v)})

    # -- code

    def _visit_callable(self, name: str, value: Any) -> bool:
        """Go on to what a function uses. Return whether the value is a function of any kind."""
        match value:
            case FunctionType():
                self._visit_function(name, value)
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

    def _visit_function(self, name: str, function: FunctionType) -> None:
        self._push(name, {"__wrapped__": getattr(function, "__wrapped__", None)})
        cells = function.__closure__ or ()
        variables = dict(zip(function.__code__.co_freevars, cells, strict=True))
        if not self._own.owns_function(function):  # it may be a wrapper around one of the user's
            held = {key: Cell(cell).read().get("") for key, cell in variables.items()}
            self._push(name, {k: v for k, v in held.items() if isinstance(v, FunctionType)})
            return
        for key, cell in variables.items():
            self._add(name, Cell(cell))
            self._push(name, {key: Cell(cell).read().get("")})
        self._push(name, dict(enumerate(function.__defaults__ or ())))
        self._push(name, {"__kwdefaults__": function.__kwdefaults__, "__dict__": vars(function)})
        names, space = names_in(function.__code__), function.__globals__
        wanted = (names.read & space.keys()) | names.assigned
        self._enter(str(space.get("__name__")), Names(space, wanted))
        self._follow_attributes(names.attributes)

    def _follow_attributes(self, names: frozenset[str]) -> None:
        """Go on to the methods, and to the names in other files, that code mentions."""
        new = names - self._attributes
        self._attributes |= new
        for space in self._spaces if new else ():
            self._visit_names(space, new & vars(space).keys())

    def _add_space(self, space: Any) -> None:
        self._spaces.append(space)
        self._visit_names(space, self._attributes & vars(space).keys())

    def _visit_names(self, space: Any, names: set[str] | frozenset[str]) -> None:
        if isinstance(space, ModuleType):
            self._enter(space.__name__, Names(vars(space), names))
        else:
            self._push(space.__name__, {name: vars(space)[name] for name in names})
