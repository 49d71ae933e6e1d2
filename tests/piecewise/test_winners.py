import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it

from lightning_effcx.functional import trajectory_length
from lightning_effcx.piecewise import winners
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")


def test_lengths_of_infinite_values_are_refused():
    with pytest.raises(ValueError, match=r"^the values at 'output' are infinite or not numbers"):
        trajectory_length(
            lambda x: torch.cat([F.relu(x), x - torch.inf], 1), torch.randn(2, 2, 3), exact=True
        )


@pytest.mark.parametrize("path", [[[-1.0], [2.0]], [[2.0], [-1.0]]])
def test_values_that_become_infinite_are_refused(path):
    message = r"^a value of the network is infinite at one point of a path, but not at the next"
    with pytest.raises(ValueError, match=message):
        pieces(lambda x: 1e308 * x * 10 + F.relu(x), torch.tensor([path]))


def maxout(dtype):
    torch.manual_seed(3)
    layers = [nn.Linear(4, 48), nn.Linear(12, 48), nn.Linear(12, 3)]

    def network(x):
        for layer in layers[:2]:
            x = layer(x).unflatten(1, (12, 4)).amax(2)
        return layers[2](x)

    return network, 2 * torch.randn(6, 2, 4, dtype=dtype)


def test_single_precision_ends_with_the_counts_of_double_precision():
    network, path = maxout(torch.float64)
    exact, single = pieces(network, path), pieces(network, path, dtype=torch.float32)
    assert exact.transitions().sum() > 100
    assert torch.equal(single.transitions(), exact.transitions())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_cannot_tell_who_wins(dtype):
    network, path = maxout(torch.float64)
    message = r"^site 'amax' \(amax\) picks among elements that are too close to each other for"
    with pytest.raises(ValueError, match=message):
        pieces(network, path, dtype=dtype)
    assert pieces(F.relu, path, dtype=dtype).regions().sum() > 6  # what has kinks has no ties


def test_ties_that_rounding_does_not_let_end_are_refused(monkeypatch):
    monkeypatch.setattr(winners, "tie_tolerance", lambda dtype: 0.0)
    network, path = maxout(torch.float64)
    with pytest.raises(
        ValueError, match=r"too close to each other for the precision of the pass: u"
    ):
        pieces(lambda x: network(x).amax(1), path, dtype=torch.float32)
