import math
from itertools import pairwise

import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import ZOO, Sawtooth, linear, mlp, specimen
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import trajectory_length
from lightning_effcx.metrics import TrajectoryGrowth, TrajectoryLength
from lightning_effcx.metrics.error_bars import standard_error
from lightning_effcx.network.observe import observing
from lightning_effcx.paths import Ellipse, OriginLine, Segment, arc, segment

CONTRACTS = [
    Contract(
        TrajectoryGrowth,
        options=[
            {"paths": Segment(count=4, points=9)},
            {"paths": Ellipse(count=3, points=9), "exact": True},
        ],
        cheap={"paths": Segment(count=1, points=3)},
    ),
    Contract(
        TrajectoryLength,
        options=[
            {"paths": Segment(count=4, points=9), "exact": True},
            {"paths": Segment(count=4, points=9)},
            {"paths": Ellipse(count=3, points=9)},
        ],
        cheap={"paths": Segment(count=1, points=3)},
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


def orthogonal(dimension: int):
    return torch.linalg.qr(torch.randn(dimension, dimension))[0]


# By hand


def test_the_identity_and_isometries_keep_the_length():
    path = torch.randn(3, 9, 4)
    identity = trajectory_length(lambda x: 1 * x, path)
    assert_close(identity["output"], identity["input"])
    rotated = trajectory_length(linear(orthogonal(4), torch.randn(4)), path)
    assert_close(rotated["output"].detach(), identity["input"])


def test_a_linear_map_has_the_length_of_its_chords():
    weight, path = torch.randn(3, 4), torch.randn(2, 9, 4)
    expected = [sum((weight @ (b - a)).norm() for a, b in pairwise(p)) for p in path]
    found = trajectory_length(linear(weight), path)
    assert list(found) == ["input", "output"]
    assert_close(found["output"].detach(), torch.stack(expected))


def test_a_constant_map_has_no_length():
    found = trajectory_length(linear(torch.zeros(2, 4), torch.ones(2)), torch.randn(3, 9, 4))
    assert_close(found["output"].detach(), torch.zeros(3))


@pytest.mark.parametrize("points", [3, 10, 1000])
def test_a_circle_has_the_perimeter_of_its_polygon(points):
    radius = 3.0
    a, b = radius * torch.eye(2).unsqueeze(1)
    found = trajectory_length(lambda x: x, arc(a, b, points=points + 1, turn=1.0))
    assert_close(found["input"], torch.tensor([2 * points * radius * math.sin(math.pi / points)]))


def test_a_sawtooth_multiplies_the_length_by_its_slope():
    network = Sawtooth(4)
    path = segment(torch.zeros(1, 1), torch.ones(1, 1), points=2**4 + 1)  # all its folds
    assert_close(trajectory_length(network, path)["output"], torch.tensor([network.slope]))


def test_a_relu_cuts_off_what_is_negative():
    path = torch.tensor([[[-1.0, 0.0], [0.0, 0.0], [3.0, 4.0]]])
    found = trajectory_length(lambda x: x.relu() * 2, path)
    assert_close(found, {k: torch.tensor([v]) for k, v in LENGTHS.items()})


LENGTHS = {"input": 6.0, "relu": 5.0, "output": 10.0}


def test_it_is_measured_after_each_nonlinearity():
    network, path = mlp(3, 8, 8, 2, activation=nn.Tanh), torch.randn(4, 9, 3)
    first = network[:2](path)
    second = network[:4](path)
    found = trajectory_length(network, path)
    assert list(found) == ["input", "1", "3", "output"]
    for name, image in {"input": path, "1": first, "3": second, "output": network(path)}.items():
        chords = (image[:, 1:] - image[:, :-1]).square().sum(2).sqrt().sum(1)
        assert_close(found[name], chords)


def test_images_are_as_long_as_their_flattened_selves():
    path = torch.randn(2, 5, 1, 6, 6)
    network, _ = specimen("conv")
    with observing(network):
        found = trajectory_length(network, path)
    assert_close(found["input"], path.flatten(2).diff(dim=1).norm(dim=2).sum(1))
    image = network.eval().norm(network.conv(path.flatten(0, 1))).relu().unflatten(0, (2, 5))
    assert_close(found["relu"], image.detach().flatten(2).diff(dim=1).norm(dim=2).sum(1))


def test_comparisons_have_no_length():
    found = trajectory_length(lambda x: x * (x > 0), torch.randn(2, 5, 3))
    assert list(found) == ["input", "output"]


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_has_lengths(name):
    network, x = specimen(name, 8)
    path = segment(x[:4], x[4:], points=6)
    with observing(network):
        found = trajectory_length(network, path)
        outputs = network(path.flatten(0, 1)).unflatten(0, (4, 6))
    assert_close(found["output"], outputs.diff(dim=1).norm(dim=2).sum(1))
    assert len(found) > 2
    assert all(length.shape == (4,) and length.isfinite().all() for length in found.values())
    assert not any(length.requires_grad for length in found.values())


# Exact lengths


def test_the_exact_length_is_that_of_all_folds():
    path = torch.tensor([[[0.0], [1.0]]])
    for depth in (1, 4, 8):
        found = trajectory_length(Sawtooth(depth), path, exact=True)
        assert_close(found["output"], torch.tensor([2.0**depth]))


def test_the_exact_length_is_what_many_vertices_come_to_at_every_site():
    network, a, b = mlp(3, 16, 16, 2), 3 * torch.randn(4, 3), 3 * torch.randn(4, 3)
    exact = trajectory_length(network, torch.stack([a, b], 1), exact=True)
    with torch.no_grad():
        sampled = trajectory_length(network, segment(a, b, points=20_001))
    assert list(exact) == list(sampled)
    for name, length in exact.items():
        # Between vertices, sampling cuts corners.
        assert_close(length, sampled[name], rtol=1e-4, atol=0)
        assert (length >= sampled[name] - 1e-12).all()  # rounding


def test_the_exact_length_does_not_depend_on_how_the_path_is_cut():
    network, a, b = mlp(3, 16, 16, 2), torch.randn(4, 3), torch.randn(4, 3)
    expected = trajectory_length(network, torch.stack([a, b], 1), exact=True)
    assert_close(trajectory_length(network, segment(a, b, points=17), exact=True), expected)


def test_an_exact_length_says_where_there_is_none():
    with pytest.raises(
        ValueError, match=r"^site '1' \(tanh\) .* use Transitions or LANNComplexity"
    ):
        trajectory_length(mlp(3, 4, 2, activation=nn.Tanh), torch.randn(2, 5, 3), exact=True)


# Random networks


def random_weights(sizes, scale):
    """Weights of variance scale² / fan-in, as in the paper where it speaks of widths."""
    return [scale * torch.randn(n, m) / m**0.5 for m, n in pairwise(sizes)]


def root_of_chi_squared(degrees):
    return math.sqrt(2) * math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_random_relu_networks_stretch_as_much_as_is_known(scale):
    # The squared stretch of a random layer is scale² / fan-in times a chi-squared with as many
    # degrees of freedom as units are on, which is binomial, whatever the curve.
    sizes, nets = [4, 12, 8], 200
    path = arc(torch.randn(1, 4), torch.randn(1, 4), points=600, turn=0.25)
    growths = []
    for _ in range(nets):
        layers = [layer for w in random_weights(sizes, scale) for layer in (linear(w), nn.ReLU())]
        found = trajectory_length(nn.Sequential(*layers), path)
        growths.append(torch.cat([found[name] / found["input"] for name in ("1", "3")]).detach())
    growths = torch.stack(growths)
    expected = 1.0
    for layer, (m, n) in enumerate(pairwise(sizes)):
        on = (math.comb(n, j) / 2**n * root_of_chi_squared(j) for j in range(1, n + 1))
        expected *= scale / m**0.5 * sum(on)
        stderr = growths[:, layer].std() / nets**0.5
        assert (growths[:, layer].mean() - expected).abs() < 5 * stderr


def test_random_hard_tanh_networks_stretch_as_mean_field_theory_says():
    width, scale, nets, depth = 300, 4.0, 8, 4
    # Of equal lengths and orthogonal, so that the circle has one radius.
    a, b = width**0.5 * orthogonal(width)[:2].unsqueeze(1)
    path = arc(a, b, points=1500, turn=0.05)
    layers = []
    for _ in range(nets):
        weights = random_weights([width] * (depth + 1), scale)
        network = nn.Sequential(*(m for w in weights for m in (linear(w), nn.Hardtanh())))
        with torch.no_grad():
            lengths = trajectory_length(network, path)
        layers.append(torch.stack([lengths[str(2 * i + 1)] for i in range(depth)]))
    growth = (torch.stack(layers)[:, 1:] / torch.stack(layers)[:, :-1]).mean(0).flatten()
    z = torch.linspace(-8, 8, 20_001)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi) * (z[1] - z[0])
    q, expected = scale**2, []
    for _ in range(depth - 1):
        q = scale**2 * (density * (q**0.5 * z).clamp(-1, 1).square()).sum().item()
        expected.append(scale * math.erf(1 / math.sqrt(2 * q)) ** 0.5)
    # Widths are finite: the theory is known to hold to some percent at 300.
    assert_close(growth, torch.tensor(expected), rtol=0.05, atol=0)


# Invariances


@given(st.floats(-6, 6), st.integers(0, 100))
def test_it_scales_with_the_output(scale, seed):
    torch.manual_seed(seed)
    network, path = mlp(3, 8, 2), torch.randn(4, 9, 3)
    expected = abs(scale) * trajectory_length(network, path)["output"]
    assert_close(trajectory_length(lambda x: scale * network(x), path)["output"], expected)


@given(st.integers(0, 100))
def test_rotations_and_directions_do_not_matter(seed):
    torch.manual_seed(seed)
    network, path = mlp(3, 8, 2), torch.randn(4, 9, 3)
    q, r = orthogonal(3), orthogonal(2)
    expected = trajectory_length(network, path)
    assert_close(trajectory_length(lambda x: network(x @ q) @ r, path @ q.T), expected)
    assert_close(trajectory_length(network, path.flip(1)), expected)


@given(st.integers(2, 5), st.integers(0, 100))
def test_more_vertices_never_make_it_shorter(factor, seed):
    torch.manual_seed(seed)
    network = mlp(3, 16, 2)
    path = segment(3 * torch.randn(4, 3), 3 * torch.randn(4, 3), points=4 * factor + 1)
    fine, coarse = trajectory_length(network, path), trajectory_length(network, path[:, ::factor])
    assert all((fine[name] >= coarse[name] - 1e-12).all() for name in fine)  # rounding


def test_each_path_is_measured_by_itself():
    network, path = mlp(3, 8, 2), torch.randn(5, 9, 3)
    alone = [trajectory_length(network, one[None]) for one in path]
    for name, lengths in trajectory_length(network, path).items():
        assert_close(lengths, torch.cat([one[name] for one in alone]))


# Gradients


@pytest.mark.parametrize("site", ["1", "3", "output"])
def test_it_is_differentiable_in_the_weights(site):
    network, path = mlp(3, 4, 4, 2, activation=nn.Tanh), torch.randn(2, 5, 3)
    parameters = list(network.parameters())
    # gradcheck moves its inputs in place, which are the network's own parameters
    assert torch.autograd.gradcheck(lambda *_: trajectory_length(network, path)[site], parameters)


def test_its_gradient_at_a_site_is_that_of_the_module_alone_also_in_place():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(True))
    path = torch.randn(2, 5, 3)
    found = trajectory_length(network, path)
    for site, part in (("1", network[:2]), ("3", network)):
        expected = trajectory_length(lambda x, part=part: part(x), path)["output"].sum()
        grads = (
            torch.autograd.grad(y, network[0].weight, retain_graph=True)[0]
            for y in (found[site].sum(), expected)
        )
        assert_close(*grads)


