"""Step memory: which memory holds numbers that jump at kinks and are constant elsewhere.

The sign of a tensor is one example. A product with it only scales the other factor, so that
`x.sign() * x` is no second nonlinearity. Truth values need no notes: they are no numbers, so that
nothing counts as depending on the input because of them.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lightning_effcx.tracing.operators import (
    Operation,
    OperatorCall,
    nonlinearity,
    operator_of,
    tensors,
)
from lightning_effcx.tracing.places import memory_of


class StepMemory:
    """The memory of such tensors. A weak reference keeps an address from being given to others."""

    def __init__(self) -> None:
        self._steps: dict[int, StorageWeakRef] = {}

    def read(self, call: OperatorCall) -> Operation | None:
        """Return the nonlinear operation that a call is; `None` if it is affine beside steps."""
        operation = nonlinearity(call)
        if operation is None or not any(map(self._is_step, call.operands)):
            return operation
        moving = [each for each in call.operands if not self._is_step(each)]
        if moving:
            return nonlinearity(replace(call, depends=partial(self._moves, call)))
        is_affine = operator_of(call.func).affine
        return None if all(map(is_affine, call.one_by_one())) else operation  # a product of steps

    def note(self, call: OperatorCall, out: Any) -> None:
        """Note whether what a call returned is constant between kinks."""
        is_flat = operator_of(call.func).is_flat and not call.is_in_place()
        if not is_flat and not self._steps:
            return
        is_step = is_flat or all(map(self._is_step, call.operands))
        for tensor in tensors(out, call.overwritten()):
            memory = memory_of(tensor)
            self._steps.pop(memory, None)
            if is_step:
                self._steps[memory] = StorageWeakRef(tensor.untyped_storage())

    def _is_step(self, tensor: Tensor) -> bool:
        return memory_of(tensor) in self._steps

    def _moves(self, call: OperatorCall, argument: Any) -> bool:
        """Tell whether an argument depends on the input, and not by steps alone."""
        if isinstance(argument, (list, tuple)):
            return any(self._moves(call, each) for each in argument)
        return call.depends(argument) and not self._is_step(argument)
