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
            self.heard += [(each > 0).long().flatten() for each in units]

    def note_near(self, z: Tensor, h: Tensor) -> None:
        """Take note of units `z` made of `h`, some of which stay on their kink up to rounding."""
        if self.heard is not None:
            self.note(torch.where(z.abs() <= 1e-11 * h.abs().max(), 0.0, z))

    def note_choice(self, values: Tensor, dim: int = -1) -> None:
        """Take note of the winners among values."""
        if self.heard is not None:
            self.heard.append(-1 - values.argmax(dim).flatten())

    def note_order(self, values: Tensor, dim: int = -1) -> None:
        """Take note of the order of values."""
        if self.heard is not None:
            self.heard.append(-1 - values.argsort(dim).flatten())

    def note_index(self, index: Tensor) -> None:
        """Take note of choices."""
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
