from fractions import Fraction

import pytest
import torch
from networks import mlp
from rational_sweeps import count_regions
from slow_oracles import dense, points_at
from slow_oracles import lengths as lengths_of
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.piecewise.rounding import Scale

pytestmark = pytest.mark.usefixtures("_float64")

TIMES = 20


def random_numbers(seed, *shape, scale=1.0):
    return scale * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def relax(times, lengths):
    """Shortest paths around a ring: each place is at most a step further than the place before."""

    def network(d):
        for _ in range(times):
            d = d - F.relu(d - d.roll(1, 1) - lengths)
        return d

    return network


def relax_by_minimum(times, lengths):
    def network(d):
        for _ in range(times):
            d = torch.minimum(d, d.roll(1, 1) + lengths)
        return d

    return network


def ring(times, lengths):
    """The layers of both networks, for fractions."""
    lengths = [Fraction(length) for length in lengths.tolist()]

    def units(d):
        return [d[i] - d[i - 1] - length for i, length in enumerate(lengths)]

    def following(d, z):
        return [v - max(Fraction(0), unit) for v, unit in zip(d, z, strict=True)]

    return [(units, following)] * times


def length_of(name, rows, values):
    return lengths_of(values)


# Units converge, and are then on their kink identically


@pytest.mark.parametrize("network", [relax, relax_by_minimum])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("seed", range(6))
def test_units_that_converge_have_the_regions_of_a_sweep_in_fractions(network, scale, seed):
    lengths = random_numbers(seed, 3 + seed, scale=scale / 2)
    path = random_numbers(seed + 100, 1, 2, 3 + seed, scale=3 * scale)
    expected = count_regions(*path[0].tolist(), ring(TIMES, lengths))
    assert pieces(network(TIMES, lengths), path).regions().tolist() == [expected]


def test_what_is_small_beside_other_units_and_other_paths_is_judged_by_its_own_size():
    lengths, scale = random_numbers(1, 5, scale=0.5), torch.tensor([1e-10, 1.0, 1e10])
    path = random_numbers(102, 1, 2, 5, scale=3.0)
    expected = count_regions(*path[0].tolist(), ring(TIMES, lengths))
    alone = relax(TIMES, lengths)

    def network(x):  # the same three times, in other units of length
        parts = [relax(TIMES, lengths * s)(x * s) for s in scale]
        return torch.cat(parts, 1)

    found = pieces(network, torch.cat([path, path / 7]))
    assert found.regions()[0] == expected
    assert found.transitions()[1] == 3 * pieces(alone, path / 7).transitions()[0]


def flat_images(count):
    """Paths between flat images."""
    return random_numbers(3, count, 2, 1, 1, 1).expand(-1, -1, 1, 8, 8)


