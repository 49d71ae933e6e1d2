"""Networks on inputs `(n, T, d)` that put their samples along other dimensions than the first."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it

STEPS, WIDTH = 5, 4
HIDDEN = 10  # a multiple of the steps, so that lengths coincide in many ways


def time_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def batch_first(h: Tensor) -> Tensor:
    return h.transpose(0, 1).flatten(1)


class TimeFirst(nn.Module):
    """Wraps a part that maps `(T, n, d)` to `(T, n, k)`."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x):
        h = self.part(time_first(x))
        return batch_first(h[0] if isinstance(h, tuple) else h)


class Flattened(nn.Module):
    """Flattens steps and samples, in one order or the other, before a part that maps rows."""

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = first
        self.part = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x):
        h = self.first(x)
        out = torch.tanh(self.part(h.reshape(-1, WIDTH))).reshape(h.shape)
        return batch_first(out) if self.first is time_first else out.flatten(1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], *, flat: bool = False, **options: bool) -> None:
        super().__init__()
        self.rnn, self.flat = kind(WIDTH, HIDDEN, **options), flat
        self.is_batch_first = options.get("batch_first", False)
        self.head = nn.Linear(HIDDEN * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x):
        out, _ = self.rnn(x if self.is_batch_first else time_first(x))
        if self.flat:
            rows = torch.relu(self.head(out.reshape(-1, out.shape[-1])))
            out = rows.reshape(*out.shape[:2], 2)
        else:
            out = torch.relu(self.head(out))
        return out.flatten(1) if self.is_batch_first else batch_first(out)


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(WIDTH, HIDDEN, num_layers=2), nn.Linear(HIDDEN, 2)

    def forward(self, x):
        _, state = self.rnn(time_first(x))
        return torch.relu(self.head(state[-1])) + torch.relu(self.head(state)).sum(0)


class LastStep(nn.Module):
    """Picks one step of each sample by an index, from either order."""

    def forward(self, x):
        rows, step = torch.arange(len(x)), torch.full((len(x),), 2)
        return torch.relu(x[rows, step]) + torch.tanh(time_first(x)[step, rows])


class Attending(nn.Module):
    def __init__(self, *, is_batch_first: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=is_batch_first)
        self.is_batch_first = is_batch_first

    def forward(self, x):
        h = x if self.is_batch_first else time_first(x)
        h, _ = self.attention(h, h, h)
        h = torch.relu(h)
        return h.flatten(1) if self.is_batch_first else batch_first(h)


class SequenceConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        h = self.conv(time_first(x).permute(1, 2, 0)).permute(2, 0, 1)
        return batch_first(torch.relu(h))


class Kernels(nn.Module):
    """Convolves each sample with a kernel of its own, by groups."""

    def __init__(self) -> None:
        super().__init__()
        self.to_kernel = nn.Linear(WIDTH, 6 * STEPS)

    def forward(self, x):
        n = len(x)
        kernels = torch.tanh(self.to_kernel(x.mean(1))).reshape(n * 2, STEPS, 3)
        out = F.conv1d(x.reshape(1, n * STEPS, WIDTH), kernels, groups=n, padding=1)
        return torch.relu(out).reshape(n, -1)


class TransposedKernels(nn.Module):
    def forward(self, x):
        n = len(x)
        kernels = torch.ones(n * STEPS, 2, 3)
        out = F.conv_transpose1d(x.reshape(1, n * STEPS, WIDTH), kernels, groups=n)
        return torch.relu(out).reshape(n, -1)


class Buffered(nn.Module):
    """Writes step by step into a buffer with the time first."""

    def forward(self, x):
        out, state = x.new_zeros(STEPS, len(x), WIDTH), torch.zeros_like(x[:, 0])
        for step in range(STEPS):
            state = torch.tanh(x[:, step] + state)
            out[step] = state
        return batch_first(torch.relu(out - 0.1))


class Written(nn.Module):
    """Writes into parts of a table with the samples first."""

    def forward(self, x):
        table = x.new_zeros(len(x), 2 * WIDTH)
        table[:, WIDTH:] = x[:, 1]
        table[:, :WIDTH] = x[:, 0].relu()
        return torch.tanh(table)


