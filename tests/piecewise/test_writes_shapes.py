"""Operators in place that change the shape of a tensor, but none of its numbers."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import boundary_distance, linear_regions
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")

SHAPES = {
    "squeeze": ((-1, 1, 6, 1), "squeeze", ()),
    "squeeze of a dimension": ((-1, 1, 6), "squeeze", (1,)),
    "squeeze of two dimensions": ((-1, 1, 6, 1), "squeeze", ((1, 3),)),
    "unsqueeze": ((-1, 6), "unsqueeze", (1,)),
    "transpose": ((-1, 2, 3), "transpose", (1, 2)),
    "swapaxes": ((-1, 2, 3), "swapaxes", (2, 1)),
    "swapdims": ((-1, 2, 3), "swapdims", (1, 2)),
}


def weights():
    return torch.linspace(-1, 1, 24).view(6, 4), torch.linspace(-0.5, 0.7, 6)


def network_with(shape, change, args):
    """A network that changes the shape of its hidden values, and then writes to them."""

    def network(x):
        h = F.linear(x, *weights())
        part = h[:, 1:4]  # shares the memory of what gets another shape
        r = torch.relu(h - 0.1)  # inserts rows
        changed = getattr(h.view(shape), change)(*args)
        changed.add_(r[:, :1].reshape(-1, *[1] * (changed.dim() - 1)))
        return torch.cat([r, torch.relu(changed).flatten(1), torch.relu(part - 0.2)], 1)

    return network


@pytest.mark.parametrize(("shape", "change", "args"), SHAPES.values(), ids=SHAPES)
def test_a_tensor_may_get_another_shape_in_place(shape, change, args):
    path = 2 * torch.randn(2, 3, 4)
    in_place, other = network_with(shape, change + "_", args), network_with(shape, change, args)
    found = [pieces(each, path, keep=["output"]) for each in (in_place, other)]
    assert found[0].regions().min() > 2
    assert_close(found[0].position, found[1].position)
    assert_close(found[0].values, found[1].values)
    assert_close(*(boundary_distance(each, path[:, 0]) for each in (in_place, other)))


def test_a_vectorized_network_may_have_biases_and_fill_numbers():
    # torch.vmap runs both with operators that change the shape of a tensor in place.
    def network(h):
        r = torch.relu(F.linear(h, *weights()))
        total = r.sum().index_fill(0, torch.tensor([0]), 2.0)
        return torch.cat([F.linear(r[:4], *weights()), total[None]]).relu()

    def by_hand(x):
        r = torch.relu(F.linear(x, *weights()))
        return torch.cat([F.linear(r[:, :4], *weights()), 0 * r[:, :1] + 2], 1).relu()

    path = 2 * torch.randn(2, 3, 4)
    vectorized = torch.vmap(network)
    assert_close(linear_regions(vectorized, path), linear_regions(by_hand, path))
    assert_close(boundary_distance(vectorized, path[:, 0]), boundary_distance(by_hand, path[:, 0]))
