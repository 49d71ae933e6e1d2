"""Piecewise-linear functions that are written with comparisons."""

from functools import partial

import pytest
import torch
from masks import ONE_SITE, SEVERAL_SITES, Perceptron, cases, cleared
from slow_oracles import confirm
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import (
    activation_patterns,
    boundary_distance,
    linear_deviation,
    linear_regions,
    region_capacity,
    trajectory_length,
    transitions_per_site,
)
from lightning_effcx.piecewise import bends, check_piecewise_linear, pieces

pytestmark = pytest.mark.usefixtures("_float64")


ALL = {**ONE_SITE, **SEVERAL_SITES}
SPELLINGS = [name for name, (_, native) in ALL.items() if native]


def distinct(found):
    """The positions of the knots, one for all units that bend there."""
    first = torch.cat(
        [torch.ones(1, dtype=torch.bool), (found.position.diff() > 1e-9) | found.path.diff().bool()]
    )
    return found.path[first], found.position[first]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_function_has_the_same_pieces_however_it_is_spelled(spelling):
    for network, path in cases():
        spelled, native = (partial(network, act=act) for act in ALL[spelling])
        assert_close(linear_regions(spelled, path), linear_regions(native, path))
        assert_close(distinct(pieces(spelled, path)), distinct(pieces(native, path)))
        assert_close(linear_deviation(spelled, path), linear_deviation(native, path))
        lengths = [trajectory_length(each, path, exact=True) for each in (spelled, native)]
        assert_close(lengths[0]["output"], lengths[1]["output"])
        x = path.flatten(0, 1)
        assert_close(boundary_distance(spelled, x), boundary_distance(native, x))


@pytest.mark.parametrize("spelling", ONE_SITE)
def test_a_comparison_is_one_site_for_all_measures(spelling):
    for network, path in cases():
        spelled, native = (partial(network, act=act) for act in ALL[spelling])
        found, expected = pieces(spelled, path), pieces(native, path)
        assert len(found.sites) == len(expected.sites)
        assert_close(found.transitions(), expected.transitions())
        x = path.flatten(0, 1)
        assert region_capacity(spelled, x) == region_capacity(native, x)
        sampled, known = (transitions_per_site(each, path) for each in (spelled, native))
        assert list(sampled) == list(found.sites)
        assert_close(list(sampled.values()), list(known.values()))
        assert_close(activation_patterns(spelled, x).shape, activation_patterns(native, x).shape)


@pytest.mark.parametrize("spelling", ALL)
def test_each_piece_is_affine_for_the_plain_network(spelling):
    network, path = next(cases())
    confirm(partial(network, act=ALL[spelling][0]), path)


@pytest.mark.parametrize("is_older", [True, False])
def test_a_mask_may_be_older_or_younger_than_what_it_indexes(is_older):
    network = Perceptron()

    def spelled(x):
        h = network.layers[0](x)
        mask = h < 0 if is_older else None
        y = torch.relu(network.layers[1](torch.relu(h))) * 0 + h * 2
        if is_older:
            torch.relu(network.layers[2](h))
        else:
            mask = network.layers[0](x) < 0
        y[mask] = 0
        return y

    path = 3 * torch.randn(2, 3, 5)
    with_all = linear_regions(spelled, path)
    assert (with_all > 1).all()
    confirm(spelled, path)