def test_it_is_differentiable_in_the_path():
    network, path = mlp(3, 4, 2, activation=nn.Tanh), torch.randn(2, 5, 3, requires_grad=True)
    found = torch.autograd.gradcheck(
        lambda path: tuple(trajectory_length(network, path).values()), path
    )
    assert found


def test_its_gradient_is_finite_where_the_image_is_a_point():
    network = mlp(3, 4, 2)
    network[0].bias.data.fill_(-100.0)
    sum(
        length.sum() for length in trajectory_length(network, torch.randn(2, 5, 3)).values()
    ).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


# The metric


def test_the_metric_is_the_mean_over_paths_at_the_output_and_at_every_site():
    network, x = mlp(3, 8, 2), torch.randn(40, 3)
    paths = Segment(count=12, points=5)
    metric = TrajectoryLength(paths, seed=3, chunk=7)  # one path at a time
    metric.update(network, x)
    score = metric.compute()
    lengths = trajectory_length(network, paths(x, None, torch.Generator().manual_seed(3 + 1)))
    assert_close(score["trajectory_length.segment"], lengths["output"].mean().detach())
    stderr = standard_error(lengths["output"].detach())
    assert_close(score["trajectory_length.segment_stderr"], stderr)
    assert_close(score["trajectory_length.segment/input"], lengths["input"].mean())
    assert_close(score["trajectory_length.segment/1"], lengths["1"].mean().detach())
    assert len(score) == 4


