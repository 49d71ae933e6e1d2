"""Random architectures, each with the codes of its own units, written down by its steps.

An architecture is a list of steps on a flat tensor `(n, d)`. A step that bends tells `note` its
units, so that the codes of a sample need no knowledge of operators. While nobody listens, `note`
does nothing.
"""

import copy
import math
import random
from collections.abc import Callable

import architecture_activations  # noqa: F401 has steps
import architecture_choices  # noqa: F401 has steps
import architecture_images  # noqa: F401 has steps
import torch
from architecture_steps import STEPS
from torch import Tensor, nn


class Architecture(nn.Module):
    """A random network; `draw_architecture` makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.ParameterList()
        self.steps: list[Callable] = []
        self.names: list[str] = []
        self.heard: list[Tensor] | None = None

    def weight(self, *shape: int, scale: float = 1.0) -> int:
        """Draw a parameter, and return its index in `p`."""
        fan = math.prod(shape[1:]) if len(shape) > 1 else 1
        self.p.append(nn.Parameter(scale * torch.randn(shape) / math.sqrt(fan)))
        return len(self.p) - 1

    def note(self, *units: Tensor) -> None:
        """Take note of units that bend where they are 0, where somebody listens."""
        if self.heard is not None:
            # Units that are made of nothing but rounding are on their kink.
            self.heard += [(each > 1e-14).long().flatten() for each in units]

    def note_near(self, z: Tensor, h: Tensor) -> None:
        """Take note of units `z` made of `h`, some of which stay on their kink up to rounding."""
        if self.heard is not None:
            self.heard.append((z > _slack(h)).long().flatten())

    def note_choice(self, values: Tensor, dim: int = -1) -> None:
        """Take note of the winners among values, several where some are equal up to rounding."""
        if self.heard is not None:
            best = values.amax(dim, keepdim=True)
            self.heard.append((values >= best - _slack(best)).long().flatten())

    def note_order(self, values: Tensor, first: int | None = None) -> None:
        """Take note of the order of values `(1, d)`, or of the first of them in it."""
        if self.heard is not None:
            ahead = values[:, :, None] - values[:, None] > _slack(values)
            if first is not None:
                ahead &= (ahead.sum(1) < first)[:, :, None]
            self.heard.append(ahead.long().flatten())

    def note_equal(self, values: Tensor, chosen: Callable[[Tensor], Tensor]) -> None:
        """Take note of which values are the chosen one, several where some are equal."""
        if self.heard is not None:
            away = (values - chosen(values)).abs()
            self.heard.append((away <= _slack(values)).long().flatten())

    def note_index(self, index: Tensor) -> None:
        """Take note of choices that the network asks for anyway."""
        if self.heard is not None:
            self.heard.append(-1 - index.flatten())

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        for each in self.steps:
            h = each(self, h)
        return h

    def codes(self, sample: Tensor) -> dict[str, Tensor]:
        """Return the codes of all units at one sample."""
        self.heard = []
        try:
            with torch.no_grad():
                self(sample[None].clone())
            return {"all": torch.cat([torch.zeros(1, dtype=torch.long), *self.heard])}
        finally:
            self.heard = None


def _slack(values: Tensor) -> float:
    """Return by how much values may differ that are equal up to rounding."""
    return 1e-11 * float(values.nan_to_num(0, 0, 0).abs().max())


def draw_architecture(
    seed: int, allowed: tuple[str, ...] = ()
) -> tuple[Architecture, Tensor, Tensor]:
    """Draw a network, three paths and two samples."""
    r = random.Random(seed)  # noqa: S311 no secret
    torch.manual_seed(seed)
    net = Architecture()
    d = width = r.choice([2, 3, 4, 6])
    names = list(allowed or STEPS)
    for _ in range(r.randint(2, 6)):
        name = r.choice(names)
        if width > 40 or width < 2:
            name = "linear"
        run, width = STEPS[name](net, width, r)
        net.steps.append(run)
        net.names.append(name)
    run, width = STEPS["linear"](net, width, r)
    net.steps.append(run)
    net.names.append("linear")
    points = r.choice([2, 2, 2, 3])
    path = r.choice([1.0, 3.0]) * torch.randn(3, points, d, dtype=torch.float64)
    return net.eval(), path, torch.randn(2, d, dtype=torch.float64)


def plain(net: Architecture) -> Architecture:
    """Return a copy in float64."""
    return copy.deepcopy(net).double()