class Difference(nn.Module):
    """Bends differences of units, many of which are equal, so that only their rounding differs."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x, act):
        h = act(self.first(x))
        for layer in self.layers:
            after = act(layer(h))
            h = torch.cat([after[:, :3], act(after[:, 3:] - h[:, 3:])], 1)
        return self.last(h)


@pytest.mark.parametrize("width", [6, 10, 14])
@pytest.mark.parametrize("spelling", ["gate", "gate in place", "a constant first", "gather"])
def test_rounding_beside_a_mask_neither_bends_nor_jumps(spelling, width):
    network, path = Difference(width), 3 * torch.randn(4, 3, 3)
    spelled, native = (partial(network, act=act) for act in ALL[spelling])
    assert_close(linear_regions(spelled, path), linear_regions(native, path))


@pytest.mark.parametrize("spelling", ["gate", "masked_fill", "where of zero"])
def test_units_that_stay_on_their_kink_by_rounding_have_no_knots_beside_a_mask(spelling):
    weights, path = torch.rand(7), 3 * torch.randn(4, 2, 7)
    masked = ONE_SITE.get(spelling, [lambda x: torch.where(x >= 0, x, 0.0)])[0]

    def shortest(x, act):
        for _ in range(20):
            x = x - act(x - x.roll(1, 1) - weights)
        return x

    found, expected = (linear_regions(partial(shortest, act=a), path) for a in (masked, torch.relu))
    assert_close(found, expected)


def test_a_kink_at_a_vertex_or_at_an_end_of_a_path_is_one_knot():
    path = torch.tensor([[[-1.0], [0.0], [2.0]], [[0.0], [1.0], [0.0]], [[-1.0], [0.0], [-1.0]]])
    assert linear_regions(lambda x: torch.where(x > 0, x, 0.1 * x), path).tolist() == [2, 1, 1]
    assert linear_regions(lambda x: x.masked_fill(x < 0, 0.0), path).tolist() == [2, 1, 1]
    with pytest.raises(ValueError, match=r"site 'gt' \(gt\) is not continuous"):
        linear_regions(lambda x: torch.where(x > 0, x, x + 1), path)


def test_a_path_is_cut_where_its_knots_do_not_fit():
    network, path = next(cases())

    def spelled(x):
        return network(x, lambda x: torch.where(x > 0, x, 0.1 * x))

    whole, parts = pieces(spelled, path), pieces(spelled, path, budget=2**12)
    assert_close(parts.position, whole.position)
    assert_close(parts.site, whole.site)


def test_comparisons_on_which_the_outputs_do_not_depend_do_not_count():
    network = Perceptron()

    def with_an_accuracy(x):
        labels = torch.arange(len(x)) % 2 > 0
        y = network(x, torch.relu)
        right = ((y[:, 0] > 0) == labels).float().mean()
        return y, right

    path = torch.randn(3, 2, 5)
    expected = pieces(lambda x: network(x, torch.relu), path)
    found = pieces(lambda x: with_an_accuracy(x)[0], path)
    assert found.sites == expected.sites
    assert_close(found.position, expected.position)


def test_single_precision_is_enough_for_masks():
    network = Perceptron().float()
    spelled = partial(network, act=ONE_SITE["gather"][0])

    for seed in range(5):
        torch.manual_seed(seed)
        path = 3 * torch.randn(4, 3, 5)
        found = pieces(spelled, path, dtype=torch.float32)
        assert_close(found.regions(), pieces(spelled, path).regions())


def test_a_comparison_has_no_values_at_its_knots():
    with pytest.raises(ValueError, match=r"^keep has 'gt', expected some of input, output\.$"):
        pieces(lambda x: x * (x > 0), torch.randn(2, 3, 4), keep=["gt"])


def written_in_a_view(x):
    mask = x > 0
    flat = mask.view(-1)
    flat.logical_not_()
    return x * mask


JUMPING = {
    "where": (lambda x: torch.where(x > 0, x, x + 1), r"'gt' \(gt\)"),
    "a small jump": (lambda x: torch.where(x > 0, x, x + 1e-6), r"'gt' \(gt\)"),
    "gate beside its kink": (lambda x: x * (x > 1), r"'gt' \(gt\)"),
    "another unit": (lambda x: torch.where(x > 0, x.flip(1), 2 * x.flip(1)), r"'gt' \(gt\)"),
    "a gate for all units": (lambda x: x * (x[:, :1] >= 0), r"'ge' \(ge\)"),
    "an infinite fill": (lambda x: x.masked_fill(x > 0, -torch.inf), r"'gt' \(gt\)"),
    "a sum": (lambda x: x + (x > 0), r"'gt' \(gt\)"),
    "a mask": (lambda x: (x > 0).float(), r"'gt' \(gt\)"),
    "truth values": (lambda x: x > 0, r"'gt' \(gt\)"),
    "a layer on a mask": (lambda x: (x < 0).to(x.dtype) @ torch.ones(4, 2), r"'lt' \(lt\)"),
    "a bend of a jump": (lambda x: torch.relu(x * (x > 1)), r"'gt' \(gt\)"),
    "sign": (torch.sign, r"'sign' \(sign\)"),
    "a bend of a sign": (lambda x: torch.relu(x.sign()) * x, r"'sign' \(sign\)"),
    "sign in place": (lambda x: (x + 0).sign_(), r"'sign' \(sign\)"),
    "heaviside": (lambda x: torch.heaviside(x, torch.zeros(())), r"'heaviside' \(heaviside\)"),
    "hardshrink": (F.hardshrink, r"'hardshrink' \(hardshrink\)"),
    "threshold": (lambda x: F.threshold(x, 1, 0), r"'threshold' \(threshold\)"),
    "index": (lambda x: cleared(x - 1) + cleared(x) * (x > 2), r"'gt' \(gt\)"),
}  # fmt: skip


@pytest.mark.parametrize(("network", "site"), JUMPING.values(), ids=JUMPING)
def test_what_jumps_is_refused_by_every_exact_measure(network, site):
    message = rf"^site {site} is not continuous, so it has no exact regions: use Transitions\.$"
    path = 3 * torch.randn(2, 6, 4)
    for refuse in (
        lambda: pieces(network, path),
        lambda: linear_deviation(network, path),
        lambda: check_piecewise_linear(network, path[0]),
        lambda: bends(network, path[0], torch.eye(4)),
        lambda: region_capacity(network, path[0, :1]),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()


def test_a_jump_that_no_path_crosses_is_seen_by_none():
    def network(x):
        return torch.where(x > 100, x + 1, torch.relu(x))

    x = torch.randn(6, 4)
    check_piecewise_linear(network, x)
    assert linear_regions(network, x[None]).item() > 1
    with pytest.raises(ValueError, match=r"site 'gt' \(gt\) is not continuous"):
        linear_regions(network, 200 * x[None])


UNKNOWN = {
    "a selection": (lambda x: x[x > 0], "'index' lets the network decide by its input"),
    "a decision": (lambda x: x if (x > 0)[0, 0] else -x, "site 'select' mixes the samples"),
    "a step that depends on x": (
        lambda x: torch.heaviside(x, x) * x,
        r"site 'heaviside' \(heaviside\) is not known to be piecewise linear",
    ),
    "noise": (lambda x: x * torch.rand_like((x > 0).float()), "'rand_like' lets the network"),
    "a mask for another dimension": (
        lambda x: x[:, (x > 0)[0]],
        "mixes the samples of a batch",
    ),
    "a mask that is written to out": (
        lambda x: x * torch.gt(x, 0, out=torch.zeros(len(x), 4, dtype=torch.bool)),
        "'gt' writes",
    ),
    "a mask that is written in a view": (written_in_a_view, "'logical_not' writes in place into"),
}


@pytest.mark.parametrize(("network", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_known_of_masks_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        pieces(network, torch.randn(2, 3, 4))
