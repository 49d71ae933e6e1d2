"""Views: a module as the network that measures look at, a function of one tensor.

A network may hold arguments fixed that differ between samples, such as a mask. It is then another
function for each sample: `has_per_sample_arguments` tells so, and `select_samples` returns the
function of some samples.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import Tensor, nn
from typing_extensions import override

from lightning_effcx.network.calls import Call
from lightning_effcx.network.nested import Place, at
from lightning_effcx.network.observe import Network


class View(nn.Module):
    """A module seen through a function of it and the input, with the module's own parameters.

    Args:
        module: What is looked at.
        function: Maps the module and `x` to the outputs.
    """

    def __init__(self, module: nn.Module, function: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self._orig_mod = module  # as torch calls what is wrapped: no part of the sites' names
        self.function = function
        self.place: Place = ()
        """Where in the outputs the tensor is that is looked at."""
        self.writes = False
        """Whether it writes to what it is called with, which is then to be a copy."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for `x`, `(n, k)`."""
        return self.matrix(self.all_outputs(x))

    def all_outputs(self, x: Tensor) -> Any:
        """Return whatever the function returns."""
        return self.function(self._orig_mod, x.clone() if self.writes else x)

    def matrix(self, outputs: Any) -> Tensor:
        """Return those of the outputs that are looked at, `(n, k)`."""
        return matrix(at(outputs, self.place))


class Called(View):
    """A module as a function of its inputs alone, everything else that it was called with fixed.

    Args:
        module: What was called.
        call: With what. What is held fixed for one sample is so for any number of rows.
        inputs: The places of the arguments that `x` takes; flattened and joined if several.
        embedding: The part whose first output `x` takes instead, if there are no such places.
    """

    def __init__(
        self, module: nn.Module, call: Call, inputs: tuple[Place, ...], embedding: str | None = None
    ) -> None:
        super().__init__(module, type(module).__call__)
        self.call = call
        self.inputs = inputs
        self.embedding = embedding
        self.tokens: Place | None = None
        """Where among the arguments the tokens are that it embeds, if they are embedded as such."""
        self.held = tuple(place for place in call.varying if place not in inputs)

    @override
    def all_outputs(self, x: Tensor) -> Any:
        tensors = dict(zip(self.inputs, self._split(x), strict=True))
        tensors |= {place: self._fixed(place, x) for place in self.held}
        if self.writes:
            tensors = {place: tensor.clone() for place, tensor in tensors.items()}
        args, kwargs = self.call.beside(x).replaced(tensors).given
        if self.embedding is None:
            return self._orig_mod(*args, **kwargs)
        with _in_place_of(self._orig_mod.get_submodule(self.embedding), x):
            return self._orig_mod(*args, **kwargs)

    def with_call(self, call: Call, embedding: str | None) -> "Called":
        """Return the same network with other things fixed."""
        other = Called(self._orig_mod, call, self.inputs, embedding)
        other.place, other.writes, other.tokens = self.place, self.writes, self.tokens
        return other

    def _split(self, x: Tensor) -> list[Tensor]:
        if len(self.inputs) < 2:  # noqa: PLR2004 only several are flattened
            return [x] * len(self.inputs)
        shapes = [at(self.call.given, place).shape[1:] for place in self.inputs]
        split = x.split([shape.numel() for shape in shapes], 1)
        return [
            part.unflatten(1, shape) if shape else part.squeeze(1)
            for part, shape in zip(split, shapes, strict=True)
        ]

    def _fixed(self, place: Place, x: Tensor) -> Tensor:
        held: Tensor = at(self.call.beside(x).given, place)
        if len(held) not in {1, len(x)}:
            raise ValueError(
                f"the argument {place[-1]!r} is known for {len(held)} samples, but this measure "
                f"looks at {len(x)} points: hold it fixed with network=lambda module, x: ..."
            )
        held = held.to(x.dtype) if held.is_floating_point() else held
        if len(held) == len(x):
            return held
        return held.expand(len(x), *held.shape[1:]).contiguous()  # which it is in a real call


@contextmanager
def _in_place_of(embedding: nn.Module, x: Tensor) -> Iterator[None]:
    """Let an embedding return `x`, once: what it embeds after that are other tokens."""
    waiting = [x]

    def put(*_: Any) -> Tensor | None:
        return waiting.pop() if waiting else None

    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def select_samples(network: Network, index: Tensor) -> Network:
    """Return the network as it is for some samples, where it holds something fixed for each."""
    if not has_per_sample_arguments(network):
        return network
    return network.with_call(network.call.rows(index), network.embedding)


def with_own_embedding(network: Network) -> Network:
    """Return the network with what it was called with, tokens too, in place of their embedding.

    A measure of the weights, rather than of the input, is about those of the embedding as well.
    """
    if not isinstance(network, Called) or network.embedding is None:
        return network
    return network.with_call(network.call, None)


def has_per_sample_arguments(network: Network) -> TypeGuard[Called]:
    """Tell whether the network holds something fixed that differs from sample to sample."""
    return isinstance(network, Called) and bool(network.held) and network.call.samples > 1


def matrix(tensor: Tensor) -> Tensor:
    """Flatten to `(n, k)`."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(-1)
