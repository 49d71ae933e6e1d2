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

from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.tracing import OperatorCall, mixing, tensors, writing_into_a_part


class Followed:
    """The tensors that a pass follows.

    Args:
        rows: The rows of the pass.
        x: The inputs there.

    Attributes:
        versions: The version of the rows of each tensor.
        indices: The tensors of whole numbers that say which element a choice took.
    """

    def __init__(self, rows: Rows, x: Tensor) -> None:
        self.rows = rows
        self.dtype = x.dtype
        self.versions = WeakIdKeyDictionary()
        self.versions[x] = 0
        self.indices = WeakIdKeyDictionary()

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
        return arguments.to(self.dtype) if arguments.is_floating_point() else arguments

    def bring_call(self, call: OperatorCall, version: int) -> OperatorCall:
        """Return a call with its arguments brought to the rows of `version`."""
        args, kwargs = self.bring((call.args, call.kwargs), version)
        return replace(call, args=args, kwargs=kwargs)

    def first(self, tensor: Tensor) -> Tensor:
        """Return a tensor that depends on x at the rows of the start."""
        return self.rows.first(tensor, self.versions[tensor])

    def put(self, call: OperatorCall, out: Any, name: str, version: int) -> Any:
        """Register what a call returned; if it works in place, in the tensor that it writes to."""
        target = call.overwritten()
        if target is not None:
            self._overwrite(target, out, name, version)
            out = target
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

    def _overwrite(self, target: Any, value: Tensor, name: str, version: int) -> None:
        """Let a tensor, and those that share its memory, hold what was written to it in place."""
        shared = self._sharing(target) if self.depends(target) else []
        if not self.depends(target) or not all(_is_whole(t, target) for t in shared):
            raise writing_into_a_part(name)
        rows = self.rows.counts[self.versions[target]]
        now = self.rows.counts[version]
        value = value.contiguous() if shared else value
        target.set_(value)
        for other in shared:  # such as what a view was taken of
            other.set_(value.view(len(other) // rows * now, *other.shape[1:]))
            self.versions[other] = version

    def _sharing(self, target: Tensor) -> list[Any]:
        """Return the other tensors still in use that share the target's memory."""
        storage = target.untyped_storage().data_ptr()
        others = (t for t in self.versions if t is not target and t.numel())
        return [t for t in others if t.untyped_storage().data_ptr() == storage]

    def fitting(self, run: Any, given: Any, named: dict[str, Any], version: int) -> Any:
        """Run an operator; if it fails, make constants fit that have too few rows.

        An example is a tensor of zeros for each sample that the network made before rows were
        inserted. All its rows are equal, so its new rows are known.
        """
        try:
            return run(*given, **named)
        except RuntimeError:
            fitted, named = tree_map(lambda each: self._fitted(each, version), (given, named))
            if all(map(operator.is_, tree_leaves(fitted), tree_leaves(given))):
                raise
            return run(*fitted, **named)

    def _fitted(self, argument: Any, version: int) -> Any:
        if not self.is_stale(argument) or not isinstance(argument, Tensor):
            return argument
        first = argument[:1].expand_as(argument)
        equal = torch.equal(argument, first) and len(argument) > 1
        now = (self.rows.counts[version], *argument.shape[1:])
        return argument[:1].expand(now) if equal else argument

    def resized(self, x: Tensor, size: Any) -> Any:
        """Correct a batch size that the network read before rows were inserted."""
        version = self.versions[x]
        if not isinstance(size, (list, tuple)) or not size:
            return size
        for stale in reversed(self.rows.counts[:version]):
            if size[0] == stale:
                return [self.rows.counts[version], *size[1:]]
        return size

    def is_stale(self, argument: Any) -> bool:
        """Tell whether an argument has, or is, the number of rows before some were inserted."""
        before = self.rows.counts[:-1]
        if isinstance(argument, Tensor):
            return not self.depends(argument) and bool(argument.dim()) and len(argument) in before
        return isinstance(argument, int) and argument in before


def _is_whole(tensor: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of the same memory are the same numbers in the same order."""
    contiguous = tensor.is_contiguous() and other.is_contiguous()
    same_place = tensor.storage_offset() == other.storage_offset()
    return contiguous and same_place and tensor.numel() == other.numel()
