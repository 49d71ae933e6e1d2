"""Custom activations: modules that compute one curve in several operations.

Most are the user's, and some are torch's own, such as `nn.Softsign`. A module that computes
`x * sigmoid(x)` is a curve of each entry of its input, yet the dispatcher sees a product of two
activations. While `as_one` is open, each such module is one operation, with derivatives of any
order. It must map every entry alone, and have no parts and no parameters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lightning_effcx.network import Network, owner_of
from lightning_effcx.tracing.units import find_sites

_forwards: dict[int, Callable[[Tensor], Tensor]] = {}  # of the open modules, by key
_keys = count()


@torch.library.custom_op("effcx::activation", mutates_args=())
def activation(z: Tensor, key: int, order: int = 0) -> Tensor:
    """Apply a custom activation, or its derivative of some order, to every entry."""
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        out = _forwards[key](z)
        for _ in range(order):
            if not out.requires_grad:
                return torch.zeros_like(z)
            (out,) = torch.autograd.grad(out.sum(), z, create_graph=True, materialize_grads=True)
    return out.detach().clone()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    z, ctx.key, ctx.order = inputs
    ctx.save_for_backward(z)


def _derive(ctx: Any, arriving: Tensor) -> tuple[Tensor, None, None]:
    (z,) = ctx.saved_tensors
    return arriving * activation(z, ctx.key, ctx.order + 1), None, None


activation.register_autograd(_derive, setup_context=_keep)


@contextmanager
def as_one(network: Network) -> Iterator[None]:
    """Make each custom activation among the modules of a network one operation."""
    owner = owner_of(network)
    modules = [] if owner is None else list(owner.modules())
    open_: list[tuple[nn.Module, int]] = []
    try:
        for module in filter(_is_custom_activation, modules):
            key = next(_keys)
            _forwards[key] = module.forward
            open_.append((module, key))
            vars(module)["forward"] = lambda z, key=key: activation(z, key)
        yield
    finally:
        for module, key in open_:
            del vars(module)["forward"], _forwards[key]


def _is_custom_activation(module: nn.Module) -> bool:
    """Tell whether a module maps every entry alone, by a curve in several operations."""
    has_more = [*module.children(), *module.parameters(), *module.buffers()]
    if has_more or isinstance(module, torch.jit.ScriptModule) or "forward" in vars(module):
        return False
    z = torch.linspace(-2.9, 3.1, 12, dtype=torch.float64)
    with torch.no_grad():
        try:
            sites = find_sites(module, z[:, None]).values()
            image = module(z)
            alone = [module(z.reshape(3, 4)).flatten(), torch.cat([*map(module, z.split(5))])]
        except Exception:  # noqa: BLE001 whatever goes wrong, it is no activation
            return False
    if all(site.kind != "other" for site in sites):
        return False  # it is fine as it is
    return image.shape == z.shape and all(torch.allclose(image, other) for other in alone)
