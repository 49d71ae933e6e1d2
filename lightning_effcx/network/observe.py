"""Evaluate a network without leaving a trace.

Every measure evaluates the network inside `observing()`. There the network is in eval mode,
autocast is off, and autograd, forward mode and double backward all work. Afterwards everything is
as before, also after an exception.
"""

import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_effcx.network.sharding import unsharded
from lightning_effcx.network.state.keeping import keeping_state

Network: TypeAlias = Callable[[Tensor], Tensor]
"""Maps `(n, ...)` to `(n, k)`, each sample by itself."""


def evaluate(network: Network, x: Tensor) -> Tensor:
    """Return `network(x)`, or raise if it is no matrix `(n, k)`."""
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
    """Raise if outputs `(n, k)` are infinite or NaN, and say for how many samples."""
    finite = outputs.isfinite()
    if not finite.all():
        bad = int((~finite).any(1).sum())
        raise ValueError(
            f"the network's outputs are not finite for {bad} of {len(outputs)} {what}."
        )


def owner_of(network: Network) -> nn.Module | None:
    """Return the network if it is a module; its module if it is a bound method; else `None`."""
    owner = getattr(network, "__self__", network)
    return owner if isinstance(owner, nn.Module) else None


@contextmanager
def differentiating() -> Iterator[None]:
    """Make every derivative work: autograd, forward mode and double backward, also in attention.

    Lightning's `validate` runs in inference mode. There autograd refuses tensors, and forward mode
    returns zeros without a warning. The fused attention kernels have a first derivative only. Grad
    mode stays as the caller set it.
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
def observing(network: Network, *beside: Any) -> Iterator[None]:
    """Evaluate `network` in eval mode, in full precision, differentiably. Then restore everything.

    Everything that a forward may change is restored, as far as it can be known: the modules with
    their modes, the global random states of torch, numpy and Python, and the switches of autocast,
    grad mode and kernels. Gradients are put aside. If parameters or hooks were changed, they are
    put back with a warning. Objects that cannot be put back, such as open files, raise when they
    are used. Grad mode is off inside: functions that differentiate switch it on.

    Sharded parameters are whole inside. Then every process must enter, in the same order, but need
    not do the same inside.

    Args:
        network: A module, or a bound method of one. The modules of another callable cannot be
            known: enter `observing(module)` for each of them.
        *beside: What else is at work, such as a function that calls the network.
    """
    owner = owner_of(network)
    with ExitStack() as stack:
        modules: list[nn.Module] = []
        if owner is not None:
            stack.enter_context(unsharded(list(owner.modules())))
            modules = stack.enter_context(keeping_state(owner, *beside))
        stack.enter_context(
            keeping_random_states({p.device for m in modules for p in m.parameters(False)})
        )
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
def keeping_random_states(devices: Iterable[torch.device]) -> Iterator[None]:
    """Restore the global random states of Python, numpy and torch, on the CPU and on `devices`."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 the user's global state
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _uncompiled() -> AbstractContextManager[Any]:
    """Run the original code of what is compiled, and hide it from the compiler.

    The compiler would compile for our shapes, and give up on code that it meets under a dispatch
    mode. Then the training would go on with other kernels and with other draws in its dropout.
    """
    is_used = "torch._dynamo" in sys.modules  # it takes a second to import
    if is_used and hasattr(torch.compiler, "set_stance"):  # torch 2.6
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


@contextmanager
def _hooked_without_warning() -> Iterator[None]:
    """Let hooks be called for a compiled module and for the module in it without a warning.

    Used only for networks that have such modules: afterwards, Python shows warnings again that it
    had shown once.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Using `torch.compile\(module\)` when there are global")
        yield


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    """Run recurrent layers step by step: their fused kernel has no forward mode.

    Used only for networks that have such layers: convolutions are slower without mkldnn.
    """
    # flags() would warn about TF32 on every use.
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled
