import itertools
import math

import pytest
import torch
from networks import linear
from slow_oracles import confirm
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import (
    Capacity,
    activation_patterns,
    boundary_distance,
    region_capacity,
    transitions,
)
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")

ORDERS = {
    "sort": lambda h: h.sort(1),
    "sort of another dimension": lambda h: h.sort(-1 if h.dim() == 3 else 1),
    "descending sort": lambda h: h.sort(1, descending=True),
    "stable sort": lambda h: torch.sort(h, dim=1, stable=True),
    "largest": lambda h: h.topk(1, 1),
    "three largest": lambda h: h.topk(3, 1),
    "three smallest": lambda h: h.topk(3, 1, largest=False),
    "top-k of all": lambda h: h.topk(h.shape[1], 1),
    "first": lambda h: h.kthvalue(1, 1),
    "third": lambda h: h.kthvalue(3, 1, keepdim=True),
    "median": lambda h: h.median(1),
    "kept median": lambda h: h.median(1, keepdim=True),
    "nanmedian": lambda h: h.nanmedian(1),
    "cummax": lambda h: h.cummax(1),
    "cummin": lambda h: h.cummin(1),
}
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
every_shape = pytest.mark.parametrize("shape", [(7,), (4, 3)])


def values_of(order, h):
    return order(h).values[..., None].flatten(1)


def indices_of(order, h):
    return order(h).indices[..., None].flatten(1)


def swaps(start, end):
    """Where any two elements of a sample tie, of which all are affine from start to end."""
    first, second = torch.combinations(torch.arange(start.numel())).T
    before = start.flatten()[first] - start.flatten()[second]
    after = end.flatten()[first] - end.flatten()[second]
    fraction = before / (before - after)
    return fraction[(fraction > 0) & (fraction < 1)].unique()


@every_order
@every_shape
@pytest.mark.parametrize("seed", range(4))
def test_knots_are_where_the_indices_change_between_all_swaps(order, shape, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(3, math.prod(shape)).requires_grad_(requires_grad=False)
    ends = 4 * torch.randn(2, 3)
    places = swaps(*layer(ends))
    inner = torch.cat([torch.zeros(1), places, torch.ones(1)])
    middle = torch.lerp(*ends, ((inner[1:] + inner[:-1]) / 2)[:, None])
    one_by_one = [indices_of(order, layer(x[None]).unflatten(1, shape)) for x in middle]
    knot, unit = torch.cat(one_by_one).diff(dim=0).nonzero(as_tuple=True)
    found = pieces(lambda x: values_of(order, layer(x).unflatten(1, shape)), ends[None])
    by_unit = found.unit.argsort(stable=True)
    expected = unit.argsort(stable=True)
    assert torch.equal(found.unit[by_unit], unit[expected])
    assert_close(found.position[by_unit], places[knot][expected])
    assert found.regions().item() == 1 + len(knot.unique())


def nearest(order, layer, shape, x):
    """The distance to the nearest place, of those where two elements tie, where indices change."""
    best = torch.full((len(x),), torch.inf)
    for i, j in itertools.combinations(range(math.prod(shape)), 2):
        normal = layer.weight[i] - layer.weight[j]
        away = (layer(x)[:, i] - layer(x)[:, j]) / normal.norm()
        normal = normal / normal.norm()
        foot = x - away[:, None] * normal
        sides = [layer(foot + step * normal).unflatten(1, shape) for step in (-1e-7, 1e-7)]
        one, other = (indices_of(order, side) for side in sides)
        best = torch.where((one != other).any(1), best.minimum(away.abs()), best)
    return best


@every_order
@every_shape
def test_the_boundary_is_where_a_tie_changes_the_indices(order, shape):
    layer = nn.Linear(3, math.prod(shape)).requires_grad_(requires_grad=False)
    x = 2 * torch.randn(8, 3)
    found = boundary_distance(lambda x: values_of(order, layer(x).unflatten(1, shape)), x)
    assert_close(found, nearest(order, layer, shape, x))


@torch.no_grad()
@every_order
def test_inside_of_a_network_every_piece_is_affine(order):
    first, second = nn.Linear(3, 10), nn.Linear(10, 12)
    last = nn.Linear(values_of(order, torch.zeros(1, 6, 2)).shape[1], 4)

    def network(x):
        h = second(first(x).relu()).unflatten(1, (6, 2))
        return last(values_of(order, h)).relu()

    path = 3 * torch.randn(2, 3, 3)
    found = confirm(network, path)
    assert torch.equal(pieces(network, path.flip(1)).regions(), found.regions())
    x = path[:, 0]
    within = 0.999 * boundary_distance(network, x)[:, None]
    for _ in range(20):
        step = F.normalize(torch.randn_like(x)) * within
        assert torch.equal(activation_patterns(network, x), activation_patterns(network, x + step))


def line(*vertices):
    return torch.tensor(vertices)[None, :, None]


TIES = {  # the regions on a line from -1 to 2, and the knots
    "in the middle of the line": (lambda x: torch.cat([x - 0.5, 0.5 - x, 3 * x - 1.5], 1), 2, 2),
    "of equal elements": (lambda x: torch.cat([x, x, -x, -x], 1), 2, 4),
    "of all elements": (lambda x: (0 * x).expand(-1, 4), 1, 0),
    "of elements that differ by rounding": (
        lambda x: torch.cat([0.3 * x, 0.1 * x + 0.2 * x, 0.3 * (x - 7) + 2.1, 9 + x], 1),
        1,
        0,
    ),
    "that only touch": (lambda x: x.abs() * torch.tensor([1.0, -1.0]), 2, 1),  # the knot of abs
    "with minus infinity": (lambda x: torch.cat([x, -x, 0 * x - torch.inf], 1), 2, 2),
}


@pytest.mark.parametrize(("elements", "regions", "knots"), TIES.values(), ids=TIES)
def test_ties(elements, regions, knots):
    for path in (line(-1.0, 2.0), line(2.0, -1.0), line(-1.0, 0.0, 0.5, 2.0)):
        found = pieces(lambda x: elements(x).sort(1).values, path)
        assert (found.regions().item(), found.transitions().item()) == (regions, knots)


def test_a_median_changes_though_it_is_the_same_element_at_both_ends():
    found = pieces(lambda x: torch.cat([0 * x, 1 - x, 1 + x], 1).median(1).values, line(-3.0, 4.0))
    assert_close(7 * found.position - 3, torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("order", "units"), [("sort", 5), ("three largest", 3), ("median", 1), ("cummax", 5)]
)
def test_each_position_is_a_unit_and_each_two_elements_can_swap_once(order, units):
    layer = linear(torch.randn(5, 2), torch.randn(5))

    def network(x):
        return values_of(ORDERS[order], layer(x))

    x = torch.randn(6, 2)
    assert region_capacity(network, x) == Capacity(pytest.approx(math.log(11)), units, 10)
    patterns = activation_patterns(network, x)
    assert torch.equal(patterns, indices_of(ORDERS[order], layer(x)))
    changed = (patterns[1:] != patterns[:-1]).sum()
    assert transitions(network, x[None]).item() == changed


ONE_ELEMENT = {
    "median": lambda h: h.median(1).values[:, None],
    "sort": lambda h: h.sort(1).values,
    "kthvalue": lambda h: h.kthvalue(1, 1).values[:, None],
    "topk": lambda h: h.topk(1, 1).values,
    "maximum": lambda h: h.amax(1, keepdim=True),
    "running maximum": lambda h: h.cummax(1).values,
    "pooling": lambda h: F.max_pool1d(h[:, None], 1)[:, 0],
    "a scalar in vmap": torch.vmap(lambda h: h[0].median()[None]),
}


@pytest.mark.parametrize("choose", ONE_ELEMENT.values(), ids=ONE_ELEMENT)
def test_a_choice_from_one_element_has_no_boundary(choose):
    def network(x):
        return choose(x[:, :1])

    assert boundary_distance(network, torch.randn(3, 4)).tolist() == [math.inf] * 3
    assert pieces(network, torch.randn(2, 3, 4)).regions().tolist() == [1, 1]


REFUSED = {
    "any order": (lambda x: x.topk(2, 1, sorted=False).values, r"site 'topk' \(topk\) is not con"),
    "mode": (
        lambda x: x.mode(1).values,
        r"site 'mode' \(mode\) is not known to be piecewise linear",
    ),
    "numbers of ranks": (lambda x: x.argsort(1) + x, "'add' lets the network decide by its input"),
    "gathered ranks": (
        lambda x: x.sort(1).values + (2 * x).gather(1, x.sort(1).indices),
        "'gather' lets the network decide by its input",
    ),
    "samples": (
        lambda x: x.sort(0).values,
        "mixes the samples of a batch|change with the other samples",
    ),
    "all": (lambda x: x - x.median(), "mixes the samples of a batch|change with the other samples"),
}


@pytest.mark.parametrize("measure", [lambda f, x: pieces(f, x[None]), boundary_distance])
@pytest.mark.parametrize(("network", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_pieces_is_refused(network, message, measure):
    with pytest.raises(ValueError, match=message):
        measure(network, torch.randn(3, 4))
