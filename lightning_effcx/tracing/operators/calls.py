"""Calls: one call of one of torch's operators, with its arguments by name."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor


def tensors(*arguments: Any) -> Iterator[Tensor]:
    """Go through the tensors among what an operator takes or returns, also in lists and dicts."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from tensors(*argument)
        elif isinstance(argument, dict):
            yield from tensors(*argument.values())


@cache  # every call of a pass asks for it several times
def operator_name(func: Any) -> str:
    """Return the name of an operator, the same for its in-place and its internal forms.

    Example:
        >>> import torch
        >>> operator_name(torch.ops.aten.relu_.default)
        'relu'
    """
    return func.overloadpacket.__name__.strip("_")


@dataclass(frozen=True, eq=False)
class OperatorCall:
    """One call of an operator, as `__torch_dispatch__` gets it.

    Attributes:
        func: The operator.
        args: Its arguments.
        kwargs: Its arguments by name.
        depends: Tells whether an argument depends on the input of the network.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    depends: Callable[[Any], bool]

    @property
    def name(self) -> str:
        """The name of the operator."""
        return operator_name(self.func)

    @cached_property
    def given(self) -> dict[str, Any]:
        """Every argument by its name, with the defaults of those that the call leaves out."""
        names, defaults = _declared(self.func)
        return {**defaults, **dict(zip(names, self.args, strict=False)), **self.kwargs}

    @cached_property
    def operands(self) -> list[Tensor]:
        """The tensors that depend on the input, also those in lists."""
        return [tensor for tensor in tensors(self.args, self.kwargs) if self.depends(tensor)]

    def one_by_one(self) -> "Iterator[OperatorCall]":
        """Go through the call as if only one of its operands depended on the input."""
        for operand in self.operands:
            yield replace(self, depends=partial(operator.is_, operand))

    def run(self) -> Any:
        """Return what the operator returns."""
        return self.func(*self.args, **self.kwargs)

    def is_in_place(self) -> bool:
        """Tell whether the operator writes to one of its arguments."""
        return bool(self.func._schema.is_mutable)  # noqa: SLF001 the only way to know

    def overwritten(self) -> Any:
        """Return the argument whose memory holds the result, such as of `relu_`; else `None`.

        An operator may also write to arguments that it does not return, such as a buffer for noise.
        """
        name = _overwritten_name(self.func)
        return None if name is None else self.given.get(name)

    def written(self) -> list[Any]:
        """Return the arguments that the operator writes to, as its schema declares them."""
        if not self.is_in_place():
            return []
        return [self.given[name] for name in _written_names(self.func) if name in self.given]

    def type_made(self) -> torch.dtype | None:
        """Return the type of numbers that is asked for, by an argument or a place to write to."""
        target = self.overwritten()
        asked = self.given.get("dtype") if target is None else target.dtype
        return asked if asked and (asked.is_floating_point or asked.is_complex) else None

    def beside(self) -> "OperatorCall":
        """Return the call of the form of the operator that returns tensors of its own."""
        if self.overwritten() is None:
            return self
        kwargs = {name: value for name, value in self.kwargs.items() if name not in self.outs()}
        return replace(self, func=_form_beside(self.func), kwargs=kwargs)

    def outs(self) -> dict[str, Tensor]:
        """Return the tensors that the caller gave for the result, such as `out`, by name."""
        return {
            name: self.kwargs[name] for name in _written_names(self.func) if name in self.kwargs
        }


Rule: TypeAlias = Callable[[OperatorCall], bool]
"""Tells whether something holds for a call."""


def always(call: OperatorCall) -> bool:
    """Hold for every call."""
    del call
    return True


def never(call: OperatorCall) -> bool:
    """Hold for no call."""
    del call
    return False


# Schemas are slow to read, and every operator of every pass asks for its own.
@cache
def _declared(func: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    declared = func._schema.arguments  # noqa: SLF001 the only way to the arguments' names
    defaults = {a.name: a.default_value for a in declared if a.has_default_value()}
    return tuple(argument.name for argument in declared), defaults


@cache
def _overwritten_name(func: Any) -> str | None:
    returned = [result.alias_info for result in func._schema.returns]  # noqa: SLF001 see above
    places = {place for alias in returned if alias for place in alias.before_set}
    declared = [a for a in func._schema.arguments if a.alias_info]  # noqa: SLF001 see above
    written = (a for a in declared if a.alias_info.is_write)
    return next((a.name for a in written if a.alias_info.before_set & places), None)


@cache
def _written_names(func: Any) -> tuple[str, ...]:
    declared = func._schema.arguments  # noqa: SLF001 the only way to the arguments' names
    return tuple(a.name for a in declared if a.alias_info and a.alias_info.is_write)


@cache
def _form_beside(func: Any) -> Any:
    """Return the form of an operator that takes the same arguments and writes to none of them.

    A few operators, such as `dropout_`, have none.
    """
    namespace = getattr(torch.ops, func.namespace)
    packet = getattr(namespace, func.overloadpacket.__name__.removesuffix("_"))
    forms = (getattr(packet, name) for name in packet.overloads())
    taken = _taken(func)
    beside = (f for f in forms if _overwritten_name(f) is None and _taken(f) == taken)
    return next(beside, None)


def _taken(func: Any) -> list[tuple[str, str]]:
    """Return the names and types of the arguments that are no place for the result."""
    declared = func._schema.arguments  # noqa: SLF001 the only way to the arguments' names
    taken = [a for a in declared if not (a.kwarg_only and a.alias_info and a.alias_info.is_write)]
    return [(a.name, str(a.type)) for a in taken]


@cache
def returns_views(func: Any) -> bool:
    """Tell whether the result of an operator may share the memory of its arguments."""
    return any(each.alias_info is not None for each in func._schema.returns)  # noqa: SLF001


@cache
def only_reshapes(func: Any) -> bool:
    """Tell whether an operator in place changes the shape of a tensor, but none of its numbers.

    Its other form returns a view, as `squeeze` does for `squeeze_`. `torch.vmap` calls such
    operators by itself.
    """
    form = _form_beside(func)
    return form is not None and returns_views(form)
