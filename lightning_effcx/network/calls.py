"""Calls: what a module was called with, sample by sample."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from lightning_effcx.network.nested import Place, at, leaves, map_tensors

Given: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@dataclass(frozen=True, eq=False)
class Call:
    """What a part of a module was called with.

    Attributes:
        part: The part's dotted name; empty for the module itself.
        given: Its positional and its keyword arguments.
        samples: How many samples `n` are kept.
        total: How many there were.
        varying: The places of the tensors among the arguments that are of shape `(n, ...)`. All
            else is the same for all samples.
        origin: Where the only argument is from, in words, if this is no call that was heard.
        why: Why that was taken, in words, if the user did not say so.
    """

    part: str
    given: Given
    samples: int
    total: int
    varying: tuple[Place, ...]
    origin: str = ""
    why: str = ""

    @classmethod
    def of(
        cls,
        part: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        most: int,
        rows: Sequence[int] = (),
    ) -> Self | None:
        """Keep the first samples of a call, `most` of them; nothing of a call without tensors.

        There are as many samples as the outputs have rows, if a tensor among the arguments has as
        many, too. Else the first floating-point tensor tells their number, or the first tensor if
        there is none of these. Tensors without elements tell nothing.

        Args:
            part: As in the class.
            args: As in the class.
            kwargs: As in the class.
            most: How many samples to keep.
            rows: How many rows each of the outputs of the call has.
        """
        found = [(place, tensor) for place, tensor in leaves((args, kwargs)) if tensor.dim()]
        full = [tensor for _, tensor in found if tensor.numel()]
        if not full:
            return None
        lengths = [len(tensor) for tensor in sorted(full, key=lambda t: not t.is_floating_point())]
        n = next((count for count in rows if count in lengths), lengths[0])
        varying = tuple(place for place, tensor in found if len(tensor) == n)

        def kept(place: Place, tensor: Tensor) -> Tensor:
            tensor = tensor.detach()
            return (tensor[:most] if place in varying else tensor).clone()

        return cls(part, map_tensors((args, kwargs), kept), min(n, most), n, varying)

    def is_of_one_argument(self) -> bool:
        """Tell whether there was nothing but one positional argument, a tensor."""
        args, kwargs = self.given
        return len(args) == 1 and isinstance(args[0], Tensor) and not kwargs

    def tensors(self) -> dict[Place, Tensor]:
        """Return all tensors among the arguments, by their places."""
        return dict(leaves(self.given))

    def of_samples(self) -> dict[Place, Tensor]:
        """Return the tensors of shape `(n, ...)`, by their places."""
        return {place: at(self.given, place) for place in self.varying}

    def replaced(self, tensors: Mapping[Place, Tensor], samples: int | None = None) -> Self:
        """Return the same call with other tensors at some places."""
        given = map_tensors(self.given, tensors.get)
        return replace(self, given=given, samples=self.samples if samples is None else samples)

    def beside(self, x: Tensor) -> Self:
        """Return the same call with all tensors on the CPU if `x` is there.

        A call on another device may have tensors on the CPU, such as lengths: they stay there.
        """
        if x.device.type != "cpu":
            return self
        return replace(self, given=map_tensors(self.given, lambda _, tensor: tensor.cpu()))

    def copied(self) -> Self:
        """Return the same call with copies of all tensors.

        Outside of inference mode they are ordinary tensors, also where the call was heard in it.
        """
        return replace(self, given=copied(self.given))

    def rows(self, index: Tensor | slice) -> Self:
        """Return the call with some of the samples."""
        chosen = {place: tensor[index] for place, tensor in self.of_samples().items()}
        return self.replaced(chosen, len(chosen[self.varying[0]]))

    def fits(self, other: Self) -> bool:
        """Tell whether the samples of another call can be joined to these."""
        own, others = self.tensors(), other.tensors()
        return (self.part, self.varying, [*own]) == (other.part, other.varying, [*others]) and all(
            tensor.shape[1:] == others[place].shape[1:] and tensor.dtype == others[place].dtype
            if place in self.varying
            else torch.equal(tensor, others[place])
            for place, tensor in own.items()
        )

    def joined(self, others: Sequence[Self]) -> Self:
        """Return the call with the samples of other calls that fit it after its own."""
        tensors = [self.of_samples(), *(other.of_samples() for other in others)]
        all_of_them = {place: torch.cat([t[place] for t in tensors]) for place in self.varying}
        return self.replaced(all_of_them, len(all_of_them[self.varying[0]]))


def copied(given: Given) -> Given:
    """Copy all tensors among some arguments."""
    copies: Given = map_tensors(given, lambda _, tensor: tensor.detach().clone())
    return copies


def rows_of(outputs: Any) -> list[int]:
    """Return how many rows each tensor among some outputs has."""
    tensors = [tensor for _, tensor in leaves(outputs)]
    return [len(tensor) for tensor in tensors if not tensor.is_nested and tensor.dim()]


def within(module: nn.Module, call: Call, part: str) -> Call | None:
    """Call a module; return what it calls a part of it with, all of the rows."""
    given: list[Given] = []
    heard: list[Call | None] = []

    def enter(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given.append(copied((args, kwargs)))  # which the part may change

    def leave(_: nn.Module, __: Any, outputs: Any) -> None:
        heard.append(Call.of(part, *given.pop(), sys.maxsize, rows_of(outputs)))

    with ExitStack() as stack:
        inner = module.get_submodule(part)
        stack.callback(inner.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(inner.register_forward_hook(leave).remove)
        args, kwargs = call.given
        module(*args, **kwargs)
    return next((found for found in heard if found is not None), None)
