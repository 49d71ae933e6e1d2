"""Networks whose answers are known, and networks in all the usual ways of writing them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from lightning_effcx.metrics.samples import check_samples


def mlp(*widths: int, bias: bool = True, activation: Callable[[], nn.Module] = nn.ReLU):
    """A multilayer perceptron of these widths, from the inputs to the outputs."""
    layers: list[nn.Module] = []
    for m, n in pairwise(widths):
        layers += [nn.Linear(m, n, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def counting_rows(x: Tensor):
    """The identity, and a list of how many rows it is evaluated at from now on.

    The check of samples, which is made once for a network, is made already.
    """
    rows: list[int] = []

    def network(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x

    check_samples(network, x)
    rows.clear()
    return network, rows


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """The linear map of this matrix."""
    layer = nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


class Staircase(nn.Module):
    """y = Σ relu(x - j) for j = 1, ..., steps: each step crosses one kink."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.layer = linear(torch.ones(steps, 1), -torch.arange(1.0, steps + 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x)).sum(1, keepdim=True)


class Sawtooth(nn.Module):
    """Tents on tents on [0, 1]: each layer doubles the number of linear pieces, and the slope."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.slope = 2.0**depth
        self.crossings = {f"relus.{i}": 2**i for i in range(depth)}  # of the kink at a half
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for relu in self.relus:
            up, down = relu(torch.cat([x, x - 0.5], 1)).unbind(1)
            x = (2 * up - 4 * down)[:, None]
        return x


class NetworkAndLoss(nn.Module):
    """A child with parameters, which forward calls, and a child without."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(3, 2)
        self.loss = nn.MSELoss()

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * self.network(x + 1)


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.head(self.drop(h).flatten(1))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.relu(self.first(x)))
        h += 1.0
        return self.third(h.clamp_(min=-0.5))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.layers[0](x))
        x = self.layers[1](x).clamp(min=0)
        x = F.leaky_relu(self.layers[2](x), 0.1)
        x = self.layers[3](x)
        return self.head(torch.where(x > 0, x, torch.zeros_like(x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4, 8, 4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([x, F.relu(x + self.body(x))], 1))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.register_buffer("positions", torch.linspace(-1, 1, 5)[:, None])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x + self.positions.sin()).mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return self.head(F.gelu(attended).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.cells = kind(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class HandWritten(torch.autograd.Function):
    """A ReLU in the old style, which knows no transforms of functions."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(HandWritten.apply(self.first(x)))


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.MaxPool1d(2)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.square = nn.MaxPool2d(2, stride=1)
        self.head = nn.Linear(2 * 3 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.square(self.conv(x)).flatten(0, 1)  # (2n, 5, 5), samples cut in parts
        return self.head(self.flat(F.pad(h, (0, 1))).reshape(len(x), -1))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(4, 6))
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Lenet(nn.Module):
    """Curves and choices, as before there were ReLUs, and a residual of the two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.hidden = nn.Linear(27, 27)
        self.head = nn.Linear(27, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(torch.tanh(self.norm(self.conv(x))), 2).flatten(1)
        return self.head(h + F.silu(self.hidden(h)).relu())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(x)))))


class Caching(nn.Module):
    """Keeps a table that it makes at its first call, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.calls = 0
        self.layer = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.table is None:
            self.table = torch.linspace(0, 1, 4, dtype=x.dtype).sin()
        return self.head(torch.relu(self.layer(x * self.table)))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4, 6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=False).relu())


class Prelu(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3))


@dataclass(frozen=True)
class Specimen:
    """How to make a network of the zoo, and the shape of one of its inputs."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (4,)


ZOO = {
    "mlp": Specimen(lambda: mlp(4, 8, 8, 3)),
    "conv": Specimen(Conv, (1, 6, 6)),
    "in_place": Specimen(InPlace),
    "functional": Specimen(Functional),
    "residual": Specimen(Residual),
    "transformer": Specimen(Transformer, (5, 8)),
    "attention": Specimen(Attention, (5, 8)),
    "lstm": Specimen(lambda: Recurrent(nn.LSTM), (5, 8)),
    "gru": Specimen(lambda: Recurrent(nn.GRU), (5, 8)),
    "scripted": Specimen(lambda: torch.jit.script(mlp(4, 8, 3))),
    "custom": Specimen(Custom),
    "prelu": Specimen(Prelu),
    "pools": Specimen(Pools, (1, 6, 6)),
    "normed": Specimen(Normed),
    "tied": Specimen(Tied),
    "caching": Specimen(Caching),
    "tanh": Specimen(lambda: mlp(4, 8, 8, 3, activation=nn.Tanh)),
    "gelu": Specimen(lambda: mlp(4, 8, 8, 3, activation=nn.GELU)),
    "lenet": Specimen(Lenet, (1, 6, 6)),
    "checkpointed": Specimen(Checkpointed),
}


def specimen(name: str, samples: int = 7) -> tuple[nn.Module, Tensor]:
    """A network of the zoo in train mode, of the default precision, and samples for it."""
    return ZOO[name].make(), torch.randn(samples, *ZOO[name].shape)
