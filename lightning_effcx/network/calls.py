"""Calls: the arguments of a call of a module, sample by sample."""

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
    """The arguments of a call of a module, or of a part of it.

    Attributes:
        part: The part's dotted name; empty for the module itself.
        given: The positional and the keyword arguments.
        samples: How many samples `n` are kept.
        total: How many samples there were.
        varying: The places of the arguments of shape `(n, ...)`. All other arguments are the same
            for all samples.
        origin: If there was no such call: where the only argument comes from, in words.
        why: If the user did not choose this argument: why it was taken, in words.
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
        """Keep the first samples of a call. Return `None` for a call without tensors.

        The number of samples is the number of rows of an output, if an argument has as many rows.
        Otherwise it is the number of rows of the first floating-point argument, or of the first
        tensor if no argument is floating-point. Tensors without elements are passed over.

        Args:
            part: As in the class.
            args: The positional arguments.
            kwargs: The keyword arguments.
            most: How many samples to keep.
            rows: How many rows each output of the call has.
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
        """Return whether a tensor was the only argument, and positional."""
        args, kwargs = self.given
        return len(args) == 1 and isinstance(args[0], Tensor) and not kwargs

    def tensors(self) -> dict[Place, Tensor]:
        """Return all tensors among the arguments, by place."""
        return dict(leaves(self.given))

    def of_samples(self) -> dict[Place, Tensor]:
        """Return the arguments of shape `(n, ...)`, by place."""
        return {place: at(self.given, place) for place in self.varying}

    def replaced(self, tensors: Mapping[Place, Tensor], samples: int | None = None) -> Self:
        """Return the same call with other tensors at some places."""
        given = map_tensors(self.given, tensors.get)
        return replace(self, given=given, samples=self.samples if samples is None else samples)

    def beside(self, x: Tensor) -> Self:
        """Return the same call with all tensors on the CPU if only `x` is there.

        A call on another device may have tensors on the CPU, such as lengths: they stay there.
        """
        # Measures call the network often, and only a change of device is worth a walk.
        if x.device.type != "cpu" or all(t.is_cpu for t in self.of_samples().values()):
            return self
        return replace(self, given=map_tensors(self.given, lambda _, tensor: tensor.cpu()))

    def copied(self) -> Self:
        """Return the same call with copies of all tensors.

        Copies that are made outside of inference mode are ordinary tensors, even if the call was
        recorded inside it.
        """
        return replace(self, given=copy_arguments(self.given))

    def rows(self, index: Tensor | slice) -> Self:
        """Return the call with some of its samples."""
        chosen = {place: tensor[index] for place, tensor in self.of_samples().items()}
        return self.replaced(chosen, len(chosen[self.varying[0]]))

    def fits(self, other: Self) -> bool:
        """Return whether the samples of another call can be joined to these."""
        own, others = self.tensors(), other.tensors()
        return (self.part, self.varying, [*own]) == (other.part, other.varying, [*others]) and all(
            tensor.shape[1:] == others[place].shape[1:] and tensor.dtype == others[place].dtype
            if place in self.varying
            else torch.equal(tensor, others[place])
            for place, tensor in own.items()
        )

    def joined(self, others: Sequence[Self]) -> Self:
        """Return the call with the samples of other calls after its own. The calls must fit."""
        tensors = [self.of_samples(), *(other.of_samples() for other in others)]
        all_of_them = {place: torch.cat([t[place] for t in tensors]) for place in self.varying}
        return self.replaced(all_of_them, len(all_of_them[self.varying[0]]))


def copy_arguments(given: Given) -> Given:
    """Copy all tensors among some arguments."""
    copies: Given = map_tensors(given, lambda _, tensor: tensor.detach().clone())
    return copies


def count_rows(outputs: Any) -> list[int]:
    """Return how many rows each tensor among some outputs has."""
    tensors = [tensor for _, tensor in leaves(outputs)]
    return [len(tensor) for tensor in tensors if not tensor.is_nested and tensor.dim()]


def call_of_part(module: nn.Module, call: Call, part: str) -> Call | None:
    """Call a module. Return its first call of a part, with all rows, or `None` without tensors."""
    given: list[Given] = []
    found: list[Call | None] = []

    def enter(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given.append(copy_arguments((args, kwargs)))  # the part may change its arguments

    def leave(_: nn.Module, __: Any, outputs: Any) -> None:
        found.append(Call.of(part, *given.pop(), sys.maxsize, count_rows(outputs)))

    with ExitStack() as stack:
        inner = module.get_submodule(part)
        stack.callback(inner.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(inner.register_forward_hook(leave).remove)
        args, kwargs = call.given
        module(*args, **kwargs)
    return next((each for each in found if each is not None), None)
