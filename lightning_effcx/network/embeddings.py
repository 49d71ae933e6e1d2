"""Embeddings: find the first embedding of a call's tokens."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_effcx.network.calls import Call
from lightning_effcx.network.nested import Place


class Embedding(NamedTuple):
    """An embedding that a call uses.

    Attributes:
        embedding: The dotted name of the part that embeds.
        x: Its first output, `(n, ...)`.
        tokens: The place of the argument that it embeds; `None` if it embeds no argument as it is.
    """

    embedding: str
    x: Tensor
    tokens: Place | None


def find_embedding(part: nn.Module, call: Call) -> Embedding | None:
    """Find the first embedding that returns a row for each sample.

    An embedding of an argument as it is goes first: others may embed positions.
    """
    found: list[Embedding] = []
    called: set[str] = set()
    whole = {
        place: tensor
        for place, tensor in call.of_samples().items()
        if tensor.numel() and not tensor.is_floating_point()
    }

    def hook_of(name: str) -> Callable[..., None]:
        def note_first(_: nn.Module, args: Any, out: Tensor) -> None:
            is_first = name not in called
            called.add(name)
            if is_first and len(out) == call.samples:
                tokens = (place for place, t in whole.items() if args and _are_equal(t, args[0]))
                found.append(Embedding(name, out.detach().clone(), next(tokens, None)))

        return note_first

    with ExitStack() as stack:
        for name, module in part.named_modules():
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
        args, kwargs = call.given
        part(*args, **kwargs)
    return min(found, key=lambda each: each.tokens is None, default=None)


def _are_equal(one: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and torch.equal(one, other)
