"""A step of random architectures with units that have kinks, in many spellings."""

import torch
from architecture_steps import step
from torch.nn import functional as F  # noqa: N812 torch's own habit

# Each is the units less their kinks, and the activation. `a < 0 < b` are bounds, `w` is a weight.
ACTIVATIONS = {
    "relu": (lambda h, s: [h], lambda h, s: torch.relu(h)),
    "relu_": (lambda h, s: [h], lambda h, s: (h * 1).relu_() + 1),
    "functional": (lambda h, s: [h], lambda h, s: F.relu(h + 0, inplace=True)),
    "leaky_relu": (lambda h, s: [h], lambda h, s: F.leaky_relu(h, s.slope)),
    "prelu": (lambda h, s: [h], lambda h, s: F.prelu(h, s.w)),
    "relu6": (lambda h, s: [h, h - 6], lambda h, s: F.relu6(h)),
    "hardtanh": (lambda h, s: [h - s.a, h - s.b], lambda h, s: F.hardtanh(h, s.a, s.b)),
    "hardsigmoid": (lambda h, s: [h + 3, h - 3], lambda h, s: F.hardsigmoid(h)),
    "softshrink": (lambda h, s: [h - s.b, h + s.b], lambda h, s: F.softshrink(h, s.b)),
    "threshold": (lambda h, s: [h - s.a], lambda h, s: F.threshold(h, s.a, s.a)),
    "rrelu": (lambda h, s: [h], lambda h, s: F.rrelu(h, 0.1, 0.4, training=False)),
    "abs": (lambda h, s: [h], lambda h, s: h.abs()),
    "clamp": (lambda h, s: [h - s.a, h - s.b], lambda h, s: h.clamp(s.a, s.b)),
    "clamp_min": (lambda h, s: [h - s.a], lambda h, s: torch.clamp_min(h, s.a)),
    "clamp_max_": (lambda h, s: [h - s.b], lambda h, s: h.clone().clamp_max_(s.b)),
    "clamp by a tensor": (lambda h, s: [h - s.w], lambda h, s: torch.clamp(h, min=s.w)),
    "minimum": (lambda h, s: [h - s.w], lambda h, s: torch.minimum(h, s.w)),
    "maximum": (lambda h, s: [h - s.w], lambda h, s: torch.maximum(s.w.expand_as(h), h)),
    "fmax": (lambda h, s: [h - s.w], lambda h, s: torch.fmax(h, s.w)),
    "max of zeros": (lambda h, s: [h], lambda h, s: torch.max(h, torch.zeros_like(h))),
    "where": (lambda h, s: [h], lambda h, s: torch.where(h > 0, h, s.slope * h)),
    "product": (lambda h, s: [h], lambda h, s: h * (h > 0)),
    "masked_fill": (lambda h, s: [h], lambda h, s: h.masked_fill(h < 0, 0.0)),
    "sign": (lambda h, s: [h], lambda h, s: h * torch.sign(h)),
    "stacked": (lambda h, s: [h], lambda h, s: torch.stack([h, -h]).amax(0)),
    "dead zone": (
        lambda h, s: [h - s.b, h + s.b],
        lambda h, s: torch.relu(h - s.b) - torch.relu(-h - s.b),
    ),
    "less the negative": (
        lambda h, s: [h],
        lambda h, s: h - torch.minimum(h, torch.zeros((), dtype=h.dtype)),
    ),
    "scripted": (lambda h, s: [h], lambda h, s: _scripted(h)),
    "written": (lambda h, s: [h], lambda h, s: _written(h)),
}


class _Settings:
    def __init__(self, r, d):
        self.a, self.b = -r.random(), r.random()
        self.slope = r.choice([0.01, 0.3, -0.2, 1.5])


@step
def activation(net, d, r):
    name = r.choice(list(ACTIVATIONS))
    units, function = ACTIVATIONS[name]
    settings, w = _Settings(r, d), net.weight(d)

    def run(net, h):
        settings.w = net.p[w]
        net.note(*units(h, settings))
        return function(h, settings)

    return run, d


@torch.jit.script
def _scripted(h):
    return torch.relu(h) * 2.0


def _written(h):
    h = h.clone()
    h[h < 0] = 0.0
    return h
