"""Substitution: a network whose curves are replaced by broken lines, and nothing else.

The curves are replaced as they run, below Python, so the network itself is not changed, and however
it is written does not matter. What comes out is piecewise linear, in operations that `pieces` can
count on.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_effcx.network import Network, differentiating, evaluate, to_precision
from lightning_effcx.tangents.piecewise_linear import PiecewiseLinear
from lightning_effcx.tracing import Call, Follower, Leaving, Operation, as_one, tensors

_NUMBERS = 2**22  # in one tensor, at most, while two networks are compared


class Substituted:
    """A network with broken lines in place of its curves; maps `(n, ...)` to `(n, k)`.

    It refers to the network, whose weights of now it takes at every call, and runs it as it is
    called, in the mode in which it is. It records no gradients: those of the curves, which autograd
    would take, are not its own.

    Args:
        network: The network with the curves.
        lines: What replaces the curve of each site, by its name.
    """

    def __init__(self, network: Network, lines: Mapping[str, PiecewiseLinear]) -> None:
        self.network = network
        self.lines = lines

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate it for any number of samples."""
        with torch.no_grad(), differentiating():
            x = x.clone() if x.is_inference() else x
            follower = _Substitution(x, self.lines)
            with as_one(self.network), follower.names, Leaving(follower.lineage.read), follower:
                y = self.network(x)
            follower.needed(y)
            return y


def difference(network: Network, other: Substituted, x: Tensor, chunk: int) -> float:
    """Return the mean absolute difference of the outputs of two networks at the samples `x`."""
    most = max(len(lines.knot) for lines in other.lines.values())
    total = 0.0
    with torch.no_grad():
        for part in x.split(max(1, min(chunk, _NUMBERS // max(most, 1)))):
            apart = evaluate(network, part.clone()) - other(part)
            total += float(to_precision(apart, torch.float64).abs().mean(1).sum())
    return total / len(x)


class _Substitution(Follower):
    """Puts the result of broken lines where that of a curve would be."""

    def __init__(self, x: Tensor, lines: Mapping[str, PiecewiseLinear]) -> None:
        super().__init__(x)
        self.lines = lines

    def run(self, operation: Operation, call: Call) -> tuple[Any, str]:
        z = operation.z
        if operation.kind != "curve":
            out = call.run()
            # Some operators return nothing, but write; some answer a question without any tensor.
            left = next(tensors(out, call.written()), None)
            is_number = left is None or not left.dim()
            return out, "" if is_number else self.names.name(operation.name)
        if not z.dim():
            return call.run(), ""
        name = self.names.name(operation.name)
        try:
            out = self._line(name, z)
        except ValueError as error:
            self.refused[name] = error
            return call.run(), name
        returned = call.func._schema.returns  # noqa: SLF001
        if call.is_in_place():
            return call.kwargs.get("out", call.args[0]).copy_(out), name
        # The logarithm of the sigmoid returns what its derivative wants, too.
        rest = tuple(out.new_empty(0) for _ in returned[1:])
        return (out, *rest) if rest else out, name

    def _line(self, name: str, z: Tensor) -> Tensor:
        if name not in self.lines:
            raise ValueError(
                f"site {name!r} was not there when the network was approximated: it must do the "
                "same at every call."
            )
        lines = self.lines[name].to(z)
        rows = z.reshape(len(z), -1)
        if rows.shape[1] != len(lines.slope):
            raise ValueError(
                f"site {name!r} has units of shape {tuple(z.shape)}, expected {len(lines.slope)} "
                "for each sample, which must be the first dimension."
            )
        return lines(rows).reshape(z.shape)
