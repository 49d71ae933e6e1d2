"""Random programs of views and writes in place, against the plain network."""

import random

import pytest
import torch
from slow_oracles import confirm, points_at
from torch import nn
from torch.testing import assert_close

from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")


class Program(nn.Module):
    """Steps drawn by a seed; each makes a tensor or a view, or writes to one."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        self.first, self.next = nn.Linear(4, 6), nn.Linear(6, 6)
        self.requires_grad_(False)

    def forward(self, x):
        draw = random.Random(self.seed)  # noqa: S311 the same steps at every call
        tensors = [self.first(x), torch.zeros(len(x), 6), torch.empty(len(x), 6)]
        tensors[2][:] = tensors[0] / 2
        views = [tensors[draw.randrange(3)][:, 1:5]]
        steps = [
            lambda h, g, v: tensors.append(torch.relu(self.next(h))),
            lambda h, g, v: tensors.append(h + g / 2),
            lambda h, g, v: tensors.append(h.reshape(len(x), -1)),
            lambda h, g, v: tensors.append(h.contiguous()),
            lambda h, g, v: views.append(h[:, draw.randrange(5) :]),
            lambda h, g, v: views.append(h.view(len(h), 2, 3)[:, draw.randrange(2)]),
            lambda h, g, v: h[:, 2:5].copy_(g[:, 1:4].clone()),
            lambda h, g, v: h.__setitem__((..., slice(0, 6, 2)), g[:, 3:].clone()),
            lambda h, g, v: h.__setitem__((slice(None), [0, 3]), 0.3),
            lambda h, g, v: h[:, 1:].relu_(),
            lambda h, g, v: h.view(len(h), 3, 2).mT[:, 0].abs_(),
            lambda h, g, v: torch.maximum(h, g.roll(1, 1), out=h),
            lambda h, g, v: torch.mul(g, 0.5, out=tensors[0]),
            lambda h, g, v: h.add_(g.clone(), alpha=0.3),
            lambda h, g, v: v.mul_(-0.7),
            lambda h, g, v: v.add_(g[:, : v.shape[1]].clone()),
            lambda h, g, v: v.clamp_(-0.5, 0.6),
        ]
        for step in draw.choices(steps, k=10):
            step(draw.choice(tensors), draw.choice(tensors), draw.choice(views))
        total = sum(index * tensor for index, tensor in enumerate(tensors, start=1))
        return self.next(total + sum(view[:, :1] for view in views)).abs()


@pytest.mark.parametrize("seed", range(25))
def test_random_writes_are_those_of_the_plain_network(seed):
    network, path = Program(seed), 2 * torch.randn(1, 3, 4)
    found = confirm(network, path)
    values = pieces(network, path, keep=["output"]).values["output"]
    assert_close(values, network(points_at(path, found.path, found.position)))
