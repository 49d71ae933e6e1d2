"""Steps of random architectures on images and sequences."""

import math

import torch
from architecture_steps import step
from torch.nn import functional as F  # noqa: N812 torch's own habit


@step
def conv1d(net, d, r):
    c = 4
    w0 = net.weight(c * 6, d)
    groups, dilation = r.choice([1, 2]), r.choice([1, 2])
    mode = r.choice(["zeros", "reflect", "replicate", "circular", "low"])
    w = net.weight(c, c // groups, 3)
    w2 = net.weight(6, c * 6)

    def run(net, h):
        z = F.linear(h, net.p[w0]).view(-1, c, 6)
        if mode == "low":
            z = F.pad(z, (1, 1), value=-math.inf)
            net.note_choice(z.unfold(2, 3, 1))
            z = F.max_pool1d(z, 3, 1)
        elif mode != "zeros":
            z = F.pad(z, (dilation, dilation), mode=mode)
        padding = dilation if mode in ("zeros", "low") else 0
        z = F.conv1d(z, net.p[w], None, 1, padding, dilation, groups)
        net.note(z)
        return F.linear(torch.relu(z).flatten(1), net.p[w2])

    return run, 6


POOLINGS = {
    "max": lambda z: F.max_pool2d(z, 2, return_indices=True),
    "max with padding": lambda z: F.max_pool2d(z, 2, 2, 1, return_indices=True),
    "dilated max": lambda z: F.max_pool2d(z, 2, 1, 0, 2, return_indices=True),
    "max of parts": lambda z: F.max_pool2d(z, 3, 2, 0, 1, ceil_mode=True, return_indices=True),
    "adaptive max": lambda z: F.adaptive_max_pool2d(z, (3, 2), return_indices=True),
    "max beside low values": lambda z: F.max_pool2d(
        F.pad(z, (1, 0, 0, 1), value=-math.inf), 2, 1, return_indices=True
    ),
    "global max": lambda z: z.flatten(2).max(2),
    "average": lambda z: F.avg_pool2d(z, 2),
    "adaptive average": lambda z: F.adaptive_avg_pool2d(z, (3, 2)),
    "nearest": lambda z: F.avg_pool2d(F.interpolate(z, scale_factor=2), 2),
    "bilinear": lambda z: F.avg_pool2d(F.interpolate(z, scale_factor=2, mode="bilinear"), 2),
    "bicubic": lambda z: F.avg_pool2d(F.interpolate(z, size=(6, 6), mode="bicubic"), 2),
    "unshuffled": lambda z: F.pixel_unshuffle(z, 2),
    "unfolded": lambda z: F.fold(F.unfold(z, 2), (4, 4), 2),
}


@step
def conv2d(net, d, r):
    w0, w = net.weight(32, d), net.weight(2, 2, 3, 3)
    pool = POOLINGS[r.choice(list(POOLINGS))]

    def run(net, h):
        z = F.linear(h, net.p[w0]).reshape(-1, 2, 4, 4)
        z = F.conv2d(z, net.p[w], padding=1)
        net.note(z)
        pooled = pool(F.relu(z))
        if isinstance(pooled, tuple):
            net.note_index(pooled[1])
            pooled = pooled[0]
        return pooled.flatten(1)

    with torch.no_grad():
        return run, run(net, torch.zeros(1, d)).shape[1]


@step
def time_first(net, d, r):
    """Sequences with steps along dimension 0, as recurrent modules have them."""
    t = r.choice([2, 3, 6])
    w0, w = net.weight(t * 3, d), net.weight(3, 3)
    form = r.choice(range(3))

    def run(net, h):
        z = F.linear(h, net.p[w0]).view(-1, t, 3).transpose(0, 1)
        if form == 0:
            z = F.linear(z, net.p[w])
        elif form == 1:
            z = F.linear(z.reshape(-1, 3), net.p[w]).view(t, -1, 3)
        else:
            z = torch.stack([F.linear(each, net.p[w]) for each in z])
        net.note(z)
        return torch.relu(z).transpose(0, 1).flatten(1)

    return run, 3 * t


@step
def refolded(net, d, r):
    """Samples in parts: a layer on each part of a sample, folded into dimension 0."""
    w = net.weight(1, 1)

    def run(net, h):
        n = h.shape[0]
        z = F.linear(h.reshape(n * d, 1), net.p[w])
        net.note(z - 0.1)
        return torch.relu(z - 0.1).view(n, d)

    return run, d
