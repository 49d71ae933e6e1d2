import math

import pytest
import torch
from networks import mlp
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import linear_regions, transitions
from lightning_effcx.metrics import LinearRegions, Transitions
from lightning_effcx.paths import Arc, Segment, segment

pytestmark = pytest.mark.usefixtures("_float64")


def test_units_with_different_thresholds_make_one_region_more_than_they_are():
    thresholds = torch.arange(1, 8.0)
    path = torch.tensor([[[0.0], [9.0]]])
    assert linear_regions(lambda x: torch.relu(x - thresholds), path).tolist() == [8]


def test_a_linear_network_has_one_region():
    assert linear_regions(nn.Linear(4, 3), torch.randn(5, 3, 4)).tolist() == [1] * 5


def test_dense_sampling_counts_what_the_exact_count_finds():
    network, a, b = mlp(6, 16, 16, 3), torch.randn(4, 6), torch.randn(4, 6)
    exact = linear_regions(network, torch.stack([a, b], 1)) - 1
    assert_close(transitions(network, segment(a, b, points=20_000)), exact)


def test_random_segments_cross_as_many_hyperplanes_as_their_angle_says():
    width, d, runs = 64, 5, 300
    a, b = torch.randn(d), torch.randn(d)
    path = torch.stack([a, b])[None]
    counts = []
    for _ in range(runs):
        layer = nn.Linear(d, width)
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias, 0, 0.5)
        counts.append(linear_regions(nn.Sequential(layer, nn.ReLU()), path).item())
    found = torch.tensor(counts, dtype=torch.float64)
    # E = 1 + m arccos(r) / pi, with r the correlation of pre-activations at both ends.
    rho = (a @ b + 0.25) / ((a @ a + 0.25) * (b @ b + 0.25)).sqrt()
    expected = 1 + width * rho.acos().item() / math.pi
    assert abs(found.mean() - expected) < 5 * found.std() / runs**0.5


def test_the_metric_counts_regions_and_the_knots_of_each_site():
    network, x = mlp(6, 16, 16, 3), torch.randn(10, 6)
    metric = LinearRegions(Segment(count=7, points=2))
    metric.update(network, x)
    found = metric.compute()
    sampled = Transitions(Segment(count=7, points=20_000))
    sampled.update(network, x)
    expected = sampled.compute()
    name = "linear_regions/segment"
    assert_close(found[name], 1 + expected["transitions/segment"])
    sites = [key.removeprefix("transitions/segment") for key in expected if "/at/" in key]
    assert [key.removeprefix(name) for key in found if "/at/" in key] == sites
    for site in sites:
        assert_close(found[name + site], expected["transitions/segment" + site])


def test_vertices_are_no_boundaries():
    network, x = mlp(6, 16, 3), torch.randn(10, 6)
    few, many = LinearRegions(Segment(points=2)), LinearRegions(Segment(points=33))
    few.update(network, x)
    many.update(network, x)
    assert_close(few.compute(), many.compute())


def test_the_kind_of_path_is_in_the_name():
    assert LinearRegions().name == "linear_regions/segment"
    assert LinearRegions(Arc("same")).name == "linear_regions/arc_same"


def test_a_network_that_is_not_piecewise_linear_is_named_with_what_to_do():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    message = r"site '1' \(tanh\) is not continuous and piecewise linear.* count transitions"
    with pytest.raises(ValueError, match=message):
        LinearRegions().update(network, torch.randn(5, 3))
