"""The recorder: keeps the arguments of the calls that a module gets while its step runs."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_effcx.network.calls import Call, Given, copy_arguments, count_rows
from lightning_effcx.network.naming import name_arguments
from lightning_effcx.network.unsupported_inputs import (
    Unsupported,
    describe_arguments,
    find_unsupported,
    unknown,
)

_DEPTH = 2  # of the parts that are named in messages
# These run other kernels where there are hooks in them.
_UNHOOKED = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)


class Recorder:
    """Keeps the arguments of the first call of a module, until it is closed.

    Args:
        module: The user's module.
        part: The dotted name of the part of interest. If it is called outside of any call of the
            module, its own call is kept. By default it is the only child with parameters.
        most: How many samples to keep.
    """

    def __init__(self, module: nn.Module, part: str | None, most: int) -> None:
        self.failure: ValueError | None = None
        """Why a call was not kept. It is not raised, so that the user's step goes on."""
        self._most = most
        self._is_named = part is not None
        self._calls: dict[str, Call] = {}
        # For each running call: its arguments, why they are not kept, or `None` if not needed.
        self._running: list[Given | Unsupported | None] = []
        self._ran: list[str] = []
        self._handles: list[RemovableHandle] = []
        self._children = [name for name, child in module.named_children() if _has_parameters(child)]
        only = self._children[0] if len(self._children) == 1 else ""
        self._part = only if part is None else part
        for name in dict.fromkeys(("", self._part)):
            self._record(module, name)
        for name, each in module.named_modules():
            if (
                name
                and name.count(".") < _DEPTH
                and _has_parameters(each)
                and _takes_hooks(module, name)
            ):
                self._handles.append(each.register_forward_pre_hook(partial(self._note, name)))

    def close(self) -> Call | None:
        """Stop recording. Return the call that was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return self._calls.get(self._part) or self._calls.get("")

    def parts(self) -> list[str]:
        """Name parts with parameters, to choose from. Those that ran by themselves come first."""
        return [*dict.fromkeys([*self._ran, *self._children])]

    def _record(self, module: nn.Module, name: str) -> None:
        if name not in dict(module.named_modules()) or _is_within_compiled(module, name):
            return
        part = module.get_submodule(name)
        if isinstance(part, torch.jit.ScriptModule):  # it takes no hooks
            return
        # A strategy that wraps the module may set its step as its forward until the step begins.
        enter, leave = partial(self._enter, name, part.forward), partial(self._leave, name)
        self._handles += [
            part.register_forward_pre_hook(enter, with_kwargs=True),
            part.register_forward_hook(leave, always_call=True),
        ]

    def _note(self, name: str, *_: Any) -> None:
        is_within = any(name.startswith(f"{outer}.") for outer in self._ran)
        if not is_within and not any(self._running) and not self._calls:
            self._ran.append(name)

    def _enter(
        self, name: str, forward: Any, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> None:
        is_new = not {name, ""} & {*self._calls} and not any(self._running)
        is_wanted = is_new and module.forward == forward
        self._running.append(self._copy(module, args, kwargs) if is_wanted else None)

    def _leave(self, name: str, _module: nn.Module, _args: Any, outputs: Any) -> None:
        given = self._running.pop()
        # A call that raised returns nothing, either.
        if given is None or isinstance(given, Unsupported) or outputs is None:
            return
        try:
            args, kwargs = given
            call = Call.of(name, args, kwargs, self._most, count_rows(outputs))
        except Exception as error:  # noqa: BLE001 the user's classes may raise anything
            self._fail(unknown(error), given)
            return
        if call is not None:
            self._calls[name] = call

    def _copy(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> Given | Unsupported | None:
        """Copy the arguments of a call, which the module may change.

        If they cannot be copied, return why. Then calls inside this call are passed over, unless
        their arguments have a row for each sample or the user named their part.
        """
        try:
            kind = find_unsupported(name_arguments(module, args, kwargs))
            if kind is None:
                given = copy_arguments((args, kwargs))
                return given if Call.of("", *given, 1) else None
        except Exception as error:  # noqa: BLE001 the user's classes may raise anything
            kind = unknown(error)
        self._fail(kind, (args, kwargs))
        return None if kind.by_rows or self._is_named else kind

    def _fail(self, kind: Unsupported, given: Given) -> None:
        self.failure = kind.refusal(f"the network was called with {describe_arguments(*given)}")


def _has_parameters(part: nn.Module) -> bool:
    """Return whether a part has parameters."""
    return next(part.parameters(), None) is not None


def _takes_hooks(module: nn.Module, name: str) -> bool:
    """Return whether a part with a hook still runs the same kernels."""
    around = [module.get_submodule(name.rpartition(".")[0]), module.get_submodule(name)]
    return not (
        any(isinstance(part, (torch.jit.ScriptModule, *_UNHOOKED)) for part in around)
        or hasattr(around[-1], "_orig_mod")
        or _is_within_compiled(module, name)
    )


def _is_within_compiled(module: nn.Module, name: str) -> bool:
    """Return whether a hook of a part would be compiled together with the user's code."""
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
