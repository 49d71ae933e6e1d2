"""Steps of random architectures that choose among elements."""

import math

import torch
from architecture_steps import step
from torch.nn import functional as F  # noqa: N812 torch's own habit


@step
def maxout(net, d, r):
    w = net.weight(3 * d, d)
    form = r.choice(range(5))

    def run(net, h):
        z = F.linear(h, net.p[w]).view(-1, d, 3)
        net.note_choice(z)
        return [
            lambda: z.amax(2),
            lambda: z.max(-1)[0],
            lambda: F.max_pool1d(z, 3).squeeze(2),
            lambda: -(-z).amin(2),
            lambda: F.adaptive_max_pool1d(z, 1)[..., 0],
        ][form]()

    return run, d


@step
def masked_maximum(net, d, r):
    """Elements that can never win, since something very low is filled in."""
    low = r.choice([-math.inf, -1e30, -1e9, torch.finfo(torch.float32).min])
    w = net.weight(3 * d, d)
    mask = torch.rand(d, 3) < 0.4
    mask[:, 0] = False
    form = r.choice(range(4))

    def run(net, h):
        z = F.linear(h, net.p[w]).view(-1, d, 3)
        z = F.pad(z, (1, 1), value=low) if form == 3 else z.masked_fill(mask, low)
        net.note_choice(z)
        if form == 0:
            return z.amax(2)
        if form == 1:
            return z.max(2).values
        return F.max_pool1d(z, z.shape[2]).flatten(1)

    return run, d


@step
def order(net, d, r):
    form, k = r.choice(range(5)), d // 2 + 1

    def run(net, h):
        if form == 0:
            net.note_order(h)
            return h.sort(1).values
        if form == 1:
            net.note_order(h)
            return h.sort(1, descending=True)[0]
        if form == 2:
            net.note_order(h, k)
            return torch.cat([h.topk(k, 1).values, h[:, k:]], 1)
        if form == 3:
            net.note_equal(h, lambda h: h.median(1, keepdim=True).values)
            return h - h.median(1, keepdim=True).values
        net.note_equal(h, lambda h: h.kthvalue(k, 1, keepdim=True).values)
        return h + h.kthvalue(k, 1, keepdim=True).values

    return run, d
