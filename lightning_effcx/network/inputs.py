"""Inputs: find the input of the network, and the targets, in a batch and in a recorded call.

The input is what the module was called with. If no call was recorded, or if the user gives a
function as network=, it is the first floating-point tensor of the batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from lightning_effcx.network.calls import Call
from lightning_effcx.network.naming import expression
from lightning_effcx.network.nested import Place, describe, leaves, parts
from lightning_effcx.network.unsupported_inputs import find_unsupported
from lightning_effcx.targets import are_classes

ChooseInput: TypeAlias = Callable[[Any], Tensor | tuple[Tensor, Tensor | None]]
ChooseNetwork: TypeAlias = str | Callable[[nn.Module, Tensor], Any]

# Names of targets in batches whose parts have names.
_NAMES = ("y", "label", "labels", "target", "targets")
_FIRST: Place = (0, 0)  # the first positional argument


class Target(NamedTuple):
    """Targets `(n, ...)` or `None`, and where they come from, in words."""

    y: Tensor | None
    origin: str

    def words(self) -> str:
        """Say whether they are classes or values, and where they come from.

        Example:
            >>> import torch
            >>> Target(torch.arange(2), "`y`").words()
            'classes from `y`'
        """
        if self.y is None:
            return "no targets"
        kind = "classes" if are_classes(self.y) else "values"
        return f"{kind} from {self.origin}" if self.origin else kind  # another process found them


def target_in(batch: Any, samples: int) -> Target:
    """Find the targets of a number of samples in a batch: by name, or else as the second part.

    Example:
        >>> import torch
        >>> target_in({"x": torch.zeros(2, 3), "y": torch.arange(2)}, 2)
        Target(y=tensor([0, 1]), origin='`y`')
    """
    inside = parts(batch)
    found = [Target(inside[name], f"`{name}`") for name in _NAMES if name in inside]
    if not isinstance(batch, Mapping):
        found += [Target(y, "the second part of the batch") for y in [*inside.values()][1:2]]
    return next((each for each in found if is_target(each.y, samples)), Target(None, ""))


def is_target(y: Any, samples: int) -> bool:
    """Return whether something is a tensor with a row for each sample."""
    return isinstance(y, Tensor) and bool(y.dim()) and len(y) == samples


class Input(NamedTuple):
    """The arguments of the network, and the targets of these samples."""

    call: Call
    target: Target


def find_input(batch: Any, call: Call | None, choice: ChooseNetwork | None) -> Input:
    """Find input and targets in a batch and in the call that the module got in its step.

    Args:
        batch: The batch that the step got.
        call: The call, if one was recorded.
        choice: The user's `network=`, a part or a function. A function is applied to the batch.
    """
    if call is None or callable(choice):
        call = _call_with_first_tensor(batch, choice)
    return Input(call, target_in(batch, call.total))


def choose_input(batch: Any, choose: ChooseInput, choice: ChooseNetwork | None) -> Input:
    """Return input and targets as the user's `batch=` returns them."""
    try:
        found: Any = choose(batch)
    except Exception as error:
        raise ValueError(
            f"no input was found: batch=... raised {type(error).__name__}: {error}"
        ) from error
    x, y = found if isinstance(found, (tuple, list)) and len(found) == 2 else (found, None)  # noqa: PLR2004
    kind = find_unsupported(x, ())
    if kind is not None:
        raise kind.refusal(f"batch=... returned {describe(x)}")
    if not isinstance(x, Tensor) or not x.dim() or not x.numel():
        raise ValueError(
            f"no input was found: batch=... returned {describe(found)}, expected a tensor "
            "(n, ...), or a pair of this tensor and the targets"
        )
    target = Target(y, "what batch= returns") if is_target(y, len(x)) else Target(None, "")
    return Input(_call_of(x, choice, "what batch= returns", ""), target)


def _call_with_first_tensor(batch: Any, choice: ChooseNetwork | None) -> Call:
    """Return a call with the first floating-point tensor of a batch."""
    found = ((place, x) for place, x in leaves(batch) if x.is_floating_point() and x.dim())
    place, x = next(((place, x) for place, x in found if x.numel()), ((), None))
    kind = find_unsupported(batch) if x is None else find_unsupported(batch, place)
    if kind is not None:
        raise kind.refusal(f"the batch is {describe(batch)}")
    if x is None:
        raise ValueError(
            "no input was found: no call with tensors was seen, and the batch has no "
            "floating-point tensor (n, ...)"
        )
    why = "the first floating-point tensor of the batch was taken"
    if not callable(choice):
        which = f" of network={choice!r}" if choice else ""
        why = f"no call{which} was seen, so {why}"
    return _call_of(x, choice, f"`{expression('batch', batch, place)}`", why)


def _call_of(x: Tensor, choice: ChooseNetwork | None, origin: str, why: str) -> Call:
    part = choice if isinstance(choice, str) else ""
    return Call(part, ((x,), {}), len(x), len(x), (_FIRST,), origin, why)
