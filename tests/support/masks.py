"""Functions that are written with comparisons, and networks that use them as activations."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from residual_networks import evaluated
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it

Function: TypeAlias = Callable[[Tensor], Tensor]
Spelling: TypeAlias = tuple[Function, Function | None]


def cleared(x: Tensor) -> Tensor:
    x = x * 1
    x[x < 0] = 0
    return x


def filled_in_place(x: Tensor) -> Tensor:
    x = x + 0
    return x.masked_fill_(x.lt(0), 0)


def multiplied_in_place(x: Tensor) -> Tensor:
    y = x * 1
    y *= x > 0
    return y


def lifted_in_place(x: Tensor) -> Tensor:
    y = x * ((x >= -1) & (x <= 1))
    y += (x > 1).to(x.dtype)
    y -= (x < -1).to(x.dtype)
    return y


def joined_in_place(x: Tensor) -> Tensor:
    mask = x < 0
    mask |= x > 1
    return torch.where(mask, (x > 1).to(x.dtype), x)


def by_a_channel_of_its_own(x: Tensor) -> Tensor:
    both = torch.stack([x, 0.1 * x], 1)
    chosen = (x < 0).long()[:, None]
    return both.gather(1, chosen)[:, 0]


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


# Spellings with one comparison, and the same function without.
ONE_SITE: dict[str, Spelling] = {
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), leaky),
    "where of a scalar": (lambda x: torch.where(x >= 0.1, x, 0.1), lambda x: x.clamp(min=0.1)),
    "slopes of scalars": (
        lambda x: torch.where(x > 0, 1.0, 0.25) * x,
        lambda x: F.leaky_relu(x, 0.25),
    ),
    "gate": (lambda x: x * (x > 0), torch.relu),
    "gate of a float": (lambda x: x * (x > 0).float(), torch.relu),
    "gate of a type": (lambda x: (x > 0).type_as(x) * x, torch.relu),
    "gate in place": (multiplied_in_place, torch.relu),
    "not": (lambda x: ~(x <= 0) * x, torch.relu),
    "logical not": (lambda x: x * torch.logical_not(x < 0), torch.relu),
    "one minus": (lambda x: (1 - (x < 0).float()) * x, torch.relu),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0), torch.relu),
    "masked_fill_": (filled_in_place, torch.relu),
    "index of a mask": (cleared, torch.relu),
    "addcmul": (lambda x: torch.addcmul(0.1 * x, 0.9 * x, (x > 0).to(x.dtype)), leaky),
    "sign": (lambda x: x.sign() * x, torch.abs),
    "sgn": (lambda x: x * torch.sgn(x), torch.abs),
    "quotient by a sign": (lambda x: x / x.sign(), torch.abs),
    "heaviside": (lambda x: torch.heaviside(x, torch.zeros(())) * x, torch.relu),
    "tensors on both sides": (
        lambda x: torch.where(x > 1 - x, x, 1 - x),
        lambda x: torch.maximum(x, 1 - x),
    ),
    "a constant first": (
        lambda x: torch.where(torch.gt(torch.ones(1), x), x, 1.0),
        lambda x: x.clamp(max=1),
    ),
    "gather": (by_a_channel_of_its_own, leaky),
    "mask of a mask": (lambda x: x * ((x > 0).float() > 0.5), torch.relu),
    "views of a mask": (
        lambda x: ((x > 0).flatten(1)[:, None] * x.flatten(1)[:, None]).view_as(x),
        torch.relu,
    ),
}
# Spellings with several sites, and the same function if it has the same regions.
SEVERAL_SITES: dict[str, Spelling] = {
    "two masks": (lambda x: (x > 0) * x - (x < -1) * (x + 1), lambda x: x.relu() + (-x - 1).relu()),
    "and": (lambda x: torch.where((x > 0) & (x < 1), x, x.clamp(0, 1)), lambda x: x.clamp(0, 1)),
    "logical_and": (lambda x: x.clamp(max=1) * torch.logical_and(x > 0, x < 9), None),
    "or": (lambda x: torch.where((x < 0) | (x > 1), x.clamp(0, 1), x), lambda x: x.clamp(0, 1)),
    "or in place": (joined_in_place, lambda x: x.clamp(0, 1)),
    "xor": (lambda x: torch.where((x > 0) ^ (x > 1), x, (x > 1) * 1.0), lambda x: x.clamp(0, 1)),
    "equal masks": (lambda x: torch.where((x > 0) == (x >= 0), x, 9.0), None),
    "jumps that cancel": (lambda x: x * (x > 1) + (x <= 1), lambda x: x.clamp(min=1)),
    "jumps that cancel in place": (lifted_in_place, F.hardtanh),
    "sign times": (lambda x: x.sign() * x.abs().clamp(min=1) - x.sign(), None),
    "any of two": (lambda x: torch.stack([x > 0, x > 1], 1).any(1) * x, None),
    "kinks found in two ways": (
        lambda x: x * ((x - 0.3) * 7 > 0) + 0.3 * (x <= 0.3),
        lambda x: x.clamp(min=0.3),
    ),
}


class Perceptron(nn.Module):
    """A residual network for vectors of five numbers; its activation is given with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, act: Function) -> Tensor:
        h = act(self.layers[0](x))
        h = h + act(self.layers[1](h))
        return self.head(act(self.layers[2](h)) - h)


class Pixels(nn.Module):
    """A convolutional network with normalisation, pooling, and a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = evaluated(nn.Sequential(nn.BatchNorm2d(3)))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor, act: Function) -> Tensor:
        h = act(self.norm(self.first(x)))
        h = F.max_pool2d(h + act(self.second(h)), 2)
        return self.head(act(h).mean((2, 3)))


def cases() -> Iterator[tuple[nn.Module, Tensor]]:
    """Networks, and paths through their inputs."""
    torch.manual_seed(3)
    yield Perceptron(), torch.randn(2, 3, 5) * 3
    yield Pixels(), torch.randn(1, 2, 1, 5, 5) * 3