def test_the_exact_metric_is_named_so():
    network, x = mlp(3, 8, 2), torch.randn(20, 3)
    metric = TrajectoryLength(exact=True, seed=3)
    assert metric.name == "trajectory_length.segment_exact"
    metric.update(network, x)
    path = Segment(points=2)(x, None, torch.Generator().manual_seed(3 + 1))
    expected = trajectory_length(network, path, exact=True)["output"].mean()
    assert_close(metric.compute()["trajectory_length.segment_exact"], expected)


@pytest.mark.parametrize("exact", [False, True])
def test_growth_is_the_product_of_what_each_site_adds(exact):
    network, x = mlp(3, 8, 8, 2), torch.randn(20, 3)
    length, growth = TrajectoryLength(exact=exact), TrajectoryGrowth(exact=exact)
    for metric in (length, growth):
        metric.update(network, x)
    lengths, found = length.compute(), growth.compute()
    sites = {key.partition("/")[2]: value for key, value in lengths.items() if "/" in key}
    total = lengths[length.name] / sites["input"]
    assert_close(found[growth.name], total)
    assert_close(found[growth.name + "/1"], sites["1"] / sites["input"])
    assert_close(found[growth.name + "/3"], sites["3"] / sites["1"])
    assert growth.name + "/input" not in found


