"""Slow ways to find the exact knots of a path: a sweep over layers, and dense sampling."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import transitions_per_site
from lightning_effcx.piecewise.lines import pieces


def sweep(network, a, b):
    """Positions of the knots on a segment, layer by layer, of linear layers and ReLUs."""
    t = np.array([0.0, 1.0])
    for layer in network:
        if not isinstance(layer, nn.Linear) or layer is network[-1]:
            continue
        z = _layer(network, layer, a + t[:, None] * (b - a))
        i, j = np.nonzero(z[:-1] * z[1:] < 0)
        new = t[i] + z[i, j] / (z[i, j] - z[i + 1, j]) * (t[i + 1] - t[i])
        t = np.unique(np.concatenate([t, new]))
    return t[1:-1]


def _layer(network, last, h):
    for layer in network:
        if isinstance(layer, nn.Linear):
            z = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
            if layer is last:
                return z
            h = np.maximum(z, 0)
    raise AssertionError


def confirm(network, path, least=2):
    """Each piece is affine, and dense sampling finds no transitions that were not found."""
    found = pieces(network, path)
    vertices = torch.arange(path.shape[1], dtype=path.dtype)
    for index in range(len(path)):
        knots = found.position[found.path == index]
        ends = torch.cat([vertices, knots]).sort().values
        start, end = ends[:-1], ends[1:]
        start, end = (e[end - start > 1e-9] for e in (start, end))
        inner = torch.cat([start + share * (end - start) for share in (0.2, 0.5, 0.8)])
        x = points_at(path, torch.full_like(inner, index).long(), inner)
        left, middle, right = _flat(network(x)).chunk(3)
        assert_close((left + right) / 2, middle, rtol=1e-9, atol=1e-9)
    sampled = transitions_per_site(lambda x: _flat(network(x)), dense(path, 400))
    for site, count in sampled.items():
        assert (count <= found.transitions(site)).all(), site
    assert (found.regions() <= 1 + found.transitions()).all()
    assert (found.regions() >= least).all()
    return found


def points_at(path, where, position):
    """The points on the paths, `path` (s, p, ...), at positions."""
    before = position.long().clamp(0, path.shape[1] - 2)
    fraction = (position - before).reshape(-1, *[1] * (path.dim() - 2))
    return torch.lerp(path[where, before], path[where, before + 1], fraction)


def dense(path, points):
    """The paths with so many points on each segment, at equal distances."""
    t = torch.linspace(0, 1, points, dtype=path.dtype).reshape(1, -1, *[1] * (path.dim() - 2))
    return torch.cat(
        [torch.lerp(a[:, None], b[:, None], t) for a, b in pairwise(path.unbind(1))], 1
    )


def lengths(values):
    """The lengths of the steps between neighbouring rows."""
    return values.diff(dim=0).norm(dim=1)


def _flat(y):
    return y.flatten(1) if isinstance(y, torch.Tensor) else torch.cat([o.flatten(1) for o in y], 1)