def mean(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def kernels():
    """Kernels whose entries have the sum zero, by rounding."""
    found = random_numbers(4, 6, 1, 3, 3) - 0.5
    return found - found.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(
    "contrast",
    [
        lambda x: x - mean(x),
        lambda x: 1e6 * x - 1e6 * mean(x),
        lambda x: x + 0.1 - mean(x + 0.1),
        lambda x: F.conv2d(x, kernels()),
        lambda x: F.conv2d(1e6 + x, kernels()),
        lambda x: (x - x.flip(-1)) @ torch.ones(8, 8) / 3 - (x - x.flip(-1)) * 8 / 3,
        lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real - x,
        lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bicubic") - x,
    ],
)
def test_flat_images_have_no_contrast_that_passes_a_kink(contrast):
    found = pieces(lambda x: F.relu(contrast(x)).flatten(1), flat_images(6))
    assert found.transitions().tolist() == [0] * 6


def test_the_contrast_of_an_image_that_is_flat_in_part_is_counted_where_it_is_not():
    path = flat_images(1).clone()
    path[:, :, :, 3, 3] += torch.tensor([-0.1, 0.3])[None, :, None]
    found = pieces(lambda x: F.relu(x - mean(x)).flatten(1), path)
    assert found.transitions().tolist() == [9]  # the pixel itself, and its eight neighbours
    assert_close(found.position, torch.full((9,), 0.25))


# What is small, but not by cancellation


@pytest.mark.parametrize("size", [1e-300, 1e-100, 1e-12, 1.0, 1e12])
def test_a_small_crossing_counts(size):
    path = size * torch.tensor([[[-1.0], [2.0]]])
    assert pieces(F.relu, path).regions().tolist() == [2]
    both = torch.cat([path, 1e15 * path, torch.tensor([[[1.0], [2.0]]])])
    assert pieces(F.relu, both).regions().tolist() == [2, 2, 1]


@pytest.mark.parametrize("weight", [1e-30, 1e-12, 1e-9])
def test_a_unit_with_small_weights_beside_large_ones_has_its_knots(weight):
    def network(x):
        large = F.relu(x * 1e6 - 1e3)
        return torch.cat([large, F.relu(weight * x - weight / 3)], 1)

    found = pieces(network, torch.tensor([[[-1.0], [2.0]]]))
    assert_close(found.position, torch.tensor([(1 + 1e-3) / 3, 4 / 9]))


def test_a_crossing_at_the_end_of_a_path_counts_if_it_is_further_from_it_than_rounding():
    path = torch.tensor([[[-1.0], [1e-9]], [[-1.0], [1e-300]], [[-1e-9], [1.0]]])
    assert pieces(F.relu, path).regions().tolist() == [2, 2, 2]
    assert pieces(lambda x: F.relu(x + 1 - 1), path[::2]).regions().tolist() == [2, 2]


def test_random_networks_need_no_second_pass(monkeypatch):
    asked, is_near = [], Scale.is_near

    def remember(scale, distance):
        asked.append(is_near(scale, distance))
        return asked[-1]

    monkeypatch.setattr(Scale, "is_near", remember)
    torch.manual_seed(0)
    network = mlp(5, 32, 32, 32, 2)
    assert pieces(network, 3 * torch.randn(8, 3, 5)).regions().min() > 3
    assert asked == [False] * 3


# Several units at one place


TOUCHING = {
    "absolute value": lambda x: F.relu(F.relu(torch.cat([x, -x], 1)).sum(1, keepdim=True)),
    "of shifted units": lambda x: F.relu(
        F.relu(torch.cat([x - 0.1, 0.1 - x], 1)).sum(1, keepdim=True)
    ),
    "maximum": lambda x: F.relu(torch.maximum(3 * x, 0.1 - x) - 0.075),
    "largest": lambda x: F.relu(torch.cat([3 * x, 0.1 - x], 1).amax(1, keepdim=True) - 0.075),
    "minimum": lambda x: F.relu(torch.minimum(3 * x, 0.1 - x) - 0.075),
}


@pytest.mark.parametrize("name", TOUCHING)
def test_a_unit_that_touches_its_kink_where_others_bend_does_not_pass_it(name):
    path = torch.tensor([[[-1.0], [2.0]], [[-0.3], [0.7]], [[2.0], [-1.7]]])
    found = pieces(TOUCHING[name], path)
    assert found.regions().tolist() == [2, 2, 2]
    assert found.transitions(found.sites[-1]).tolist() == [0, 0, 0]


def test_units_that_share_a_boundary_pass_it_once():
    path = torch.tensor([[[-1.0], [2.0]], [[-0.3], [0.7]], [[2.0], [-1.7]]])
    found = pieces(lambda x: F.relu(F.relu(3 * x - 0.1) + (3 * x - 0.1)), path)
    assert found.regions().tolist() == [2, 2, 2]
    assert found.transitions().tolist() == [2, 2, 2]


# The second pass does everything that the first one does


def test_values_integrals_and_parts_are_those_of_a_pass_without_copies():
    lengths = random_numbers(1, 5, scale=0.5)
    path = random_numbers(102, 2, 3, 5, scale=3.0)
    network = relax(TIMES, lengths)

    found = pieces(network, path, keep=["output"], integrate=length_of)
    cut = pieces(network, path, budget=2**14, keep=["output"], integrate=length_of)
    chords = network(dense(path, 20001).flatten(0, 1)).reshape(2, -1, 5).diff(dim=1)
    chords = chords.norm(dim=2).sum(1)
    assert_close(found.integrals["output"], chords, rtol=1e-4, atol=0)
    assert_close(cut.integrals, found.integrals)
    assert cut.regions().tolist() == found.regions().tolist()
    at = points_at(path, found.path, found.position)
    assert_close(found.values["output"], network(at))
    assert_close(cut.values["output"], found.values["output"])


# Other precisions


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardtanh, nn.LeakyReLU])
@pytest.mark.parametrize("seed", range(3))
def test_single_precision_finds_the_regions_of_double_precision(activation, seed):
    torch.manual_seed(seed)
    network, path = mlp(3, 12, 12, 2, activation=activation), 2 * torch.randn(6, 3, 3)
    expected = pieces(network, path).regions()
    assert_close(pieces(network, path, dtype=torch.float32).regions(), expected)
    cut = pieces(network, path, dtype=torch.float32, budget=2**12)
    assert_close(cut.regions(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_ends_and_finds_no_more_than_there_is(dtype):
    torch.manual_seed(0)
    network, path = mlp(3, 12, 12, 2, activation=nn.Hardtanh), 2 * torch.randn(6, 3, 3)
    found, expected = pieces(network, path, dtype=dtype), pieces(network, path)
    assert found.position.dtype == dtype
    assert (found.regions() <= expected.regions()).all()
    assert found.regions().sum() > 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_that_converge_are_on_their_kink_in_every_precision(dtype):
    lengths, path = random_numbers(1, 5, scale=0.5), random_numbers(102, 1, 2, 5, scale=3.0)
    expected = count_regions(*path[0].tolist(), ring(TIMES, lengths))
    found = pieces(relax(TIMES, lengths), path, dtype=dtype)
    assert found.regions().tolist() == [expected]
