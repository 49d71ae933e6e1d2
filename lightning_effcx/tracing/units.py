"""Units: find the nonlinear places of any network as it runs, however they are written.

Operations are seen at the dispatcher, below Python. There modules, functional and in-place calls,
scripted, compiled and checkpointed parts all look the same. An operation that is not known to be
affine counts as nonlinear.

A computation that does not depend on the input is no site: a weight norm, a positional table, a
constant mask. A computation that the outputs do not depend on is no site either: a loss, or another
head.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_effcx.network import Network, evaluate
from lightning_effcx.tracing.dispatch import Follower
from lightning_effcx.tracing.lineage import Leaving
from lightning_effcx.tracing.operators import Operation, OperatorCall, tensors
from lightning_effcx.tracing.places import SamplePlace, by_sample, separate_samples
from lightning_effcx.tracing.sites import Site, wrong_shape

T = TypeVar("T")


class Heard(NamedTuple, Generic[T]):
    """The result of listening to a network.

    Attributes:
        outputs: The outputs of the network, `(n, k)`.
        sites: What `hear` returned for each site that the outputs depend on, by its name, in order
            of execution.
    """

    outputs: Tensor
    sites: dict[str, T]


def listen(network: Network, x: Tensor, hear: Callable[[Site], T]) -> Heard[T]:
    """Run `network(x)` and call `hear` with each site as it executes.

    Which sites the outputs depend on is known at the end only. So `hear` is called for the others,
    too, but what it returned for them, or a `ValueError` that it raised, is dropped then.

    Nothing else is kept: memory is that of a forward pass and of what `hear` keeps. Where gradients
    are being recorded, `site.output` carries the graph.

    Args:
        network: Maps `(n, ...)` to `(n, k)`, treating samples independently.
        x: The inputs, `(n, ...)`.
        hear: Called in order of execution.

    Raises:
        ValueError: Some outputs are NaN, of which no measure holds.
    """
    heard = _listen(network, x, hear)
    check_numbers(network, x, heard.outputs)
    return heard


def check_numbers(network: Network, x: Tensor, outputs: Tensor) -> None:
    """Raise if some outputs are NaN, and name the first site that is the reason.

    Infinite outputs may be right, such as the ones of a mask.

    Args:
        network: The network.
        x: Its inputs, which are finite.
        outputs: Its outputs there.
    """
    if not outputs.isnan().any():
        return
    found = _listen(
        lambda x: network(x).reshape(len(x), -1),
        x,
        lambda site: bool(site.z.isnan().any() or site.output.isnan().any()),
    ).sites
    first = next(
        (f"its site {name!r} has" for name, is_nan in found.items() if is_nan), "its outputs have"
    )
    raise ValueError(
        f"the network's values are not finite: {first} NaN for finite inputs, so nothing of it "
        "can be measured: look for NaN or infinity in its parameters, which training that diverges "
        "leaves there."
    )


def _listen(network: Network, x: Tensor, hear: Callable[[Site], T]) -> Heard[T]:
    found: dict[str, T] = {}

    def keep(site: Site) -> None:
        found[site.name] = hear(site)

    x = separate_samples(x)
    listener = _Listener(x, keep)
    above = _Above(listener) if torch.is_grad_enabled() else nullcontext()
    with listener.names, above, Leaving(listener.lineage.read), listener:
        y = evaluate(network, x)
    listener.flush()
    needed = listener.needed(y)
    return Heard(y, {name: each for name, each in found.items() if name in needed})


def find_sites(network: Network, x: Tensor) -> dict[str, Site]:
    """Return every site of `network` by its name, in order of execution, with its units at `x`.

    Example:
        >>> nn = torch.nn
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Hardtanh(), nn.Linear(3, 1), nn.Tanh())
        >>> for site in find_sites(network, torch.zeros(5, 2)).values():
        ...     print(site.name, site.kind, site.kinks, tuple(site.z.shape))
        1 piecewise linear (-1.0, 1.0) (5, 3)
        3 curve () (5, 1)
    """
    return listen(network, x, lambda site: site).sites


def without_units(that_have: str, sites: Mapping[str, object]) -> ValueError:
    """Return the error of a measure that needs units of a sort that a network does not have.

    Args:
        that_have: What the units must have, such as "a kink".
        sites: The operation of each site that the network does have.
    """
    others = [f"{name} ({operation})" for name, operation in sites.items()]
    some = (", ".join(others[:3]) or "none") + (", ..." if len(others) > 3 else "")  # noqa: PLR2004
    return ValueError(
        f"no unit of this network has {that_have}, its nonlinearities being {some}: "
        "measure trajectory_length or jacobian_norm instead."
    )


class _Listener(Follower):
    """Makes a site of each operation that is not affine, and calls `hear` with it."""

    def __init__(self, x: Tensor, hear: Callable[[Site], None]) -> None:
        super().__init__(x)
        self.hear = hear
        self.pending: list[Site] = []
        self.recording = torch.is_grad_enabled()  # which is off inside of Python's own operators

    def run(self, operation: Operation, call: OperatorCall) -> tuple[Any, str]:
        place = self.places.of_operand(call, operation.z)
        if call.is_in_place():  # such as relu_, or copy_ into a buffer
            operation = replace(operation, z=operation.z.clone())
        out = call.run()
        name = self.names.name(operation.name)  # also of no site, so that exact passes agree
        # Some operators return nothing, but write; some answer a question without any tensor.
        output = next(tensors(out, call.written()), None)
        if output is None or not output.dim():
            return out, ""  # a number about the whole batch, such as in a check of its range
        z = by_sample(operation.z, place, self.places.n)
        if z is None and operation.kind == "piecewise linear" and output.dtype == torch.bool:
            return out, ""  # a question about the whole batch
        place = self.places.of_result(call, output)
        choice = self._choice(operation, out, output.shape, place)
        if z is None or (operation.choice and choice is None):
            self.refused[name] = wrong_shape(name, operation.z, self.places.n)
        else:
            self._announce(
                Site(
                    name,
                    operation.name,
                    operation.kind,
                    z,
                    output,
                    self.places.n,
                    place,
                    operation.kinks,
                    choice,
                    operation.choice.elements,
                    operation.apply,
                )
            )
        return out, name

    def _choice(
        self, operation: Operation, out: Any, shape: torch.Size, place: SamplePlace | None
    ) -> Tensor | None:
        """Return what each unit chose, `(n, u)`; `None` if it is no choice, or not known."""
        if not operation.choice:
            return None
        return by_sample(_winner(operation, out).reshape(shape), place, self.places.n)

    def flush(self) -> None:
        """Call `hear` with the sites that wait, without following what it computes."""
        pending, self.pending = self.pending, []
        self.following = False
        for site in pending:
            self._hear(site)
        self.following = True

    def _hear(self, site: Site) -> None:
        try:
            self.hear(site)
        except ValueError as error:
            self.refused.setdefault(site.name, error)

    def _announce(self, site: Site) -> None:
        """Call `hear` with a site, now or soon."""
        if self.recording:
            self.pending.append(site)  # until `_Above` is above autograd, where outputs have graphs
        else:
            self._hear(site)


class _Above(TorchFunctionMode):
    """Flushes a listener when the Python call that made sites returns, above autograd."""

    def __init__(self, listener: _Listener) -> None:
        super().__init__()
        self.listener = listener

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        self.listener.flush()
        return out


def _winner(operation: Operation, out: Any) -> Tensor:
    """Return which element was chosen: as the operator says, or found here if it does not say."""
    if not isinstance(out, Tensor):
        return out[1]
    dims = operation.choice.dims or tuple(range(operation.z.dim()))
    last = operation.z.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
    return last.argmin(-1) if operation.choice.of == "minimum" else last.argmax(-1)
