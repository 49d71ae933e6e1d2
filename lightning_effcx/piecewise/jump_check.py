"""Jump check: walk a short way through input space, and refuse a network that jumps there.

A pass at single samples sees a comparison, but not whether its mask is used continuously. That
shows where the mask changes. So a network with comparisons is also followed along a path, with all
its knots. This does not see a jump of a mask that is the same on the whole path.
"""

from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from lightning_effcx.network import Network
from lightning_effcx.piecewise.engine import Engine, IdleError, TooLargeError
from lightning_effcx.piecewise.rounding import with_care_if_needed
from lightning_effcx.piecewise.rows import Rows

_BUDGET = 2**26  # bytes of activations
_SHARES = [8.0**-power for power in range(7)]  # of the way to each vertex, until the knots fit


def check_jumps(network: Network, x: Tensor) -> None:
    """Raise the error of a site that jumps on a path from a sample to its negative.

    The path goes around the origin, where a jump may be hidden because all values are zero.

    Args:
        network: The network, in the precision of `x`.
        x: The samples. The first two count.
    """
    signs = torch.ones_like(x[0]).flatten()
    signs[::2] = -1
    vertices = torch.cat([x[:2], x[:1] * signs.view_as(x[0]), -x[:1]])
    position = torch.arange(len(vertices)).to(x)
    rows = Rows(torch.zeros_like(position, dtype=torch.long), position)
    for share in _SHARES:
        way = vertices[:1].lerp(vertices, share)
        with suppress(TooLargeError):
            with_care_if_needed(partial(_run, network, rows, way))
            return


def _run(network: Network, rows: Rows, x: Tensor, is_careful: bool) -> None:  # noqa: FBT001 as it is called
    engine = Engine(rows, x, {}, budget=_BUDGET, is_careful=is_careful)
    with suppress(IdleError):  # raised at the end of a pass, so nothing was refused
        engine.run(network)
