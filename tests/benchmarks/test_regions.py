import copy
import functools

import pytest
import torch
from networks import mlp
from residual_networks import pooled
from slow_oracles import confirm, points_at, sweep
from speed_ratios import times_faster
from torch import nn

from lightning_effcx.functional import boundary_distance, linear_regions
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.benchmark


def he(*widths):
    """A network with the weights of He and small biases."""
    network = mlp(*widths)
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
            nn.init.normal_(layer.bias, std=1e-3)
    return network


def forwards(network, path, batch):
    """One plain forward pass, in double precision, over all knots on the paths, in batches."""
    double, path = copy.deepcopy(network).double(), path.double()
    found = pieces(network, path)
    x = points_at(path, found.path, found.position)

    @torch.no_grad()
    def plain():
        for part in x.split(batch):
            double(part)

    return plain


ALL = 10**9


def test_all_knots_take_at_most_55_percent_of_a_forward_pass_over_them(benchmark):
    network, path = he(784, *[256] * 6, 10), torch.randn(16, 2, 784)
    double = copy.deepcopy(network).double()
    expected = [len(sweep(double, a, b)) + 1 for a, b in path.double().numpy()]
    assert linear_regions(network, path).tolist() == expected
    ratio = times_faster(lambda: pieces(network, path), forwards(network, path, ALL))
    benchmark.extra_info["share of a forward pass"] = 1 / ratio
    benchmark(pieces, network, path)
    assert 1 / ratio <= 0.55


def test_the_knots_of_a_residual_network_take_at_most_one_forward_pass_and_a_fifth(benchmark):
    network, path = pooled(), torch.randn(2, 2, 3, 16, 16)
    short = torch.stack([path[:, 0], path[:, 0].lerp(path[:, 1], 0.2)], 1).double()
    confirm(copy.deepcopy(network).double(), short, least=100)
    shares = {}
    for batch in (64, 256, 512, ALL):  # small ones stay in the caches
        plain = forwards(network, path, batch)
        shares[batch] = 1 / times_faster(lambda: pieces(network, path), plain, rounds=5)
    benchmark.extra_info["share of a forward pass, by batch size"] = shares
    benchmark(pieces, network, path)
    assert max(shares.values()) <= 1.2


def boundaries(network, path, points):
    """How many boundaries equidistant points on each segment see between them."""
    t, found = torch.linspace(0, 1, points, dtype=path.dtype), []
    for a, b in path:
        last, count = None, 0
        for part in t.split(1024):
            h, codes = torch.lerp(a, b, part[:, None]), []
            for layer in network:
                if isinstance(layer, nn.ReLU):
                    codes.append(h > 0)
                h = layer(h)
            code = torch.cat(codes, 1)
            code = code if last is None else torch.cat([last, code])
            count += int((code[1:] != code[:-1]).any(1).sum())
            last = code[-1:]
        found.append(count)
    return torch.tensor(found)


@torch.no_grad()
def test_sampling_takes_fifty_times_longer_to_tell_99_percent_of_the_knots_apart(benchmark):
    # How many units bend at all is soon known, as few bend there and back between two points.
    # Where, and which of two neighbouring knots comes first, needs points between them.
    network = he(784, *[256] * 6, 10).double()
    path = torch.randn(4, 2, 784, dtype=torch.float64)
    knots = linear_regions(network, path) - 1
    points = 2**14
    while boundaries(network, path, points).sum() < 0.99 * knots.sum():
        points = int(1.2 * points)
    ratio = times_faster(
        lambda: pieces(network, path), lambda: boundaries(network, path, points), rounds=3
    )
    benchmark.extra_info["points"] = points
    benchmark.extra_info["times longer"] = ratio
    benchmark(pieces, network, path)
    assert (boundaries(network, path, points) <= knots).all()
    assert ratio >= 50


def test_the_nearest_boundary_is_found_at_least_four_times_faster_than_row_by_row(benchmark):
    network, x = he(784, 256, 256, 10).double(), torch.randn(4, 784, dtype=torch.float64)

    def row_by_row():
        found = []
        for sample in x:
            distances = []
            h = sample.requires_grad_()
            for layer in network:
                if isinstance(layer, nn.ReLU):
                    for z in h:
                        (gradient,) = torch.autograd.grad(z, sample, retain_graph=True)
                        distances.append(z.detach().abs() / gradient.norm())
                h = layer(h)
            found.append(torch.stack(distances).min())
        return torch.stack(found)

    torch.testing.assert_close(boundary_distance(network, x.detach()), row_by_row())
    ratio = times_faster(lambda: boundary_distance(network, x.detach()), row_by_row, rounds=5)
    benchmark.extra_info["times faster"] = ratio
    benchmark(boundary_distance, network, x.detach())
    assert ratio >= 4


@pytest.mark.parametrize("widths", [(2, 64, 64, 1), (64, 128, 128, 10), (784, 256, 256, 256, 10)])
def test_it_takes_at_most_as_long_as_a_compiled_specialist_in_the_same_precision(widths, benchmark):
    regioncam = pytest.importorskip("regioncam")  # in Rust, float32, for sequences of layers
    network, path = mlp(*widths), torch.randn(64, 2, widths[0])

    def theirs():
        counts = []
        for a, b in path.numpy():
            line = regioncam.Regioncam1D((0.0, 1.0))
            line.linear((b - a)[None].copy(), a.copy())
            line.add(network)
            counts.append(line.num_edges)
        return counts

    shares = {}
    for dtype in (torch.float32, torch.float64):
        assert pieces(network, path, dtype=dtype).regions().tolist() == theirs()
        ours = functools.partial(pieces, network, path, dtype=dtype)
        shares[str(dtype)] = 1 / times_faster(ours, theirs)
    benchmark.extra_info["times as long"] = shares
    benchmark(pieces, network, path)
    assert shares["torch.float32"] <= 1
    # In the largest network the products of matrices alone take nine tenths of their time.
    assert shares["torch.float64"] <= 1.5
