"""Embeddings: what a module makes of its tokens first."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_effcx.network.calls import Call
from lightning_effcx.network.nested import Place


class Embedded(NamedTuple):
    """What an embedding, by its name, made of the tokens `(n, ...)` at a place of a call.

    The place is `None` if the tokens stand nowhere among the arguments as they are embedded.
    """

    embedding: str
    x: Tensor
    tokens: Place | None


def embedded(part: nn.Module, call: Call) -> Embedded | None:
    """Find the first embedding of the samples' tokens in a call, by what each embeds first.

    One that embeds an argument as it is goes before others, which may embed positions.
    """
    found: list[Embedded] = []
    called: set[str] = set()
    whole = {
        place: tensor
        for place, tensor in call.of_samples().items()
        if tensor.numel() and not tensor.is_floating_point()
    }

    def listen(name: str) -> Callable[..., None]:
        def hear(_: nn.Module, args: Any, out: Tensor) -> None:
            if name in called or len(out) != call.samples:
                called.add(name)
                return
            called.add(name)
            tokens = (place for place, t in whole.items() if args and _are_equal(t, args[0]))
            found.append(Embedded(name, out.detach().clone(), next(tokens, None)))

        return hear

    with ExitStack() as stack:
        for name, module in part.named_modules():
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                stack.callback(module.register_forward_hook(listen(name)).remove)
        args, kwargs = call.given
        part(*args, **kwargs)
    return min(found, key=lambda each: each.tokens is None, default=None)


def _are_equal(one: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and torch.equal(one, other)
