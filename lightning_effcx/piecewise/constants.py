"""Constants: tensors that a network makes without its input, such as zeros to write parts into."""

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from lightning_effcx.piecewise.memory import sharing
from lightning_effcx.tracing import OperatorCall, operator_of, returns_views, tensors


class Constants:
    """The tensors that a network makes during a pass without its input, and their views.

    What was there before, such as a buffer, is not among them.
    """

    def __init__(self) -> None:
        self._made = WeakIdKeyDictionary()

    def run(self, call: OperatorCall) -> Any:
        """Run a call that has no operands, and note what it made."""
        out = clear(call, call.run())
        if not returns_views(call.func) or any(t in self._made for t in tensors(call.args)):
            self.note(out)
        return out

    def note(self, out: Any) -> None:
        """Note new tensors."""
        for tensor in tensors(out):
            if tensor.is_floating_point() or tensor.is_complex():
                self._made[tensor] = True

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """Return the constants that share the memory of a tensor; none if it is not one of them."""
        return sharing(tensor, self._made) if tensor in self._made else []


def clear(call: OperatorCall, out: Any) -> Any:
    """Fill what a call made without values, so that all its rows are equal."""
    if operator_of(call.func).is_uninitialized:
        out.zero_()
    return out