def test_an_isometry_does_not_grow_and_a_scaling_grows_by_its_factor():
    for network, factor in ((linear(orthogonal(4)), 1.0), (linear(-3 * torch.eye(4)), 3.0)):
        metric = TrajectoryGrowth()
        metric.update(network, torch.randn(9, 4))
        found = metric.compute()
        assert_close(found["trajectory_growth.segment"], torch.tensor(factor))
        assert_close(found["trajectory_growth.segment_stderr"], torch.tensor(0.0))


def test_the_error_of_a_growth_is_that_of_repeated_draws():
    network, x = mlp(3, 16, 2), torch.randn(4000, 3)
    found = []
    for part in x.split(40):
        metric = TrajectoryGrowth(OriginLine(count=40))  # one path for each sample: independent
        metric.update(network, part)
        found.append(metric.compute())
    growths = torch.stack([f["trajectory_growth.origin_line"] for f in found])
    told = torch.stack([f["trajectory_growth.origin_line_stderr"] for f in found]).mean()
    assert 0.8 < told / growths.std() < 1.25  # a hundred repetitions know their spread to 7 %


def test_nothing_grows_after_units_that_are_all_dead():
    network = mlp(3, 8, 8, 2)
    network[0].bias.data.fill_(-100.0)
    metric = TrajectoryGrowth()
    metric.update(network, torch.randn(9, 3))
    found = metric.compute()
    assert found["trajectory_growth.segment"] == found["trajectory_growth.segment/1"] == 0
    assert "trajectory_growth.segment/3" not in found


# Errors


def test_paths_without_length_cannot_grow():
    metric = TrajectoryGrowth()
    metric.update(nn.Linear(3, 2), torch.ones(9, 3))
    with pytest.raises(ValueError, match=r"^all paths have length 0, .*: use samples that differ"):
        metric.compute()


def test_a_path_has_vertices():
    with pytest.raises(TypeError):
        trajectory_length(nn.Linear(3, 2), torch.randn(3))
    with pytest.raises(ValueError, match="change with the other samples in its batch"):
        trajectory_length(lambda x: x + x.amax(0), torch.randn(2, 5, 3))
