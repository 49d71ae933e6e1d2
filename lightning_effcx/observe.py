"""Look at a network and leave no trace: the function that its weights define, and nothing else.

Every measure evaluates the network inside `observing()`, the only door. There the network is in
eval mode, autocast is off, and autograd, forward mode and double backward all work. Afterwards
everything is as before, also after an exception.
"""

import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_effcx.shards import whole

_OF_TORCH = frozenset(vars(nn.Module()))

Network: TypeAlias = Callable[[Tensor], Tensor]
"""Maps `(n, ...)` to `(n, k)`, each sample by itself."""


def evaluate(network: Network, x: Tensor) -> Tensor:
    """Return `network(x)`, `(n, k)`, or say in one sentence why that is no such matrix."""
    y = network(x)
    if not isinstance(y, Tensor):
        raise TypeError(
            f"the network returned a {type(y).__name__}, expected one tensor of shape (n, k): "
            "choose the output with a callable, such as network=lambda module, x: module(x)[0]."
        )
    if y.dim() != 2 or len(y) != len(x):  # noqa: PLR2004 a matrix
        raise ValueError(
            f"the network returned a tensor of shape {tuple(y.shape)} for {len(x)} samples, "
            f"expected ({len(x)}, k): reshape it with a callable, "
            "such as network=lambda module, x: module(x).flatten(1)."
        )
    return y


def check_finite(outputs: Tensor, what: str = "samples") -> None:
    """Refuse outputs `(n, k)` that are infinite or no numbers, and say for how many samples."""
    finite = outputs.isfinite()
    if not finite.all():
        bad = int((~finite).any(1).sum())
        raise ValueError(
            f"the network's outputs are not finite for {bad} of {len(outputs)} {what}."
        )


def in_precision(network: Network, dtype: torch.dtype) -> Network:
    """Give a module its parameters and buffers in another precision, for the time of a call.

    Other callables, and scripted modules, are returned as they are.
    """
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        return network
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    cast = {k: v.detach().to(dtype) for k, v in own.items() if v.is_floating_point()}
    return lambda x: torch.func.functional_call(network, cast, (x,))


@contextmanager
def differentiating() -> Iterator[None]:
    """Make every derivative work: autograd, forward mode and double backward, also in attention.

    Lightning's `validate` runs under inference mode, whose tensors autograd refuses and for which
    forward mode returns zeros without a word. The fused attention kernels know a first derivative
    only. Whether a graph is recorded stays as the caller has it.
    """
    recording = torch.is_grad_enabled()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Leaving inference mode switches gradients on, so the caller's choice is set again.
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(recording),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def observing(network: Network) -> Iterator[None]:
    """Evaluate `network` in eval mode, in full precision, differentiably; then restore all.

    Restored are every module's own mode, attributes and buffers, the global random states of
    torch, numpy and Python, and the switches of autocast, grad mode and kernels. Nothing here
    touches a `.grad`. Recording is off inside: functions that differentiate switch it on.

    Parameters that are spread over processes are whole inside; then every process must enter, in
    the same order, but need not do the same there.

    Args:
        network: A module, or a bound method of one. Of other callables the modules cannot be
            known: enter `observing(module)` for each of them.
    """
    owner = getattr(network, "__self__", network)
    modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
    with ExitStack() as stack:
        stack.enter_context(whole(modules))
        stack.enter_context(
            random_states_kept({p.device for m in modules for p in m.parameters(False)})
        )
        stack.enter_context(_modules_kept(modules))
        if any(isinstance(module, nn.RNNBase) for module in modules):
            stack.enter_context(_without_mkldnn())
        for device in {"cpu", *(p.device.type for m in modules for p in m.parameters(False))}:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_uncompiled())
        if any(hasattr(module, "_orig_mod") for module in modules):
            stack.enter_context(_hooked_without_warning())
        stack.enter_context(torch.no_grad())
        stack.enter_context(differentiating())
        yield


@contextmanager
def random_states_kept(devices: Iterable[torch.device]) -> Iterator[None]:
    """Restore the global random states of Python, numpy and torch, on the CPU and on `devices`."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 the user's global state
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _modules_kept(modules: list[nn.Module]) -> Iterator[None]:
    """Set every module to eval mode; restore its mode, its attributes and its buffers.

    A forward pass may count its calls, cache a table, assign a buffer, collect what it computes in
    a list or add it to a metric: such things are put back.
    `network.eval()` and `network.train()` are avoided, since users override them and since they
    would wake parts that the user froze.
    """
    modes = [module.training for module in modules]
    attributes = [
        (module, dict(vars(module)), dict(module._buffers))  # noqa: SLF001
        for module in modules
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    own = [v for _, seen, _ in attributes for k, v in seen.items() if k not in _OF_TORCH]
    holders = [(holder, holder.copy()) for holder in _holders(own)]
    buffers = [b for module in modules for b in module.buffers(recurse=False)]
    buffers += [value for value in own if type(value) is Tensor]
    contents = [(b, b._version, b.detach().clone()) for b in buffers if not b.is_inference()]  # noqa: SLF001
    try:
        for module in modules:
            module.training = False
        for module, seen, own_buffers in attributes:
            vars(module).update(_ordinary(seen))
            module._buffers.update(_ordinary(own_buffers))  # noqa: SLF001
        yield
    finally:
        for holder, held in holders:
            if _identities(holder) != _identities(held):
                holder.clear()
                (holder.extend if isinstance(holder, (list, deque)) else holder.update)(held)
        for buffer, version, content in contents:
            if buffer._version != version:  # noqa: SLF001 written to in place
                with torch.no_grad():
                    buffer.copy_(content)
        for module, seen, own_buffers in attributes:
            vars(module).clear()
            vars(module).update(seen)
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(own_buffers)  # noqa: SLF001
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _holders(values: Iterable[Any]) -> list[Any]:
    """Return the lists, dictionaries, sets and deques among some values, and those within these."""
    found: dict[int, Any] = {}
    waiting = [*values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (list, dict, set, deque)) and id(value) not in found:
            found[id(value)] = value
            waiting += value.values() if isinstance(value, dict) else value
    return [*found.values()]


def _identities(holder: Any) -> list[int]:
    return [*map(id, holder), *map(id, holder.values() if isinstance(holder, dict) else ())]


def _ordinary(named: dict[str, Any]) -> dict[str, Tensor]:
    """Copy what was made in inference mode, such as a cached table, since autograd refuses it."""
    with torch.inference_mode(False):
        return {
            name: value.clone()
            for name, value in named.items()
            if isinstance(value, Tensor) and value.is_inference()
        }


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled code as it is written, and let the compiler see nothing of it.

    It would compile for our shapes, and give up on all code that it meets under a dispatch mode:
    the training would go on with other kernels, or none, and with other draws in its dropout.
    """
    is_used = "torch._dynamo" in sys.modules  # it takes a second to import
    if is_used and hasattr(torch.compiler, "set_stance"):  # torch 2.6
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


@contextmanager
def _hooked_without_warning() -> Iterator[None]:
    """Let hooks be called for a compiled module and for the one in it; torch would warn of it.

    Only for networks that have such modules, since warnings that were given once are given again
    after this.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Using `torch.compile\(module\)` when there are global")
        yield


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    """Run recurrent layers step by step: their fused kernel has no forward mode.

    Only for networks that have such layers, since convolutions are slower without it.
    """
    # flags() would warn about TF32 on every use.
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled
