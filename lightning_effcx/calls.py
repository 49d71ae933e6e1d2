"""Calls: what a module was called with, sample by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_effcx.structures import Place, at, leaves, mapped, structure


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
    """

    part: str
    given: tuple[tuple[Any, ...], dict[str, Any]]
    samples: int
    total: int
    varying: tuple[Place, ...]

    @classmethod
    def of(cls, part: str, args: tuple[Any, ...], kwargs: dict[str, Any], most: int) -> Self | None:
        """Keep the first samples of a call, `most` of them; nothing of a call without tensors.

        The first tensor tells how many samples there are.
        """
        found = [(place, tensor) for place, tensor in leaves((args, kwargs)) if tensor.dim()]
        if not found or not len(found[0][1]):
            return None
        n = len(found[0][1])
        varying = tuple(place for place, tensor in found if len(tensor) == n)

        def kept(place: Place, tensor: Tensor) -> Tensor:
            tensor = tensor.detach()
            return (tensor[:most] if place in varying else tensor).clone()

        return cls(part, mapped((args, kwargs), kept), min(n, most), n, varying)

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
        given = mapped(self.given, tensors.get)
        return replace(self, given=given, samples=self.samples if samples is None else samples)

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


class Recorder:
    """While open, keeps what parts of a module are called with, the first time each.

    Args:
        module: The user's module.
        part: The dotted name of the part to listen to. By default the module itself, and its child
            if only one of them has parameters.
        most: How many samples to keep.
    """

    def __init__(self, module: nn.Module, part: str | None, most: int) -> None:
        self.calls: dict[str, Call] = {}
        self.failure: ValueError | None = None
        """Why a call could not be kept: the user's step, which makes it, must not fail of that."""
        self._most = most
        self._handles = [
            listened.register_forward_pre_hook(
                partial(self._record, name, listened.forward), with_kwargs=True
            )
            for name, listened in _listened(module, part)
            if not _is_within_compiled(module, name)
            and not isinstance(listened, torch.jit.ScriptModule)  # which takes no hooks
        ]

    def close(self) -> Call | None:
        """Stop listening; return the call that says most about the module, if there was any."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return self.calls.get("", next(iter(self.calls.values()), None))

    def _record(
        self, name: str, forward: Any, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> None:
        # Strategies that wrap the module let forward be its step, for as long as that begins.
        if name not in self.calls and module.forward == forward:
            try:
                call = Call.of(name, args, kwargs, self._most)
            except Exception as error:  # noqa: BLE001 the user's classes may raise anything
                self.failure = _unkept(args, kwargs, error)
                return
            if call is not None:
                self.calls[name] = call


def _unkept(args: Any, kwargs: dict[str, Any], error: Exception) -> ValueError:
    shown = ", ".join([*map(structure, args), *map(structure, kwargs.values())])
    reason = str(error).strip().partition("\n")[0].partition(". ")[0].removesuffix(".")
    return ValueError(
        f"no input was found: the network was called with {shown}, of which single samples cannot "
        f"be taken ({type(error).__name__}: {reason})"
    )


def _listened(module: nn.Module, part: str | None) -> list[tuple[str, nn.Module]]:
    if part is not None:
        return [(name, found) for name, found in module.named_modules() if name == part]
    carriers = [
        (name, child)
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None
    ]
    return [("", module), *(carriers if len(carriers) == 1 else [])]


def _is_within_compiled(module: nn.Module, name: str) -> bool:
    """Tell whether a hook of a part would be compiled with what the user compiles, changing it."""
    around = [module]
    for step in name.split(".") if name else ():
        around.append(getattr(around[-1], step))
    part = around.pop()
    return part._compiled_call_impl is not None or any(  # noqa: SLF001 set by module.compile()
        outer._compiled_call_impl is not None  # noqa: SLF001
        or hasattr(outer, "_orig_mod")  # by torch.compile(module)
        or getattr(outer, "_compiler_ctx", None)  # by Lightning, of a LightningModule
        for outer in around
    )
