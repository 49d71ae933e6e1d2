"""Calls: what a module was called with, sample by sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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

    def copied(self) -> Self:
        """Return the same call with copies of all tensors.

        Outside of inference mode they are ordinary tensors, also where the call was heard in it.
        """
        return self.replaced({place: tensor.clone() for place, tensor in self.tensors().items()})

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
    """While open, keeps what a module is called with, the first time.

    Args:
        module: The user's module.
        part: The dotted name of its part that is of interest: if it is called by itself, and not
            within a call of the module, its own call is kept. By default this is the module's only
            child with parameters, if there is but one.
        most: How many samples to keep.
    """

    def __init__(self, module: nn.Module, part: str | None, most: int) -> None:
        self.failure: ValueError | None = None
        """Why a call could not be kept: the user's step, which makes it, must not fail of that."""
        self._most = most
        self._outer: Call | None = None
        self._inner: Call | None = None
        self._running = False
        self._handles: list[RemovableHandle] = []
        part = _only_carrier(module) if part is None else part
        self._listen(module, "", self._enter)
        if self._handles:
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        if part:
            self._listen(module, part, self._hear)

    def close(self) -> Call | None:
        """Stop listening; return what was heard."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return self._inner or self._outer

    def _listen(self, module: nn.Module, name: str, hook: Callable[..., None]) -> None:
        if name not in dict(module.named_modules()) or _is_within_compiled(module, name):
            return
        part = module.get_submodule(name)
        if not isinstance(part, torch.jit.ScriptModule):  # which takes no hooks
            # Strategies that wrap the module let forward be its step, until that begins.
            heard = partial(hook, name, part.forward)
            self._handles.append(part.register_forward_pre_hook(heard, with_kwargs=True))

    def _enter(
        self, name: str, forward: Any, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> None:
        if module.forward == forward:
            self._outer = self._outer or self._kept(name, args, kwargs)
            self._running = self._outer is not None

    def _leave(self, *_: Any) -> None:
        self._running = False

    def _hear(
        self, name: str, forward: Any, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> None:
        del forward, module
        if not self._running and self._outer is None:
            self._inner = self._inner or self._kept(name, args, kwargs)

    def _kept(self, name: str, args: Any, kwargs: dict[str, Any]) -> Call | None:
        try:
            return Call.of(name, args, kwargs, self._most)
        except Exception as error:  # noqa: BLE001 the user's classes may raise anything
            shown = ", ".join(map(structure, [*args, *kwargs.values()]))
            reason = str(error).strip().partition("\n")[0].partition(". ")[0].removesuffix(".")
            self.failure = ValueError(
                f"no input was found: the network was called with {shown}, of which single samples "
                f"cannot be taken ({type(error).__name__}: {reason})"
            )
            return None


def within(module: nn.Module, call: Call, part: str) -> Call | None:
    """Call a module; return what it calls a part of it with, of as many samples."""
    heard: list[Call | None] = []

    def hear(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        heard.append(Call.of(part, args, kwargs, call.samples))

    handle = module.get_submodule(part).register_forward_pre_hook(hear, with_kwargs=True)
    try:
        args, kwargs = call.given
        module(*args, **kwargs)
    finally:
        handle.remove()
    return next((found for found in heard if found is not None), None)


def _only_carrier(module: nn.Module) -> str | None:
    """Return the name of the child that carries the parameters, if it is but one."""
    carriers = [
        name
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None
    ]
    return carriers[0] if len(carriers) == 1 else None


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