class Patches(nn.Module):
    """Cuts each sample into patches, and flattens samples and patches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * WIDTH, 3)

    def forward(self, x):
        patches = x.unfold(1, 2, 1).flatten(2)
        rows = torch.relu(self.layer(patches.reshape(-1, 2 * WIDTH)))
        return torch.tanh(rows.reshape(len(x), -1, 3).amax(1))


class TwoViews(nn.Module):
    """Puts two views of all samples into one batch."""

    def forward(self, x):
        both = torch.relu(torch.cat([x, x.flip(1)]))
        first, second = both.chunk(2)
        return (first * second).flatten(1)


class Copies(nn.Module):
    """Passes several copies of each sample through a layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(STEPS * WIDTH, 3)

    def forward(self, x):
        x, n = x.flatten(1), len(x)
        if self.how == "interleaved":
            return torch.relu(self.layer(x.repeat_interleave(3, 0))).reshape(n, -1)
        return torch.relu(self.layer(x.repeat(3, 1))).reshape(3, n, 3).transpose(0, 1).flatten(1)


class Stacked(nn.Module):
    """Stacks and joins steps in several orders."""

    def forward(self, x):
        steps = [torch.tanh(step) for step in x.unbind(1)]
        first, last = torch.stack(steps), torch.stack(steps, 2)
        joined = torch.cat([first, torch.ones_like(first[:1]), first], 0)
        return torch.cat([batch_first(joined.relu()), last.relu().flatten(1)], 1)


class Reduced(nn.Module):
    """Sums, sorts and normalises with the time first."""

    def forward(self, x):
        h = time_first(x)
        best = h.amax(0) + h.max(0).values + h.amin((0,))
        mean = torch.relu(h - h.mean(0, keepdim=True)).sum(0) + h.logsumexp(0)
        sorted_ = batch_first(h.sort(0).values) + batch_first(h.softmax(0))
        return torch.cat([best, mean, sorted_, batch_first(F.glu(h, 2)).relu()], 1)


class Products(nn.Module):
    """Multiplies by weights from the left and from the right."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(STEPS, STEPS))
        self.bilinear = nn.Bilinear(WIDTH, WIDTH, 3)

    def forward(self, x):
        left = torch.tanh(torch.einsum("st,tnd->snd", self.weight, time_first(x)))
        columns = torch.relu(self.weight[:, :WIDTH] @ x[:, 0].T)  # (T, n)
        apart = torch.cdist(x[:, 0], self.weight[:, :WIDTH]).relu()
        both = self.bilinear(x[:, 0], x[:, 1]).tanh()
        return torch.cat([batch_first(left), columns.T, apart, both], 1)


class Images(nn.Module):
    """Normalises, convolves and pools images, also with the time as further samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.InstanceNorm2d(3)
        self.group = nn.GroupNorm(3, 3)

    def forward(self, x):
        images = x[:, None].to(memory_format=torch.channels_last)
        h = F.max_pool2d(torch.relu(self.norm(self.conv(images))), 2)
        frames = time_first(x).reshape(-1, 1, 2, 2)  # (T * n, 1, 2, 2)
        seen = self.group(self.conv(frames)).relu().amax((2, 3)).reshape(STEPS, len(x), 3)
        return torch.cat([h.flatten(1), batch_first(seen)], 1)


def encoder(*, is_batch_first: bool) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, batch_first=is_batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.LayerNorm(HIDDEN), nn.Hardtanh(), nn.Softmax(2)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layers, batch first": lambda: nn.Sequential(layers(), nn.Flatten()),
    "layers, time first": lambda: TimeFirst(layers()),
    "flattened, batch first": lambda: Flattened(lambda x: x),
    "flattened, time first": lambda: Flattened(time_first),
    "encoder, batch first": lambda: nn.Sequential(encoder(is_batch_first=True), nn.Flatten()),
    "encoder, time first": lambda: TimeFirst(encoder(is_batch_first=False)),
    "attention, batch first": lambda: Attending(is_batch_first=True),
    "attention, time first": Attending,
    "LSTM, time first": lambda: Recurrent(nn.LSTM),
    "LSTM, batch first": lambda: Recurrent(nn.LSTM, batch_first=True),
    "LSTM, both ways": lambda: Recurrent(nn.LSTM, bidirectional=True),
    "GRU, flattened, time first": lambda: Recurrent(nn.GRU, flat=True),
    "RNN, flattened, batch first": lambda: Recurrent(nn.RNN, batch_first=True, flat=True),
    "last state": LastState,
    "last step": LastStep,
    "sequence convolution": SequenceConv,
    "kernels": Kernels,
    "transposed kernels": TransposedKernels,
    "buffered": Buffered,
    "written": Written,
    "patches": Patches,
    "two views": TwoViews,
    "copies, interleaved": lambda: Copies("interleaved"),
    "copies, one after the other": lambda: Copies("repeated"),
    "stacked": Stacked,
    "reduced": Reduced,
    "products": Products,
    "images": Images,
}
