import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.piecewise.affine import bends
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")

RRELU = nn.RReLU().eval()
SLOPE = (RRELU.lower + RRELU.upper) / 2
# Two spellings of one activation each. The first keeps its operand, the second may write to it.
SPELLINGS = {
    "rrelu": (lambda h: F.leaky_relu(h, SLOPE), RRELU),
    "rrelu_": (lambda h: F.leaky_relu(h, SLOPE), nn.RReLU(inplace=True).eval()),
    "relu_": (F.relu, nn.ReLU(inplace=True)),
    "clamp_": (lambda h: h.clamp(-1, 1), lambda h: h.clamp_(-1, 1)),
    "hardtanh_": (F.hardtanh, nn.Hardtanh(inplace=True)),
    "threshold_": (lambda h: F.threshold(h, 0.5, 0.5), nn.Threshold(0.5, 0.5, inplace=True)),
}


def residual(activation, *, writes):
    """A network that uses the pre-activation again, after the activation ran."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 6), nn.Linear(6, 6)

    def network(x):
        h = first(x)
        kept = h.clone() if writes else h
        return F.relu(second(kept + activation(h))) + kept

    return network


@pytest.mark.parametrize("name", SPELLINGS)
def test_only_what_the_schema_names_as_the_result_is_overwritten(name):
    keeping, writing = SPELLINGS[name]
    expected = residual(keeping, writes=False)
    network = residual(writing, writes=name.endswith("_"))
    path, x = 3 * torch.randn(4, 3, 3), torch.randn(5, 3)
    found, twin = pieces(network, path), pieces(expected, path)
    assert found.regions().max() > 3
    assert_close(found.position, twin.position)
    for ours, theirs in zip(
        bends(network, x, torch.eye(3)).values(),
        bends(expected, x, torch.eye(3)).values(),
        strict=True,
    ):
        assert_close((ours.gap, ours.squares), (theirs.gap, theirs.squares))


def test_the_number_of_regions_of_a_residual_network_with_rrelu_is_that_of_dense_sampling():
    network = residual(RRELU, writes=False)
    path = 3 * torch.randn(2, 2, 3)
    for ends, regions in zip(path, pieces(network, path).regions(), strict=True):
        x = torch.lerp(*ends, torch.linspace(0, 1, 20001)[:, None])
        slopes = network(x).diff(dim=0)
        bent = (slopes.diff(dim=0).abs() > 1e-9).any(1)
        starts = bent & ~torch.cat([bent.new_zeros(1), bent[:-1]])  # a bend shows in two steps
        assert regions == 1 + starts.sum()
