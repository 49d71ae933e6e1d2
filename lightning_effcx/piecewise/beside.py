"""Beside: evaluate what an exact pass does not follow, at the rows that it started with.

What the outputs do not depend on, such as a loss beside them, need not be followed to the rows that
are inserted. It is evaluated as in a plain forward pass, so that the network goes on.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.tracing import Lineage, written

SIZED = frozenset({"expand", "new_full", "new_ones", "new_zeros", "reshape", "unsafe_view", "view"})
"""Operators that take a size, which may begin with a number of rows."""


class Beside:
    """Runs operators at the rows of the start.

    Args:
        rows: The rows of the pass.
        versions: The version of the rows of each tensor that the pass follows.
        dtype: The precision of the pass.
        lineage: The lineage of the tensors of the pass.
    """

    def __init__(
        self, rows: Rows, versions: WeakIdKeyDictionary, dtype: torch.dtype, lineage: Lineage
    ) -> None:
        self.rows = rows
        self.versions = versions
        self.dtype = dtype
        self.lineage = lineage

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator; a tensor that the pass follows is left as it is if it is written to."""
        targets = {id(target) for target in written(func, args, kwargs)}
        originals: dict[int, Tensor] = {}

        def at_start(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            if argument not in self.versions:
                is_read = argument.is_floating_point() and id(argument) not in targets
                return argument.to(self.dtype) if is_read else argument
            if id(argument) in targets:
                first = self.rows.first(argument, self.versions[argument]).clone()
                originals[id(first)] = argument
                return first
            if _is_view(func):
                return self.copy(argument)
            return self.rows.first(argument, self.versions[argument])

        given, named = tree_map(at_start, (args, kwargs))
        operator = func.overloadpacket.__name__.strip("_")
        if operator in SIZED:
            given = (given[0], self._resized(given[1]), *given[2:])
        if operator == "view":
            return given[0].reshape(given[1])
        if operator == "to_copy" and not to_integers(func, kwargs) and not _is_complex(given[0]):
            return given[0].to(self.dtype, copy=True)  # the pass keeps its own precision
        out = func(*given, **named)
        return tree_map(lambda made: originals.get(id(made), made), out)

    def copy(self, followed: Tensor) -> Tensor:
        """Copy a tensor that the pass follows, at the rows of the start.

        A view of the tensor itself would share its memory, so that it would share its origins.
        """
        copy = self.rows.first(followed, self.versions[followed]).clone()
        self.lineage.copied(copy, followed)
        return copy

    def _resized(self, size: Any) -> Any:
        """Correct a batch size that the network read after rows were inserted."""
        if isinstance(size, (list, tuple)) and size and size[0] in self.rows.counts:
            return [self.rows.counts[0], *size[1:]]
        return size


def _is_view(func: Any) -> bool:
    """Tell whether what an operator returns may share the memory of what it is given."""
    return any(returned.alias_info is not None for returned in func._schema.returns)  # noqa: SLF001


def _is_complex(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_complex()


def to_integers(func: Any, kwargs: dict[str, Any]) -> bool:
    """Tell whether an operator makes whole numbers, or truth values, of what it is given."""
    dtype = kwargs.get("dtype")
    return func is torch.ops.aten._to_copy.default and not (  # noqa: SLF001
        dtype is None or dtype.is_floating_point or dtype.is_complex
    )
