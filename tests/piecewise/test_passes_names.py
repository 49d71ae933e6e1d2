"""Exact passes and sampled measures give the same names to the sites of a network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it

from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tracing import find_sites

LAYER = nn.Linear(4, 6)
BESIDE = {
    "nothing": lambda h: None,
    "a number of the batch": lambda h: h.abs().max(),
    "the range of the batch": lambda h: (h.amax(), h.amin((0, 1)), torch.aminmax(h)),
    "a norm of the batch": torch.linalg.vector_norm,
    "the largest of each unit": lambda h: h.max(0),
    "questions": lambda h: (h > 0, (h > h.mean(0)).any(), (h.max() > 3).logical_not()),
    "a flag": lambda h: torch.isfinite(h).all(),
    "a loss": lambda h: F.cross_entropy(h, torch.zeros(len(h), dtype=torch.long)),
    "a loss that bends": lambda h: F.margin_ranking_loss(h[:, 0], h[:, 1], torch.ones(len(h))),
    "a loss with labels": lambda h: F.multi_margin_loss(h, torch.zeros(len(h), dtype=torch.long)),
    "a loss behind a kink": lambda h: F.mse_loss(h.relu(), torch.zeros_like(h)).sqrt(),
    "a maximum of a curve": lambda h: h.softmax(1).max(1),
    "ranks": lambda h: h.sort(1).indices.max(),
    "the best": lambda h: (h.argmax(1), h.topk(2, 1).indices),
    "an inner product": lambda h: (h @ h.T).max(),
    "a scalar in place": lambda h: h.max().relu_(),
    "rounded": lambda h: h.round().max(1),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_what_is_computed_beside_the_outputs_changes_no_name_in_one_of_them_only(beside):
    def network(x):
        h = torch.relu(LAYER(x))
        beside(LAYER(x).abs())
        h = torch.stack([h, h.abs() - 0.1, h.relu()], 1).max(1).values
        h = torch.maximum(h, h.roll(1, 1) - 0.2).clamp_min(0.1)
        return h.sort(1).values - h.amax(1, keepdim=True)

    path = 2 * torch.randn(2, 3, 4)
    assert list(pieces(network, path).sites) == list(find_sites(network, path[:, 0]))
    assert list(pieces(network, path).sites) == list(find_sites(network, path[:1, 0]))
