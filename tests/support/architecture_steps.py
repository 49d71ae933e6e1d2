"""Steps of random architectures: affine ones, and ones that join, share or write."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 torch's own habit

STEPS: dict[str, Callable] = {}
"""For each step a function of a network, a width and a source of randomness: it draws the step, and
returns its forward, of the network and a tensor, and the width behind it."""


def step(draw: Callable) -> Callable:
    """Register a step."""
    STEPS[draw.__name__] = draw
    return draw


LINEAR = {
    "linear": F.linear,
    "addmm": lambda h, w, b: torch.addmm(b, h, w.T),
    "matmul": lambda h, w, b: h @ w.T + b,
    "mm": lambda h, w, b: torch.mm(h, w.t()).add_(b),
    "einsum": lambda h, w, b: torch.einsum("nd,kd->nk", h, w) + b,
    "einsum, weight first": lambda h, w, b: torch.einsum("kd,nd->nk", w, h) + b,
    "tensordot": lambda h, w, b: torch.tensordot(h, w, dims=([1], [1])) + b,
    "convolution": lambda h, w, b: F.conv1d(h[:, :, None], w[:, :, None], b)[..., 0],
    "bmm": lambda h, w, b: torch.bmm(h[:, None], w.T.expand(len(h), -1, -1)).squeeze(1) + b,
    "baddbmm": lambda h, w, b: torch.baddbmm(
        b[None, None], h[:, None], w.T[None].repeat(h.shape[0], 1, 1)
    )[:, 0],
}


@step
def linear(net, d, r):
    k = r.choice([3, 4, 6, 8, 12])
    scale = r.choice([1.0] * 5 + [1e-9, 1e-4, 1e3, 1e6])
    w, b = net.weight(k, d), net.weight(k)
    form = r.choice(list(LINEAR))

    def run(net, h):
        return LINEAR[form](h, net.p[w] * scale, net.p[b] * scale) / scale

    return run, k


@step
def big_weights(net, d, r):
    """Weights and biases of very different scale, with a kink between them."""
    scale, bias = r.choice([1e-9, 1e-6, 1e6]), r.choice([0.1, 1.0])
    w, b = net.weight(d, d), net.weight(d, scale=bias)

    def run(net, h):
        z = F.linear(h, net.p[w] * scale, net.p[b] * scale)
        net.note(z / scale)
        return torch.relu(z) / scale

    return run, d


@step
def scalar(net, d, r):
    form = r.choice(range(8))

    def run(net, h):
        return [
            lambda: 2 * h - 1,
            lambda: -h,
            lambda: h / 3,
            lambda: 1 - h,
            lambda: h.mul(0.5).add_(0.25),
            lambda: torch.add(h, h, alpha=-0.5),
            lambda: torch.lerp(h, torch.ones_like(h), 0.25),
            lambda: h.sub(0.1).neg_(),
        ][form]()

    return run, d


@step
def rearrange(net, d, r):
    perm, form = r.sample(range(d), d), r.choice(range(14))

    def run(net, h):
        n = len(h)
        return [
            lambda: h[:, perm],
            lambda: h.flip(1),
            lambda: h.roll(1, 1),
            lambda: h.roll(1, -1),
            lambda: torch.cat(h.chunk(2, 1)[::-1], 1),
            lambda: h.T.contiguous().T,
            lambda: h.unsqueeze(0).squeeze(0),
            lambda: h.view(n, 1, d).transpose(1, 2).reshape(n, d),
            lambda: torch.stack(h.unbind(1)[::-1], 1),
            lambda: h.permute(1, 0).index_select(0, torch.tensor(perm)).permute(1, 0),
            lambda: h.gather(1, torch.tensor(perm).expand_as(h)),
            lambda: torch.cat([h[:, 1:], h[:, :1]], dim=-1),
            lambda: h.cumsum(1),
            lambda: torch.swapaxes(h, 0, 1).flipud().t(),
        ][form]()

    return run, d


@step
def stale_size(net, d, r):
    """A batch size that is read early, and used behind a kink."""
    w = net.weight(d, d)
    form = r.choice(range(5))

    def run(net, h):
        n = h.shape[0]
        start = torch.zeros(n, d, dtype=h.dtype)
        z = F.linear(h, net.p[w])
        net.note(z)
        h = torch.relu(z)
        if form == 0:
            return h.view(n, -1)
        if form == 1:
            return h.reshape(n, 1, d).expand(n, 2, d).mean(1)
        if form == 2:
            return h + start
        if form == 3:
            return torch.cat([h.view(n, d), start], 1)[:, :d]
        return h.view(n, d, 1).repeat(1, 1, 2).view(n, 2 * d)[:, ::2]

    return run, d


@step
def batch_norm(net, d, r):
    mean, var = net.weight(d), net.weight(d)

    def run(net, h):
        y = F.batch_norm(h, net.p[mean].detach(), net.p[var].detach().abs() + 0.5, training=False)
        return F.dropout(y, 0.5, training=False)

    return run, d


@step
def unused_head(net, d, r):
    form = r.choice(range(5))

    def run(net, h):
        if form == 0:
            F.cross_entropy(h, torch.zeros(len(h), dtype=torch.long))
        elif form == 1:
            torch.relu(h - 0.3).softmax(1)
        elif form == 2:
            h.sort(0)
        elif form == 3:
            torch.relu(h).mean(0)
        else:
            h.clone().relu_().sigmoid()
        return h

    return run, d


@step
def shared(net, d, r):
    """A module that is used twice."""
    w, b = net.weight(d, d), net.weight(d)
    act = nn.ReLU(inplace=r.random() < 0.5)

    def run(net, h):
        for _ in range(2):
            z = F.linear(h, net.p[w], net.p[b])
            net.note(z)
            h = act(z)
        return h

    return run, d


@step
def residual(net, d, r):
    inner, names = [], [n for n in STEPS if n not in ("residual", "dense", "linear")]
    width = d
    for _ in range(r.randint(1, 2)):
        run, width = STEPS[r.choice(names)](net, width, r)
        inner.append(run)
    w = net.weight(d, width)

    def run(net, h):
        y = h
        for each in inner:
            y = each(net, y)
        return h + F.linear(y, net.p[w])

    return run, d


@step
def dense(net, d, r):
    w = net.weight(4, d)
    form = r.choice(range(3))

    def run(net, h):
        z = F.linear(h, net.p[w])
        net.note(z)
        y = torch.relu(z)
        if form == 0:
            return torch.cat([h, y], 1)
        if form == 1:
            return torch.hstack([y, h])
        out = h.new_zeros(len(h), d + 4)
        out[:, :d] = h
        out[:, d:] = y
        return out

    return run, d + 4


@step
def two_branches(net, d, r):
    v, w = net.weight(d, d), net.weight(d, d)
    form = r.choice(range(4))

    def run(net, h):
        a, b = F.linear(h, net.p[v]), F.linear(h, net.p[w])
        net.note(b)
        b = torch.relu(b)
        if form == 0:
            net.note(a - b)
            return torch.maximum(a, b)
        if form == 1:
            net.note_choice(torch.stack([a, b], 1), 1)
            return torch.stack([a, b], 1).max(1).values
        if form == 2:
            net.note(b - a)
            return torch.where(a < b, a, b)
        net.note(a - b)
        return torch.min(a, other=b)

    return run, d


@step
def slice_write(net, d, r):
    form, k = r.choice(range(6)), d // 2

    def run(net, h):
        y = h.clone()
        if form == 0:
            net.note(h[:, :k])
            y[:, :k] = torch.relu(h[:, :k])
        elif form == 1:
            net.note(h[:, k:])
            y[:, k:].relu_()
        elif form == 2:
            y[:, 0] = 0.0
        elif form == 3:
            net.note(h[:, ::2])
            y[:, ::2] += torch.relu(h[:, ::2])
        elif form == 4:
            net.note(h[:, 0])
            y[:, [0]] = torch.relu(h[:, [0]])
        else:
            y[:, :k].mul_(2)
            y.narrow(1, k, 1).zero_()
        return y

    return run, d


@step
def converging(net, d, r):
    """Units that come to lie on their kink identically."""
    w = net.weight(d)
    form, times = r.choice(range(3)), r.choice([3, 20])

    def run(net, h):
        if form == 0:
            for _ in range(times):
                z = h - h.roll(1, 1) - net.p[w].abs()
                net.note_near(z, h)
                h = h - torch.relu(z)
        elif form == 1:
            for _ in range(times):
                z = h - h.roll(1, 1)
                net.note_near(z, h)
                h = torch.minimum(h, h.roll(1, 1))
        else:
            y = h[:, :1].expand(-1, d) * 1
            z = y - y.mean(1, keepdim=True)
            net.note_near(z, y)
            h = h + torch.relu(z)
        return h

    return run, d
