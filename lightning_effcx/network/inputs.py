"""Inputs: which input and which targets there are, in a batch and in the call that was heard.

Where no call was heard, and for a function of the user's, the input is the first floating-point
tensor of the batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from lightning_effcx.network.calls import Call
from lightning_effcx.network.naming import spelled
from lightning_effcx.network.nested import Place, describe, leaves, parts
from lightning_effcx.network.unsupported_inputs import inseparable
from lightning_effcx.targets import are_classes

ChooseInput: TypeAlias = Callable[[Any], Tensor | tuple[Tensor, Tensor | None]]
ChooseNetwork: TypeAlias = str | Callable[[nn.Module, Tensor], Any]

# What targets are called in batches whose parts have names.
_NAMES = ("y", "label", "labels", "target", "targets")
_FIRST: Place = (0, 0)  # of the arguments: the first positional one


class Target(NamedTuple):
    """Targets `(n, ...)`, or none, and where they are from, in words."""

    y: Tensor | None
    origin: str

    def words(self) -> str:
        """Say what they are taken for.

        Example:
            >>> import torch
            >>> Target(torch.arange(2), "`y`").words()
            'classes from `y`'
        """
        if self.y is None:
            return "no targets"
        kind = "classes" if are_classes(self.y) else "values"
        return f"{kind} from {self.origin}" if self.origin else kind  # of another process


def target_in(batch: Any, samples: int) -> Target:
    """Find the targets of so many samples in a batch: by their name, or else as the second part.

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
    """Tell whether something is a tensor with a row for each of so many samples."""
    return isinstance(y, Tensor) and bool(y.dim()) and len(y) == samples


class Input(NamedTuple):
    """What the network is called with, and the targets of these samples."""

    call: Call
    target: Target


def find_input(batch: Any, call: Call | None, choice: ChooseNetwork | None) -> Input:
    """Return input and targets, from a batch and from what the module was called with in its step.

    Args:
        batch: What the step gets.
        call: The call that was heard, if one was.
        choice: The part, or the function, that the user chose. A function is about the batch.
    """
    if call is None or callable(choice):
        call = _first_of(batch, choice)
    return Input(call, target_in(batch, call.total))


def choose_input(batch: Any, choose: ChooseInput, choice: ChooseNetwork | None) -> Input:
    """Return input and targets as the user's function finds them in a batch."""
    try:
        found: Any = choose(batch)
    except Exception as error:
        raise ValueError(
            f"no input was found: batch=... raised {type(error).__name__}: {error}"
        ) from error
    x, y = found if isinstance(found, (tuple, list)) and len(found) == 2 else (found, None)  # noqa: PLR2004
    kind = inseparable(x, ())
    if kind is not None:
        raise kind.refusal(f"batch=... returned {describe(x)}")
    if not isinstance(x, Tensor) or not x.dim() or not x.numel():
        raise ValueError(
            f"no input was found: batch=... returned {describe(found)}, expected a tensor "
            "(n, ...), or that and the target"
        )
    target = Target(y, "what batch= returns") if is_target(y, len(x)) else Target(None, "")
    return Input(_of_one(x, choice, "what batch= returns", ""), target)


def _first_of(batch: Any, choice: ChooseNetwork | None) -> Call:
    """Return a call with the first floating-point tensor of a batch."""
    found = ((place, x) for place, x in leaves(batch) if x.is_floating_point() and x.dim())
    place, x = next(((place, x) for place, x in found if x.numel()), ((), None))
    kind = inseparable(batch) if x is None else inseparable(batch, place)
    if kind is not None:
        raise kind.refusal(f"the batch is {describe(batch)}")
    if x is None:
        raise ValueError(
            "no input was found: no call with tensors was heard, nor does the "
            "batch have a floating-point tensor (n, ...)"
        )
    why = "the first floating-point tensor of the batch was taken"
    if not callable(choice):
        which = f" of network={choice!r}" if choice else ""
        why = f"no call{which} was heard, so {why}"
    return _of_one(x, choice, f"`{spelled('batch', batch, place)}`", why)


def _of_one(x: Tensor, choice: ChooseNetwork | None, origin: str, why: str) -> Call:
    part = choice if isinstance(choice, str) else ""
    return Call(part, ((x,), {}), len(x), len(x), (_FIRST,), origin, why)
