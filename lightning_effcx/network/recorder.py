"""The recorder: hears what a module is called with while its step runs, and what runs in it."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_effcx.network.calls import Call, Given, copied, rows_of
from lightning_effcx.network.naming import named
from lightning_effcx.network.unsupported_inputs import Whole, inseparable, shown, unknown

_DEPTH = 2  # of the parts that are named in messages
# These run other kernels where there are hooks in them.
_UNHOOKED = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)


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
        self._is_named = part is not None
        self._calls: dict[str, Call] = {}
        # What the calls that are running were called with, or why that is not kept, if it matters.
        self._running: list[Given | Whole | None] = []
        self._ran: list[str] = []
        self._handles: list[RemovableHandle] = []
        self._children = [name for name, child in module.named_children() if _carries(child)]
        only = self._children[0] if len(self._children) == 1 else ""
        self._part = only if part is None else part
        for name in dict.fromkeys(("", self._part)):
            self._listen(module, name)
        for name, each in module.named_modules():
            if name and name.count(".") < _DEPTH and _carries(each) and _takes_hooks(module, name):
                self._handles.append(each.register_forward_pre_hook(partial(self._note, name)))

    def close(self) -> Call | None:
        """Stop listening; return what was heard."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return self._calls.get(self._part) or self._calls.get("")

    def parts(self) -> list[str]:
        """Name parts with parameters that a user may choose: first those that ran by themselves."""
        return [*dict.fromkeys([*self._ran, *self._children])]

    def _listen(self, module: nn.Module, name: str) -> None:
        if name not in dict(module.named_modules()) or _is_within_compiled(module, name):
            return
        part = module.get_submodule(name)
        if isinstance(part, torch.jit.ScriptModule):  # which takes no hooks
            return
        # Strategies that wrap the module let forward be its step, until that begins.
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
        self._running.append(self._kept(module, args, kwargs) if is_wanted else None)

    def _leave(self, name: str, module: nn.Module, args: Any, outputs: Any) -> None:
        del module
        given = self._running.pop()
        # Nothing is returned by what raised, either.
        if given is None or isinstance(given, Whole) or outputs is None:
            return
        try:
            args, kwargs = given
            call = Call.of(name, args, kwargs, self._most, rows_of(outputs))
        except Exception as error:  # noqa: BLE001 the user's classes may raise anything
            self._fail(unknown(error), given)
            return
        if call is not None:
            self._calls[name] = call

    def _kept(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Given | Whole | None:
        """Copy what a module is called with, since it may change that; return why if it cannot be.

        What runs within such a call stands for it only if it has a row for each sample, or if the
        user named it.
        """
        try:
            kind = inseparable(named(module, args, kwargs))
            if kind is None:
                given = copied((args, kwargs))
                return given if Call.of("", *given, 1) else None
        except Exception as error:  # noqa: BLE001 the user's classes may raise anything
            kind = unknown(error)
        self._fail(kind, (args, kwargs))
        return None if kind.by_rows or self._is_named else kind

    def _fail(self, kind: Whole, given: Given) -> None:
        self.failure = kind.refusal(f"the network was called with {shown(*given)}")


def _carries(part: nn.Module) -> bool:
    """Tell whether a part has parameters."""
    return next(part.parameters(), None) is not None


def _takes_hooks(module: nn.Module, name: str) -> bool:
    """Tell whether a hook of a part leaves alone how it is computed."""
    around = [module.get_submodule(name.rpartition(".")[0]), module.get_submodule(name)]
    return not (
        any(isinstance(part, (torch.jit.ScriptModule, *_UNHOOKED)) for part in around)
        or hasattr(around[-1], "_orig_mod")
        or _is_within_compiled(module, name)
    )


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
