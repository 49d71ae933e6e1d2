import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_effcx.tracing import find_sites

NODES = 4
EDGES = torch.tensor([[0, 1], [1, 2], [2, 0], [2, 3]])


def edges(n: int) -> tuple[Tensor, Tensor]:
    """The edges of a graph for each sample, whose nodes are numbered one after the other."""
    first = NODES * torch.arange(n)[:, None, None]
    source, target = (first + EDGES).flatten(0, 1).T
    return source, target


def gather_and_add(h, n):
    source, target = edges(n)
    return torch.zeros_like(h).index_add(0, target, h[source])


def select_and_scatter(h, n):
    source, target = edges(n)
    index = target[:, None].expand(-1, h.shape[1])
    return torch.zeros_like(h).scatter_add(0, index, h.index_select(0, source))


def add_in_place(h, n):
    source, target = edges(n)
    return h.clone().index_add_(0, target, h[source].relu())


def pool(h, n):
    owner = torch.arange(n).repeat_interleave(NODES)
    return h.new_zeros(n, h.shape[1]).index_add(0, owner, h)


def last_node(h, n):
    return h.unflatten(0, (n, NODES))[torch.arange(n), torch.arange(n) % NODES]


@pytest.mark.parametrize("n", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "join", [gather_and_add, select_and_scatter, add_in_place, pool, last_node]
)
def test_nodes_that_an_index_joins_within_each_graph_are_told_apart(join, n):
    weights = torch.randn(3, 5)
    x = torch.randn(n, NODES, 3)

    def network(x):
        h = join((x.flatten(0, 1) @ weights).relu(), len(x)).relu()
        return h.reshape(len(x), -1)

    together = find_sites(network, x)
    for name, site in together.items():
        assert len(site.z) == n, name
    if join is not last_node:  # it takes another node of each sample
        for index in range(n):
            for name, site in find_sites(network, x[index : index + 1]).items():
                assert_close(together[name].z[index], site.z[0])


def across(h, n):
    source, target = edges(n)
    return torch.zeros_like(h).index_add(0, target, h[source.roll(NODES)])


def exchanged(h, n):
    return h[torch.arange(n * NODES).roll(1)]


@pytest.mark.parametrize("join", [across, exchanged])
def test_an_index_across_graphs_is_refused(join):
    def network(x):
        return join((x.flatten(0, 1) + 1).relu(), len(x)).relu().reshape(len(x), -1)

    with pytest.raises(ValueError, match="not known which units belong to which sample"):
        find_sites(network, torch.randn(3, NODES, 2))
