"""Units: the nonlinear places of any network, as it runs, however they are written.

A *site* is one execution of one nonlinear operation; its *units* are the scalar pre-activations
that enter it, per sample. Operations are seen at the dispatcher, below Python: modules, functional
and in-place calls, scripted, compiled and checkpointed parts all look the same there. A site is
`piecewise linear` (with the kinks at which a unit changes its linear piece, or a choice among
inputs, as in max pooling), a smooth `curve` of one pre-activation, or `other` (a softmax, a
normalisation over activations, a product of two activations). What is not known to be linear
counts as nonlinear.

What does not depend on the input is no site: a weight norm, a positional table, a constant mask.
What the outputs do not depend on is none either: a loss beside them, or another head.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_effcx.network import Network, evaluate
from lightning_effcx.tracing.dispatch import Follower
from lightning_effcx.tracing.lineage import Leaving
from lightning_effcx.tracing.operators import Kind, Operation, OperatorCall, tensors


@dataclass(frozen=True, eq=False)
class Site:
    """One execution of one nonlinearity: its units for `n` samples.

    Attributes:
        name: Where it is: the module's path, or that of the calling module and the operation
            (`layers.1.relu`), with `_2`, `_3`, ... for further executions.
        operation: What ran there, by torch's own name, such as `relu`.
        kind: What sort of nonlinearity that is.
        z: The pre-activations, `(n, u)`.
        output: What left the operation, of whatever shape.
        samples: How many samples `n` there are.
        kinks: Where a unit changes its linear piece, in ascending order.
        choice: For a choice among inputs, which of them each unit chose, `(n, u)`;
        elements: how many it could choose from, at most.
        apply: For a curve that is the same for all units, what it makes of any tensor.
    """

    name: str
    operation: str
    kind: Kind
    z: Tensor
    output: Tensor
    samples: int
    kinks: tuple[float, ...] = ()
    choice: Tensor | None = None
    elements: int = 0
    apply: Callable[[Tensor], Tensor] | None = None

    @property
    def value(self) -> Tensor:
        """The post-activations, `(n, v)`."""
        value = _by_sample(self.output, self.samples)
        if value is None:
            raise ValueError(_not_by_sample(self.name, self.output, self.samples))
        return value

    def transitions(self) -> Tensor:
        """Count by how much the units' codes change from each sample to the next, `(n - 1,)`.

        The code of a unit is the number of kinks below its pre-activation, so that a hard tanh
        which goes from one saturation to the other counts twice. A choice changes or does not. A
        curve has no pieces: its code is the sign of its pre-activation.
        """
        if self.choice is not None:
            return (self.choice[1:] != self.choice[:-1]).sum(1)
        kinks = (0.0,) if self.kind == "curve" else self.kinks
        # No unit can be above one kink before it is above the lower ones: codes differ by as much
        # as the comparisons do.
        crossed = [(self.z[1:] > kink) != (self.z[:-1] > kink) for kink in kinks]
        return sum((c.sum(1) for c in crossed), torch.zeros_like(self.z[1:, 0], dtype=torch.long))


T = TypeVar("T")


class Heard(NamedTuple, Generic[T]):
    """What was heard of a network.

    Attributes:
        outputs: What the network returned, `(n, k)`.
        sites: By the name of each site that the outputs depend on, in order of execution, what
            `hear` returned for it.
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
    """
    found: dict[str, T] = {}

    def keep(site: Site) -> None:
        found[site.name] = hear(site)

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
    """Return the error of a measure that finds units of other sorts only: operations by site."""
    others = [f"{name} ({operation})" for name, operation in sites.items()]
    some = (", ".join(others[:3]) or "none") + (", ..." if len(others) > 3 else "")  # noqa: PLR2004
    return ValueError(
        f"no unit of this network has {that_have}, its nonlinearities being {some}: "
        "measure trajectory_length or jacobian_norm instead."
    )


class _Listener(Follower):
    """Announces what is not linear."""

    def __init__(self, x: Tensor, hear: Callable[[Site], None]) -> None:
        super().__init__(x)
        self.n = len(x)
        self.hear = hear
        self.pending: list[Site] = []
        self.recording = torch.is_grad_enabled()  # which is off inside of Python's own operators

    def run(self, operation: Operation, call: OperatorCall) -> tuple[Any, str]:
        if call.is_in_place():  # such as relu_, or copy_ into a buffer
            operation = replace(operation, z=operation.z.clone())
        out = call.run()
        # Some operators return nothing, but write; some answer a question without any tensor.
        left = next(tensors(out, call.written()), None)
        return out, "" if left is None else self._announce(operation, left, out)

    def flush(self) -> None:
        """Let the sites that wait be heard, without listening to what is done with them."""
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

    def _announce(self, operation: Operation, output: Tensor, out: Any) -> str:
        """Let a site be heard, now or soon; return its name, empty if it is none."""
        if not output.dim():
            return ""  # a number about the whole batch, such as in a check of its range
        z = _by_sample(operation.z, self.n)
        if z is None:
            if operation.kind == "piecewise linear" and output.dtype == torch.bool:
                return ""  # a question about the whole batch
            name = self.names.name(operation.name)
            self.refused[name] = ValueError(_not_by_sample(name, operation.z, self.n))
            return name
        choice = _by_sample(_winner(operation, out), self.n) if operation.choice else None
        name = self.names.name(operation.name)
        site = Site(
            name,
            operation.name,
            operation.kind,
            z,
            output,
            self.n,
            operation.kinks,
            choice,
            operation.choice.elements,
            operation.apply,
        )
        if self.recording:
            self.pending.append(site)  # until `_Above` is above autograd, where outputs have graphs
        else:
            self._hear(site)
        return name


class _Above(TorchFunctionMode):
    """Lets sites be heard as soon as the Python call that made them is back, above autograd."""

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


def _by_sample(units: Tensor, n: int) -> Tensor | None:
    """Flatten to `(n, u)`, from batch first, from sequence first, or from samples cut in parts."""
    if units.dim() and len(units) == n:
        return units.reshape(n, -1)
    if units.dim() > 1 and units.shape[1] == n:
        return units.transpose(0, 1).reshape(n, -1)
    if units.dim() and len(units) and len(units) % n == 0:
        return units.reshape(n, -1)
    if units.dim() > 1 and len(units) == 1 and units.shape[1] % n == 0:  # instance normalisation
        return units.reshape(n, -1)
    return None


def _not_by_sample(name: str, units: Tensor, n: int) -> str:
    return (
        f"site {name!r} has units of shape {tuple(units.shape)} for {n} samples, expected a "
        f"dimension of size {n}: the network must treat samples independently."
    )


def _winner(operation: Operation, out: Any) -> Tensor:
    """Which element was chosen: what the operator tells, or found again where it tells nothing."""
    if not isinstance(out, Tensor):
        return out[1]
    dims = operation.choice.dims or tuple(range(operation.z.dim()))
    last = operation.z.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
    return last.argmin(-1) if operation.choice.of == "minimum" else last.argmax(-1)
