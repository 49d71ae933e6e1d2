"""Followed tensors: the tensors that depend on the input of a pass, and the rows of each of them.

Rows are inserted during a pass, so there are several versions of the rows. A tensor belongs to the
version at which it was computed. It is brought to the current version when it is used next.
"""

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from lightning_effcx.piecewise.constants import Constants
from lightning_effcx.piecewise.memory import has_equal_blocks
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.tracing import OperatorCall, mixing, operator_of, tensors


class Followed:
    """The tensors that a pass follows.

    Args:
        rows: The rows of the pass.
        x: The inputs there.

    Attributes:
        versions: The version of the rows of each tensor.
        indices: The tensors of whole numbers that say which element a choice took.
        constants: The tensors that the network made without the input.
    """

    def __init__(self, rows: Rows, x: Tensor) -> None:
        self.rows = rows
        self.dtype = x.dtype
        self.versions = WeakIdKeyDictionary()
        self.versions[x] = 0
        self.indices = WeakIdKeyDictionary()
        self.constants = Constants()

    def depends(self, argument: Any) -> bool:
        """Tell whether an argument is a followed tensor, or a list with one."""
        if isinstance(argument, (list, tuple)):
            return any(map(self.depends, argument))
        return isinstance(argument, Tensor) and argument in self.versions

    def bring(self, arguments: Any, version: int) -> Any:
        """Bring what depends on x to the rows of `version`, and the rest to its precision."""
        if isinstance(arguments, dict):
            return {name: self.bring(value, version) for name, value in arguments.items()}
        if isinstance(arguments, (list, tuple)):
            return type(arguments)([self.bring(argument, version) for argument in arguments])
        if not isinstance(arguments, Tensor):
            return arguments
        if arguments in self.versions:
            brought = self.rows.bring(arguments, self.versions[arguments], version)
            self.versions[brought] = version
            return brought
        return self.cast(arguments)

    def cast(self, tensor: Tensor) -> Tensor:
        """Return a tensor of real or complex numbers in the precision of the pass."""
        has_numbers = tensor.is_floating_point() or tensor.is_complex()
        return tensor.to(self.precise(tensor.dtype)) if has_numbers else tensor

    def precise(self, dtype: torch.dtype) -> torch.dtype:
        """Return the real or complex numbers of the pass that stand for others."""
        return self.dtype.to_complex() if dtype.is_complex else self.dtype

    def bring_call(self, call: OperatorCall, version: int) -> OperatorCall:
        """Return a call with its arguments brought to the rows of `version`."""
        args, kwargs = self.bring((call.args, call.kwargs), version)
        return replace(call, args=args, kwargs=kwargs)

    def first(self, tensor: Tensor) -> Tensor:
        """Return a tensor that depends on x at the rows of the start."""
        return self.rows.first(tensor, self.versions[tensor])

    def put(self, out: Any, name: str, version: int) -> Any:
        """Register what a call returned."""
        for tensor in tensors(out):
            if not tensor.numel():
                continue  # such as the statistics that batch normalisation did not take
            if tensor.is_floating_point() or tensor.is_complex():
                # Samples may be in parts: linear layers cut those of several dimensions.
                if not tensor.dim() or len(tensor) % self.rows.counts[version]:
                    raise mixing(name)
                self.versions[tensor] = version
            else:
                self.indices[tensor] = True
        return out

    def rows_of(self, tensor: Tensor) -> int:
        """Return how many rows a tensor has."""
        return self.rows.counts[self.versions[tensor]]

    def one_row_for_all(self, call: OperatorCall) -> OperatorCall:
        """Return a call with one row of each constant that has one for each sample.

        It fits however many rows are inserted. Constants are refused that have other numbers for
        one sample than for another, as noise has. Only a call that takes entries in the same places
        tells whether a constant has a row for each sample.
        """
        first, *_ = call.operands
        parts = len(first) // self.rows_of(first)
        if not operator_of(call.func).is_elementwise:
            masks = [t for t in call.given.get("indices", [])[:1] if t is not None]
            if not all(self.is_alike(t, parts) for t in masks if t.dtype == torch.bool):
                raise mixing(call.name)
            return call

        def may_have_rows(argument: Any) -> bool:
            is_followed = argument in self.versions
            return not is_followed and argument.dim() == first.dim() and len(argument) > 1

        if not any(map(may_have_rows, tensors(call.args, call.kwargs))):
            return call

        def one_row(argument: Any) -> Any:
            if not isinstance(argument, Tensor) or not may_have_rows(argument):
                return argument
            if not self.is_alike(argument, parts):
                raise mixing(call.name)
            return argument[:1] if len(argument) in self.rows.counts and parts == 1 else argument

        args, kwargs = tree_map(one_row, (call.args, call.kwargs))
        return replace(call, args=args, kwargs=kwargs)

    def is_alike(self, tensor: Tensor, parts: int) -> bool:
        """Tell whether a tensor is followed, or has the same numbers for every row.

        Args:
            tensor: The tensor.
            parts: How many entries of dimension 0 each row has.
        """
        rows, rest = divmod(len(tensor), parts)
        if tensor in self.versions or len(tensor) == 1 or rest or rows not in self.rows.counts:
            return True
        return has_equal_blocks(tensor.unflatten(0, (rows, parts)))

    def has_equal_rows(self, tensor: Tensor) -> bool:
        """Tell whether a tensor has numbers, and the same for every row of some version."""
        is_number = tensor.is_floating_point() or tensor.is_complex()
        has_rows = tensor.numel() > 0 and tensor.dim() > 0 and len(tensor) in self.rows.counts
        return is_number and has_rows and self.is_alike(tensor, 1)

    def fitting(self, run: Any, given: Any, named: dict[str, Any], version: int) -> Any:
        """Run an operator; if it fails, make constants fit that have too few rows.

        An example is a tensor of zeros for each sample that the network made before rows were
        inserted. All its rows are equal, so its new rows are known.
        """
        try:
            return run(*given, **named)
        except RuntimeError:
            fitted, named = tree_map(lambda each: self.fitted(each, version), (given, named))
            if all(map(operator.is_, tree_leaves(fitted), tree_leaves(given))):
                raise
            return run(*fitted, **named)

    def fitted(self, argument: Any, version: int) -> Any:
        """Return a constant with as many rows as there are now, if it has too few equal ones."""
        if not self.is_stale(argument) or not isinstance(argument, Tensor):
            return argument
        equal = len(argument) > 1 and has_equal_blocks(argument)
        now = (self.rows.counts[version], *argument.shape[1:])
        return argument[:1].expand(now) if equal else argument

    def resized(self, size: Any, version: int) -> Any:
        """Put the number of rows of `version` in place of one that the network read earlier."""
        if not isinstance(size, (list, tuple)) or not size or size[0] not in self.rows.counts:
            return size
        return [self.rows.counts[version], *size[1:]]

    def has_rows(self, argument: Any) -> bool:
        """Tell whether an argument has, or is, the number of rows of before or of now."""
        return self._has_one_of(self.rows.counts, argument)

    def is_stale(self, argument: Any) -> bool:
        """Tell whether an argument has, or is, the number of rows before some were inserted."""
        return self._has_one_of(self.rows.counts[:-1], argument)

    def _has_one_of(self, counts: list[int], argument: Any) -> bool:
        """Tell whether a constant has one of these numbers of rows, or is one of them."""
        if isinstance(argument, Tensor):
            return not self.depends(argument) and argument.dim() > 0 and len(argument) in counts
        return isinstance(argument, int) and argument in counts
