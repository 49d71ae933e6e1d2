import pytest
import torch
from sample_layouts import HIDDEN, NETWORKS, STEPS, WIDTH
from torch.testing import assert_close

from lightning_effcx.network.observe import observing
from lightning_effcx.tracing.units import Site, find_sites

pytestmark = pytest.mark.usefixtures("_float64")


def seen(network, x) -> dict[str, Site]:
    with observing(network):
        return find_sites(network, x)


# The numbers of steps, features and hidden units, and numbers around them.
COUNTS = sorted({2, 3, STEPS, WIDTH, HIDDEN, 2 * WIDTH, STEPS * WIDTH, 6})


@pytest.mark.parametrize("name", NETWORKS)
def test_the_units_of_a_sample_are_the_same_alone_and_among_any_number_of_samples(name):
    torch.manual_seed(0)
    network, x = NETWORKS[name]().eval(), torch.randn(max(COUNTS), STEPS, WIDTH)
    alone = [seen(network, one[None]) for one in x]
    assert alone[0]
    for count in COUNTS:
        together = seen(network, x[-count:])  # a part of a larger memory
        assert together.keys() == alone[0].keys()
        for site, found in together.items():
            own = [sites[site] for sites in alone[-count:]]
            assert_close(found.z, torch.cat([each.z for each in own]))
            assert_close(found.value, torch.cat([each.value for each in own]))
            if found.choice is not None:
                assert_close(found.choice, torch.cat([each.choice for each in own]))


MIXING = {
    "attention across samples": lambda x: (x @ x.T).softmax(1) @ x,
    "a product across samples": lambda x: (x.T @ x).relu()[:, : x.shape[1]] + x,
    "a softmax across samples": lambda x: x.softmax(0).relu(),
    "a sum of all earlier samples": lambda x: x.cumsum(0).relu(),
    "a mean of all samples": lambda x: (x - x.mean(0)).relu(),
    "samples as features": lambda x: (x - x.mean(1)).relu(),
    "samples as channels": lambda x: torch.conv1d(x[None], torch.ones(len(x), len(x), 1))[0].relu(),
    "two samples in one": lambda x: x.reshape(len(x) // 2, -1).relu().reshape(x.shape),
    "the other samples": lambda x: torch.cat([x[3:], x[:3]]).relu(),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_network_that_mixes_samples_is_refused_though_its_lengths_fit(name):
    network, x = MIXING[name], torch.randn(6, 6)
    with pytest.raises(ValueError, match="the network must treat samples independently"):
        seen(network, x)


def test_distances_from_given_points_are_refused_since_their_order_is_not_known():
    x = torch.randn(6, 3)
    with pytest.raises(ValueError, match=r"site 'relu' has units of shape \(6, 6\) for 6 samples"):
        seen(lambda x: torch.cdist(torch.ones(6, 3), x).relu().T, x)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(1, 4, dtype=torch.float64).expand(6, 4),
        torch.randn(4, 6, dtype=torch.float64).T,
        torch.randn(9, dtype=torch.float64).unfold(0, 4, 1),
        torch.randn(40, dtype=torch.float64)[5:29].view(6, 4),
        torch.randn(9, 7, dtype=torch.float64)[2:8, 1:5],
    ],
    ids=["repeated", "transposed", "overlapping", "in the middle", "a part of each row"],
)
def test_samples_may_lie_in_memory_in_any_way(x):
    layer = torch.nn.Linear(4, 4)
    sites = seen(lambda x: torch.tanh(layer(x.relu()).T).T, x)
    assert_close(sites["relu"].z, x)
    assert_close(sites["tanh"].z, layer(x.relu()).detach())


def test_a_buffer_may_be_used_again_in_another_order():
    def network(x):
        buffer = x.new_zeros(6, 6)
        buffer.copy_(x)
        first = buffer.relu()
        buffer.zero_().copy_(x)
        return first + buffer.tanh()

    x = torch.randn(6, 6)
    assert_close(seen(network, x)["tanh"].z, x)


def test_a_memory_whose_parts_disagree_is_refused():
    def network(x):
        table = x.new_zeros(2, 6, 6)
        table[0], table[1] = x, x.T
        return table.relu()[0]

    with pytest.raises(ValueError, match="it is not known which units belong to which sample"):
        seen(network, torch.randn(6, 6))
