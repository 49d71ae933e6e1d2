import pytest
import torch
from networks import linear
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import (
    boundary_distance,
    linear_deviation,
    linear_regions,
    trajectory_length,
)
from lightning_effcx.piecewise import orders, winners
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")

FILLS = [-torch.inf, torch.finfo(torch.float64).min, torch.finfo(torch.float32).min, -1e30, -1e9]
HIDDEN = torch.arange(8) % 3 == 1


def hide(fill):
    return lambda h: h.masked_fill(HIDDEN, fill)


# Each network chooses among the elements that `hide` leaves, or among all but the same ones.
MASKED = {
    "amax": (
        lambda h, fill: hide(fill)(h).amax(1, keepdim=True),
        lambda h: h[:, ~HIDDEN].amax(1, keepdim=True),
    ),
    "amin": (
        lambda h, fill: hide(-fill)(h).amin(1, keepdim=True),
        lambda h: h[:, ~HIDDEN].amin(1, keepdim=True),
    ),
    "max": (
        lambda h, fill: hide(fill)(h).max(1, keepdim=True).values,
        lambda h: h[:, ~HIDDEN].max(1, keepdim=True).values,
    ),
    "max pool": (
        lambda h, fill: F.max_pool1d(hide(fill)(h)[:, None], 8)[:, 0],
        lambda h: F.max_pool1d(h[:, None, ~HIDDEN], 5)[:, 0],
    ),
    "padded": (
        lambda h, fill: F.max_pool1d(F.pad(h, (1, 1), value=fill)[:, None], 3, 1)[:, 0],
        lambda h: F.max_pool1d(h[:, None], 3, 1, 1)[:, 0],
    ),
    "cummax": (
        lambda h, fill: hide(fill)(h).cummax(1).values[:, [-1]],
        lambda h: h[:, ~HIDDEN].cummax(1).values[:, [-1]],
    ),
    "topk": (
        lambda h, fill: hide(fill)(h).topk(3, 1).values,
        lambda h: h[:, ~HIDDEN].topk(3, 1).values,
    ),
    "added": (
        lambda h, fill: (h + torch.where(HIDDEN, fill, 0.0)).amax(1, keepdim=True),
        lambda h: h[:, ~HIDDEN].amax(1, keepdim=True),
    ),
}


@pytest.mark.parametrize("size", [1.0, 1e-9])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("masked", "left_out"), MASKED.values(), ids=MASKED)
def test_what_a_mask_hides_is_as_if_it_was_not_there(masked, left_out, fill, size):
    layer = linear(size * torch.randn(8, 3), size * torch.randn(8))

    def hiding(x):
        return masked(layer(x), fill)

    def leaving_out(x):
        return left_out(layer(x))

    path = 4 * torch.randn(5, 2, 3)
    with torch.no_grad():
        assert linear_regions(leaving_out, path).sum() > len(path)
    for measure in (linear_regions, linear_deviation):
        assert_close(measure(hiding, path), measure(leaving_out, path))
    lengths = (trajectory_length(net, path, exact=True)["output"] for net in (hiding, leaving_out))
    assert_close(*lengths)
    x = path[:, 0]
    assert_close(boundary_distance(hiding, x), boundary_distance(leaving_out, x))


def test_a_window_in_which_all_is_masked_has_no_boundary():
    x = torch.randn(4, 3)

    def hidden(x):
        return torch.cat([(x - torch.inf).amax(1, keepdim=True), F.relu(x)], 1)

    assert_close(boundary_distance(hidden, x), x.abs().amin(1))
    path = torch.randn(2, 2, 3)
    assert_close(linear_regions(hidden, path), linear_regions(F.relu, path))


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


CHOICES = [lambda h: h.amax(1), lambda h: h.sort(1).values, lambda h: h.median(1).values]


@pytest.mark.parametrize("choose", CHOICES)
def test_ties_that_rounding_does_not_let_end_are_refused(choose, monkeypatch):
    for file in (winners, orders):
        monkeypatch.setattr(file, "tie_tolerance", lambda dtype: 0.0)
    network, path = maxout(torch.float64)
    with pytest.raises(
        ValueError, match=r"too close to each other for the precision of the pass: u"
    ):
        pieces(lambda x: choose(network(x)), path, dtype=torch.float32)


@pytest.mark.parametrize("choose", [lambda h: h.amax(1), lambda h: h.topk(2, 1).values])
def test_equal_elements_that_are_computed_in_two_ways_bound_nothing(choose):
    x = torch.linspace(-2, 3, 40)[:, None]

    def network(x):
        return choose(torch.cat([0.3 * x, 0.1 * x + 0.2 * x, 1.3 - x], 1))

    assert_close(boundary_distance(network, x), (x - 1).abs()[:, 0])
    assert linear_regions(network, torch.tensor([[[-2.0], [3.0]]])).item() == 2
