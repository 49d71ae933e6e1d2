"""Views: a module as a function of one tensor, which is the network that measures look at.

A call may have other arguments for each sample, such as a mask. They are held fixed, so that the
network is another function for each sample: see `has_per_sample_arguments` and `select_samples`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeGuard

from torch import Tensor, nn
from typing_extensions import override

from lightning_effcx.network.calls import Call
from lightning_effcx.network.nested import Place, at
from lightning_effcx.network.observe import Network


class View(nn.Module, ABC):
    """Abstract: a module as a function of one tensor, with the module's own parameters.

    Args:
        module: The user's module.
        place: Where the output of interest is among the outputs.
        writes: Whether the module writes to its arguments. It gets copies of them then.
        **others: The other arguments of the subclass.
    """

    def __init__(self, module: nn.Module, *, place: Place, writes: bool, **others: Any) -> None:
        super().__init__()
        # torch gives this name to a wrapped module, so it is no part of the names of sites.
        self._orig_mod = module
        self.place = place
        self.writes = writes
        self._arguments = {"place": place, "writes": writes, **others}

    def changed(self, **arguments: Any) -> Self:
        """Return the same view with other arguments."""
        return type(self)(self._orig_mod, **(self._arguments | arguments))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return the output of interest for `x`, `(n, k)`."""
        return self.matrix(self.all_outputs(x))

    @abstractmethod
    def all_outputs(self, x: Tensor) -> Any:
        """Return everything that the module returns."""

    def matrix(self, outputs: Any) -> Tensor:
        """Return the output of interest among all outputs, `(n, k)`."""
        return matrix(at(outputs, self.place))


class FunctionView(View):
    """A module as the user's function of it and the input.

    Args:
        module: As in `View`.
        function: Maps the module and `x` to the outputs.
        place: As in `View`.
        writes: As in `View`.
    """

    def __init__(
        self,
        module: nn.Module,
        function: Callable[[nn.Module, Tensor], Any],
        *,
        place: Place = (),
        writes: bool = False,
    ) -> None:
        super().__init__(module, place=place, writes=writes, function=function)
        self.function = function

    @override
    def all_outputs(self, x: Tensor) -> Any:
        return self.function(self._orig_mod, x.clone() if self.writes else x)


class CallView(View):
    """A module as a function of its inputs alone. The other arguments of its call are held fixed.

    Args:
        module: As in `View`.
        call: The call. An argument of one sample is the same for any number of rows.
        inputs: The places of the arguments that `x` replaces. Several are flattened and joined.
        embedding: If there are no such places, the part whose first output `x` replaces.
        tokens: The place of the argument that this part embeds, if it embeds an argument as it is.
        place: As in `View`.
        writes: As in `View`.
    """

    def __init__(  # noqa: PLR0913 what defines the function
        self,
        module: nn.Module,
        call: Call,
        inputs: tuple[Place, ...],
        *,
        embedding: str | None = None,
        tokens: Place | None = None,
        place: Place = (),
        writes: bool = False,
    ) -> None:
        others = {"call": call, "inputs": inputs, "embedding": embedding, "tokens": tokens}
        super().__init__(module, place=place, writes=writes, **others)
        self.call = call
        self.inputs = inputs
        self.embedding = embedding
        self.tokens = tokens
        self.held = tuple(place for place in call.varying if place not in inputs)

    @override
    def all_outputs(self, x: Tensor) -> Any:
        call = self.call.beside(x)
        tensors = dict(zip(self.inputs, self._split(x), strict=True))
        tensors |= {place: _repeated(at(call.given, place), place, x) for place in self.held}
        if self.writes:
            tensors = {place: tensor.clone() for place, tensor in tensors.items()}
        args, kwargs = call.replaced(tensors).given
        if self.embedding is None:
            return self._orig_mod(*args, **kwargs)
        with _returning_once(self._orig_mod.get_submodule(self.embedding), x):
            return self._orig_mod(*args, **kwargs)

    def _split(self, x: Tensor) -> list[Tensor]:
        """Return the inputs that are joined in `x`, in their own shapes."""
        if len(self.inputs) < 2:  # noqa: PLR2004 only several are flattened
            return [x] * len(self.inputs)
        shapes = [at(self.call.given, place).shape[1:] for place in self.inputs]
        split = x.split([shape.numel() for shape in shapes], 1)
        return [
            part.unflatten(1, shape) if shape else part.squeeze(1)
            for part, shape in zip(split, shapes, strict=True)
        ]


def _repeated(held: Tensor, place: Place, x: Tensor) -> Tensor:
    """Return an argument that is held fixed, with a row for each row of `x`."""
    if len(held) not in {1, len(x)}:
        raise ValueError(
            f"the argument {place[-1]!r} is known for {len(held)} samples, but this measure "
            f"looks at {len(x)} points: hold it fixed with network=lambda module, x: ..."
        )
    held = held.to(x.dtype) if held.is_floating_point() else held
    if len(held) == len(x):
        return held
    return held.expand(len(x), *held.shape[1:]).contiguous()  # as in a real call


@contextmanager
def _returning_once(embedding: nn.Module, x: Tensor) -> Iterator[None]:
    """Let the first call of an embedding return `x`. Later calls embed other tokens."""
    waiting = [x]

    def replace_output(*_: Any) -> Tensor | None:
        return waiting.pop() if waiting else None

    handle = embedding.register_forward_hook(replace_output)
    try:
        yield
    finally:
        handle.remove()


def has_per_sample_arguments(network: Network) -> TypeGuard[CallView]:
    """Return whether the network holds an argument fixed that differs from sample to sample."""
    return isinstance(network, CallView) and bool(network.held) and network.call.samples > 1


def select_samples(network: Network, index: Tensor) -> Network:
    """Return the network for some samples, with the arguments of these samples."""
    if not has_per_sample_arguments(network):
        return network
    return network.changed(call=network.call.rows(index))


def with_own_embedding(network: Network) -> Network:
    """Return a network of the tokens of its call, so that its embedding is a part of it.

    A measure of the weights needs this: the weights of the embedding count as well.
    """
    if not isinstance(network, CallView) or network.embedding is None:
        return network
    return network.changed(embedding=None)


def matrix(tensor: Tensor) -> Tensor:
    """Flatten to `(n, k)`."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(-1)
