import math
from functools import partial

import pytest
import torch
from contract import Contract
from networks import Sawtooth, Staircase, mlp
from sklearn.datasets import load_digits
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import estimated_linear_regions, linear_regions, transitions
from lightning_effcx.metrics import LinearRegions, Transitions
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.paths import Arc, Ellipse, OriginLine, Segment, segment

CONTRACTS = [
    Contract(
        LinearRegions,
        options=[
            {"paths": Segment(count=4, points=2)},
            {"paths": Segment(count=4, points=3), "budget": 9},
            {"paths": Ellipse(count=3, points=9)},
        ],
        cheap={"paths": Segment(count=1, points=2)},
        functions={"estimated_linear_regions": partial(estimated_linear_regions, share=0.5)},
        exact=True,
    ),
]

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
    name = "linear_regions.segment"
    assert_close(found[name], 1 + expected["transitions.segment"])
    sites = [key.removeprefix("transitions.segment") for key in expected if "/" in key]
    assert [key.removeprefix(name) for key in found if "/" in key] == sites
    for site in sites:
        assert_close(found[name + site], expected["transitions.segment" + site])


def test_vertices_are_no_boundaries():
    network, x = mlp(6, 16, 3), torch.randn(10, 6)
    few, many = LinearRegions(Segment(points=2)), LinearRegions(Segment(points=33))
    few.update(network, x)
    many.update(network, x)
    assert_close(few.compute(), many.compute())


def test_the_kind_of_path_is_in_the_name():
    assert LinearRegions().name == "linear_regions.segment"
    assert LinearRegions(Arc("same")).name == "linear_regions.arc_same"


def test_a_network_that_is_not_piecewise_linear_is_named_with_what_to_do():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    message = r"site '1' \(tanh\) is not piecewise linear.* use Transitions"
    with pytest.raises(ValueError, match=message):
        LinearRegions().update(network, torch.randn(5, 3))


# Estimates


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("vertices", [(0, 400), (0, 100, 100, 250, 400), (400, 0)])
def test_an_estimate_is_unbiased_within_its_error_bars(vertices):
    path = torch.tensor(vertices, dtype=torch.float64)[None, :, None].expand(600, -1, -1)
    network = Staircase(399)
    for budget in (10, 100):
        found = estimated_linear_regions(network, path, budget=budget, generator=generator())
        stderr = found.std() / len(found) ** 0.5
        assert (found.mean() - 400).abs() < 5 * stderr
        assert stderr > 0


def test_an_estimate_is_unbiased_where_knots_crowd():
    network, x = mlp(4, 64, 64, 3), torch.randn(1, 4)
    path = OriginLine()(x, None, generator())
    exact = linear_regions(network, path).item()
    found = estimated_linear_regions(network, path.expand(800, -1, -1), budget=10)
    assert (found.mean() - exact).abs() < 5 * found.std() / 800**0.5


def test_a_budget_that_is_large_enough_counts_all():
    network, path = mlp(4, 32, 32, 3), torch.randn(20, 5, 4)
    found = estimated_linear_regions(network, path, budget=10**6, generator=generator())
    assert_close(found, linear_regions(network, path).double())


def test_the_estimate_of_a_path_does_not_depend_on_the_others():
    network, path = mlp(4, 64, 64, 3), torch.randn(9, 3, 4)
    draws = Draws.of(9, generator())
    parts = [
        estimated_linear_regions(network, path[i::2], budget=9, generator=draws[i::2])
        for i in range(2)
    ]
    together = estimated_linear_regions(network, path, budget=9, generator=generator())
    assert_close(torch.cat(parts), torch.cat([together[::2], together[1::2]]))
    assert (together != linear_regions(network, path)).any()


def test_an_estimate_finds_about_as_many_knots_as_its_budget():
    network, path = Sawtooth(12), torch.tensor([[[0.0], [1.0]]])
    rows = []
    found = estimated_linear_regions(
        lambda x: rows.append(len(x)) or network(x), path, budget=200, generator=generator()
    )
    assert_close(found, torch.tensor([2.0**12]), rtol=0.2, atol=0)
    assert len(rows) == 4  # the pilot and the estimate, each with a plain evaluation


def test_the_metric_with_a_budget_is_named_so_and_estimates_sites_too():
    network, x = mlp(6, 64, 64, 3), torch.randn(40, 6)
    exact, estimate = LinearRegions(), LinearRegions(budget=20)
    for metric in (exact, estimate):
        metric.update(network, x)
    exact, found = exact.compute(), estimate.compute()
    name = "linear_regions.segment"
    for key in (name, name + "/1", name + "/3"):
        error = 5 * found[name + "_estimated_stderr"]
        assert (found[key.replace(name, name + "_estimated")] - exact[key]).abs() < error
    assert found[name + "_estimated"] != exact[name]


@pytest.mark.parametrize("estimate", [LinearRegions, estimated_linear_regions])
def test_a_budget_is_a_number_of_knots(estimate):
    with pytest.raises(ValueError, match=r"^budget=0: expected at least 1 knot of each path\.$"):
        estimate(
            *[torch.relu, torch.randn(1, 2, 3)][: 2 * (estimate is not LinearRegions)], budget=0
        )


# The line through the origin


def test_networks_at_initialisation_have_about_one_region_per_unit_on_a_line_through_the_origin():
    torch.manual_seed(0)
    digits = load_digits().images
    x = torch.as_tensor(digits[:40]).flatten(1) / 16
    shares = []
    for widths in ([32] * 4, [128] * 4, [40] * 3, [50] * 5):
        network = mlp(64, *widths, 10)
        for layer in network:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, (2 / layer.in_features) ** 0.5)
                nn.init.normal_(layer.bias, 0, 1e-3)
        path = OriginLine(count=40)(x, None, generator())
        shares.append(linear_regions(network, path).double().mean() / sum(widths))
    assert_close(torch.stack(shares).mean(), torch.tensor(1.0), rtol=0.1, atol=0)


def test_a_network_without_biases_has_two_regions_on_a_line_through_the_origin():
    network = nn.Sequential(nn.Linear(5, 9, False), nn.ReLU(), nn.Linear(9, 7, False), nn.ReLU())
    assert linear_regions(network, OriginLine()(torch.randn(4, 5), None, generator())).eq(2).all()


@pytest.mark.parametrize("vertices", [(0, 400), (0, 100, 100, 250, 400), (400, 0)])
def test_an_estimate_from_a_share_is_unbiased_within_its_error_bars(vertices):
    path = torch.tensor(vertices, dtype=torch.float64)[None, :, None].expand(600, -1, -1)
    found = estimated_linear_regions(Staircase(399), path, share=0.013, generator=generator())
    stderr = found.std() / len(found) ** 0.5
    assert (found.mean() - 400).abs() < 5 * stderr
    assert stderr > 0


def test_the_whole_path_is_counted():
    network, path = mlp(4, 32, 32, 3), torch.randn(20, 5, 4)
    found = estimated_linear_regions(network, path, share=1.0, generator=generator())
    assert_close(found, linear_regions(network, path).double())


@pytest.mark.parametrize("options", [{}, {"share": 0.1, "budget": 3}])
def test_an_estimate_takes_a_share_or_a_budget(options):
    with pytest.raises(ValueError, match=r"budget=.*, share=.*: expected one of the two, a num"):
        estimated_linear_regions(torch.relu, torch.randn(1, 2, 3), **options)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_is_a_part_of_the_path(share):
    with pytest.raises(ValueError, match=f"share={share}: expected a share of more than 0"):
        LinearRegions(share=share)
