"""A network in which piecewise-linear functions replace the curves, and nothing else changes.

A dispatch mode replaces each curve while the network runs. So the network itself stays as it is,
and it may call its activations in any way. The result is piecewise linear, and it consists of
operations that `pieces` knows.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_effcx.network import Network, differentiating, evaluate, to_precision
from lightning_effcx.tangents.piecewise_linear import PiecewiseLinear
from lightning_effcx.tracing import (
    Follower,
    Leaving,
    Operation,
    OperatorCall,
    SamplePlace,
    as_one,
    by_sample,
    join_samples,
    separate_samples,
    tensors,
)

_NUMBERS = 2**22  # at most so many numbers in one tensor while two networks are compared


class SubstitutedNetwork:
    """A network with piecewise-linear functions in place of its curves.

    It maps `(n, ...)` to `(n, k)`. Each call runs the network with its present weights and in its
    present mode. No gradients are recorded, since autograd would record the curves' derivatives.

    Args:
        network: The network with the curves.
        lines: The functions that replace the curves, by the name of the site.
    """

    def __init__(self, network: Network, lines: Mapping[str, PiecewiseLinear]) -> None:
        self.network = network
        self.lines = lines

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate any number of samples."""
        with torch.no_grad(), differentiating():
            x = separate_samples(x.clone() if x.is_inference() else x)
            follower = _Substitution(x, self.lines)
            with as_one(self.network), follower.names, Leaving(follower.lineage.read), follower:
                y = self.network(x)
            follower.needed(y)
            return y


def difference(network: Network, other: SubstitutedNetwork, x: Tensor, chunk: int) -> float:
    """Return the mean absolute difference of two networks' outputs at the samples `x`."""
    most = max(len(lines.knot) for lines in other.lines.values())
    total = 0.0
    with torch.no_grad():
        for part in x.split(max(1, min(chunk, _NUMBERS // max(most, 1)))):
            apart = evaluate(network, part.clone()) - other(part)
            total += float(to_precision(apart, torch.float64).abs().mean(1).sum())
    return total / len(x)


class _Substitution(Follower):
    """Runs a piecewise-linear function wherever the network would run a curve."""

    def __init__(self, x: Tensor, lines: Mapping[str, PiecewiseLinear]) -> None:
        super().__init__(x)
        self.lines = lines

    def run(self, operation: Operation, call: OperatorCall) -> tuple[Any, str]:
        z = operation.z
        if operation.kind != "curve":
            out = call.run()
            # In-place operators may return nothing, and some operators return a plain number.
            left = next(tensors(out, call.written()), None)
            is_number = left is None or not left.dim()
            return out, "" if is_number else self.names.name(operation.name)
        if not z.dim():
            return call.run(), ""
        name = self.names.name(operation.name)
        try:
            out = self._line(name, z, self.places.of_operand(call, z))
        except ValueError as error:
            self.refused[name] = error
            return call.run(), name
        returned = call.func._schema.returns  # noqa: SLF001
        target = call.overwritten()
        if target is not None:
            return target.copy_(out), name
        # log_sigmoid_forward also returns a buffer for its derivative, which is not needed here.
        rest = tuple(out.new_empty(0) for _ in returned[1:])
        return (out, *rest) if rest else out, name

    def _line(self, name: str, z: Tensor, place: SamplePlace | None) -> Tensor:
        if name not in self.lines:
            raise ValueError(
                f"site {name!r} did not run when the network was approximated: the network must "
                "run the same operations at every call."
            )
        lines = self.lines[name].to(z)
        n = self.places.n
        units = by_sample(z, place, n)
        if units is None and len(z) > n:
            # An exact pass inserts rows while the network runs, always in the first dimension.
            n, place = len(z), SamplePlace(-z.dim())
            units = by_sample(z, place, n)
        if units is None or units.shape[1] != len(lines.slope):
            raise ValueError(
                f"site {name!r} has pre-activations of shape {tuple(z.shape)}, expected "
                f"{len(lines.slope)} units for each of {n} samples along one dimension: the "
                "network must treat samples independently."
            )
        return join_samples(lines(units), z.shape, place, n)
