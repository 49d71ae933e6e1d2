"""The derivative of a network's outputs along its own weights: its reaction to scaling them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_effcx.network import evaluate, replacing_tensors, state_of


def along_the_weights(
    network: nn.Module, theta: dict[str, nn.Parameter], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs `f` and their derivatives `t` along the weights themselves, `(n, k)` each.

    Args:
        network: The module to evaluate.
        theta: The parameters to differentiate by. The others stay fixed.
        x: The samples.
    """
    # Forward mode costs less if the result is differentiated once more. Otherwise it is avoided:
    # torch needs up to half a second to load its rules, as long as some small trainings measure.
    if torch.is_grad_enabled():
        try:
            return _forward_mode(network, theta, x)
        except RuntimeError:
            pass  # an operator without forward mode, or a scripted module
    return _double_backward(network, theta, x)


def _forward_mode(
    network: nn.Module, theta: dict[str, nn.Parameter], x: Tensor
) -> tuple[Tensor, Tensor]:
    containers = state_of(network).containers()

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        with replacing_tensors(
            containers, {id(theta[name]): value for name, value in parameters.items()}
        ):
            return evaluate(network, x)

    f, t, *_ = torch.func.jvp(outputs, (dict(theta),), (dict(theta),))
    return f, t


def _double_backward(
    network: nn.Module, theta: dict[str, nn.Parameter], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `f`, and `t` as ∂/∂u ⟨∂⟨u, f⟩/∂θ, θ⟩. This is linear in u, so any u gives the same."""
    keep_graph = torch.is_grad_enabled()
    values = list(theta.values())
    with torch.enable_grad(), _all_recorded(values):
        f = evaluate(network, x)
        if not f.requires_grad:
            raise ValueError(
                "the network's outputs have no gradient by its weights, as after no_grad, NumPy or "
                "argmax: measure another part of the module with network=, or use Transitions."
            )
        u = torch.zeros_like(f, requires_grad=True)
        rows = torch.autograd.grad(f, values, u, create_graph=True, materialize_grads=True)
        along = torch.stack([(r * v).sum() for r, v in zip(rows, values, strict=True)]).sum()
        (t,) = torch.autograd.grad(along, u, create_graph=keep_graph, materialize_grads=True)
    return (f, t) if keep_graph else (f.detach(), t)


@contextmanager
def _all_recorded(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let frozen parameters have gradients, too: they scale the outputs like the others."""
    frozen = [p for p in parameters if not p.requires_grad]
    for p in frozen:
        p.requires_grad_()
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
