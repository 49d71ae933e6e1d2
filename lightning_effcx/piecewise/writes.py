"""Writes: what a network writes in place, into a whole tensor or into a part of one.

Tensors that share memory, such as a tensor and its views, are written together. They move to other
memory with the rows of the write (`memory.py`). A constant is followed from its first write on.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.piecewise.memory import (
    blocks,
    fills_its_memory,
    has_equal_blocks,
    lies_by_row,
    place,
    sharing,
)
from lightning_effcx.tracing import (
    OperatorCall,
    RefusedError,
    mixing,
    only_reshapes,
    tensors,
    writing,
)


class Writes:
    """Writes to the tensors that a pass follows.

    Args:
        followed: These tensors.
    """

    def __init__(self, followed: Followed) -> None:
        self.followed = followed

    def put(self, call: OperatorCall, out: Any, name: str, version: int) -> Any:
        """Register what a call returned; if it works in place, in the tensor that it writes to."""
        target = call.overwritten()
        if target is None:
            return self.followed.put(out, name, version)
        if only_reshapes(call.func):
            self.followed.put(out, name, version)  # refuses a shape without rows
            return call.run()
        self.write(target, out, name, version)
        return target

    def write(self, target: Tensor, value: Tensor, name: str, version: int) -> None:
        """Let a tensor, and those that share its memory, hold what was written to it in place.

        They all move to other memory: what was kept of them before has to stay as it is.

        Args:
            target: The tensor.
            value: What it is to hold, at the rows of `version`.
            name: The site that writes.
            version: The version of the rows.
        """
        strides = value.stride() == target.stride()
        if strides and fills_its_memory(target) and fills_its_memory(value):
            self._move(target, value, name, version)
        else:
            memory = self._bring_memory(target, name, version)
            part = place(
                target.new_empty(0), memory, target, self.followed.rows_of(target), len(memory)
            )
            part.copy_(value)
            self._move(target, memory, name, version)

    def hold(self, target: Tensor, value: Tensor, version: int) -> None:
        """Let a tensor hold more exact values of itself, at the rows of `version`, if it can."""
        if self.followed.depends(target) and target.shape[1:] == value.shape[1:]:
            with suppress(RefusedError):
                self.write(target, value, "", version)

    def is_shared(self, target: Tensor) -> bool:
        """Tell whether another tensor still in use shares the target's memory."""
        return len(sharing(target, self.followed.versions)) > 1

    def write_outs(self, call: OperatorCall, made: Any) -> Any:
        """Write what a call returned to where the network wants it."""
        targets = list(call.outs().values())
        for target, value in zip(targets, tensors(made), strict=True):
            if value not in self.followed.versions:
                value = self._constant_like(target, value, call.name)  # noqa: PLW2901
            if not target.numel():  # torch resizes it
                target.data = value
                self.followed.versions[target] = self.followed.versions[value]
                continue
            if target not in self.followed.versions:
                self.adopt(target, call.name)
            version = max(self.followed.versions[target], self.followed.versions[value])
            value = self.followed.bring(value, version)  # noqa: PLW2901
            if value.shape[1:] != target.shape[1:]:
                raise writing(call.name)  # torch would resize it, and warn of it
            self.write(target, value, call.name, version)
        return targets[0] if len(targets) == 1 else tuple(targets)

    def _constant_like(self, target: Tensor, value: Tensor, name: str) -> Tensor:
        """Follow a constant that is to be written to a tensor, at the rows of the tensor."""
        version = self.followed.versions.get(target)
        if version is None or not value.is_floating_point() or not self.followed.is_alike(value, 1):
            raise writing(name)
        value = self.followed.fitted(self.followed.cast(value), version)
        if value.shape != target.shape:
            raise writing(name)
        self.followed.versions[value] = version
        return value

    def adopt_written(self, call: OperatorCall) -> OperatorCall:
        """Return a call all of whose operands are followed, also a constant that it writes to."""
        target = call.overwritten()
        if target is None or target in self.followed.versions:
            return call
        self.adopt(target, call.name)
        return replace(call)

    def refresh(self, tensor: Tensor) -> None:
        """Bring a tensor, and those that share its memory, to the current rows."""
        now = self.followed.rows.version
        if self.followed.versions[tensor] != now:
            self._move(tensor, self._bring_memory(tensor, "view", now), "view", now)

    def adopt(self, tensor: Tensor, name: str) -> None:
        """Follow a constant that the network is about to write to, if its rows are all equal."""
        family = self.followed.constants.sharing(tensor)
        if not family or not tensor.dim() or len(tensor) not in self.followed.rows.counts:
            raise writing(name)
        rows = len(tensor)
        if not all(lies_by_row(t, rows) and t.dtype == tensor.dtype for t in family):
            raise writing(name)
        memory = blocks(tensor, rows)
        if not has_equal_blocks(memory):
            raise mixing(name)
        memory = self.followed.cast(memory)
        for each in family:
            # The precision of a tensor changes with its data only.
            each.data = place(memory.new_empty(0), memory, each, rows, rows)
            self.followed.versions[each] = self.followed.rows.counts.index(rows)

    def _bring_memory(self, tensor: Tensor, name: str, version: int) -> Tensor:
        """Return a copy of the memory of a tensor at the rows of `version`, `(rows, b)`."""
        rows = self.followed.rows_of(tensor)
        if not lies_by_row(tensor, rows):
            raise writing(name)
        memory = blocks(tensor, rows)
        brought = self.followed.rows.bring(memory, self.followed.versions[tensor], version)
        return memory.clone() if brought is memory else brought

    def _move(self, tensor: Tensor, memory: Tensor, name: str, version: int) -> None:
        """Move a tensor and all that share its memory to memory with the rows of `version`."""
        rows = self.followed.rows_of(tensor)
        family = sharing(tensor, self.followed.versions)
        if len(family) > 1 and not all(lies_by_row(t, rows) for t in family):
            raise writing(name)
        for each in family:
            place(each, memory, each, rows, self.followed.rows.counts[version])
            self.followed.versions[each] = version
