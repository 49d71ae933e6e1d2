"""Confirmation: plain evaluations of a network, which confirm what an exact pass found.

A pass knows the network by the operators that it sees. A table of operators may have a wrong row,
and the network may go on with numbers that the pass does not see: it pickles its input, rounds it,
or draws noise. So the network is evaluated once more, without the pass, at a few points.

Points between the vertices tell more than the vertices: where the pass saw nothing of the input,
its outputs are right at the vertices, but the network bends between them. On each segment the
point is in the middle of the longest interval without a knot, where a missing knot is most likely.
The cost is one forward pass over as many rows as there are segments.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_effcx.network import Network, NetworkInPrecision, differentiating, is_close, to_own
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.tracing import RefusedError, check_numbers, tensors


@dataclass(frozen=True, eq=False)
class Claim:
    """What a pass says about a network.

    Attributes:
        x: Some inputs.
        y: The outputs there, `(n, k)`.
        output: Which of the tensors that the network returns has these outputs, by its number.
        size: The size of the largest numbers on the way to the outputs, as far as it is known.
    """

    x: Tensor
    y: Tensor
    output: int
    size: float = 0.0

    def confirm(self, network: Network) -> None:
        """Raise if a plain evaluation of the network gives other outputs.

        Args:
            network: The network in the precision of the pass.
        """
        # Some networks treat a batch of one in another way, such as by squeeze().
        x = torch.cat([self.x] * (2 if len(self.x) == 1 else 1))
        y = self._chosen(evaluate_plainly(network, x), len(x))
        check_numbers(network, self.x, y)
        if not is_close(self.y, y, x=self.x, size=self.size):
            raise RefusedError(self._differ(y))

    def _chosen(self, returned: Any, count: int) -> Tensor:
        """Return the outputs among what a network returned for `count` inputs."""
        y = list(tensors(tree_leaves(returned)))[self.output]
        y = torch.view_as_real(y) if y.is_complex() else y
        return y.reshape(count, -1)[: len(self.y)].to(self.y.device)

    def _differ(self, y: Tensor) -> str:
        apart = (y - self.y).abs()
        return (
            f"the exact pass and the network itself differ by up to {float(apart.max()):.3g} where "
            f"the outputs are up to {float(y.abs().max()):.3g}, because the network is random, "
            "rounds its numbers, or takes them out of torch, so it has no exact regions: use "
            "Transitions."
        )


def evaluate_plainly(network: Network, x: Tensor) -> Any:
    """Return what a network returns without a pass.

    Args:
        network: The network in the precision of the pass. Where it cannot be evaluated in that
            precision, as if it casts its input, it is evaluated in its own.
        x: The inputs.
    """
    with torch.no_grad(), differentiating():
        try:
            return network(x.clone())
        except RuntimeError:
            original = network.original if isinstance(network, NetworkInPrecision) else network
            return original(to_own(original, x))


def claim_between(rows: Rows, start: Tensor, x: Tensor, y: Tensor, output: int) -> Claim:
    """Return what a pass over paths says about the points between its first rows.

    Args:
        rows: The rows at the end of the pass.
        start: Which of them are the first rows.
        x: The inputs at the first rows.
        y: The outputs at the rows of the end, `(r, k)`.
        output: Which output that is, by its number.
    """
    left = _longest(rows, start)
    (first,) = (left >= 0).nonzero(as_tuple=True)  # of two first rows on one path
    left = left[first]
    where, before, after = rows.position, start[first], start[first + 1]
    middle = (where[left] + where[left + 1]) / 2
    fraction = (middle - where[before]) / (where[after] - where[before])
    between = torch.lerp(x[first], x[first + 1], fraction.reshape(-1, *[1] * (x.dim() - 1)))
    alone = torch.ones_like(start, dtype=torch.bool)  # such as a path of one vertex
    alone[first] = alone[first + 1] = False
    return Claim(
        torch.cat([between, x[alone]]),
        torch.cat([(y[left] + y[left + 1]) / 2, y[start[alone]]]),
        output,
    )


def _longest(rows: Rows, start: Tensor) -> Tensor:
    """Return the row before the longest interval between each first row and the next one.

    It is -1 for the last row of a path.
    """
    joined = rows.joined()
    index = torch.arange(len(joined), device=start.device)[joined]
    length = rows.position.diff()[joined]
    segment = torch.searchsorted(start, index, right=True) - 1
    most = length.new_full((len(start),), -1.0).scatter_reduce(0, segment, length, "amax")
    found = torch.full_like(start, -1)
    longest = length == most[segment]
    found[segment[longest]] = index[longest]
    return found


def claim_around(samples: Claim, directions: Tensor, slopes: Tensor, radius: Tensor) -> Claim:
    """Add to what a pass says about samples a point in the region of each.

    Args:
        samples: What it says about the samples.
        directions: Some directions, `(c, ...)`.
        slopes: The derivatives of the outputs along them, `(c, n, k)`.
        radius: How far, along sums of them, the boundaries of the samples' regions are, `(n,)`.
    """
    if not len(directions):
        return samples
    x, y = samples.x, samples.y
    step = torch.where(radius.isfinite(), radius, 1.0) / (2 * len(directions) ** 0.5)
    near = x + step.reshape(-1, *[1] * (x.dim() - 1)) * directions.sum(0)
    above = y + step[:, None] * slopes.sum(0)
    return Claim(torch.cat([x, near]), torch.cat([y, above]), samples.output)
