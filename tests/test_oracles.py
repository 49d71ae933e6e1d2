"""Exact regions against other people's programs: `pip install -e '.[test,oracles]'`."""

import math

import numpy as np
import pytest
import torch
from networks import mlp
from slow_oracles import lengths
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import linear_regions
from lightning_effcx.piecewise.lines import pieces

SHAPES = [(2, 64, 64, 1), (64, 128, 128, 10), (784, 256, 256, 256, 10)]


def cam_1d(a, b):
    """A camera of the segment; its layer 1 is the input."""
    regioncam = pytest.importorskip("regioncam")
    line = regioncam.Regioncam1D((0.0, 1.0))
    line.linear((b - a)[None].numpy().copy(), a.numpy().copy())
    return line


# It works in float32, and could merge knots that lie closer than that tells apart. On these
# segments it does not: the counts are those of double precision.
@pytest.mark.parametrize("widths", SHAPES)
def test_regions_on_segments_are_as_many_as_a_line_camera_sees(widths):
    network, path = mlp(*widths), torch.randn(16, 2, widths[0])
    cameras = [cam_1d(*segment) for segment in path]
    for camera in cameras:
        camera.add(network)
    assert linear_regions(network, path).tolist() == [camera.num_edges for camera in cameras]


@pytest.mark.parametrize("widths", SHAPES)
def test_images_of_segments_are_as_long_as_a_line_camera_sees(widths):
    network, path = mlp(*widths), torch.randn(8, 2, widths[0])
    measured = pieces(network, path, integrate=lambda _, __, v: lengths(v)).integrals
    for index, segment in enumerate(path):
        camera = cam_1d(*segment)
        camera.add(network)
        layers = {"input": 1, "output": camera.num_layers - 1}
        layers |= {site: int(site) + 2 for site in measured if site.isdigit()}
        for site, layer in layers.items():
            expected = lengths(torch.from_numpy(camera.activations(layer)).double()).sum()
            assert_close(measured[site][index], expected, rtol=1e-5, atol=0)  # it has float32


def test_leaky_units_residuals_and_maxima_are_cut_as_a_line_camera_cuts_them():
    first, inner, last = nn.Linear(5, 24), mlp(24, 24, 24), nn.Linear(24, 7)
    path = torch.randn(16, 2, 5)

    def network(x):
        h = nn.functional.leaky_relu(first(x), 0.1)
        return last(h + inner(h)).amax(1, keepdim=True)

    expected = []
    for segment in path:
        camera = cam_1d(*segment)
        regioncam = pytest.importorskip("regioncam")
        camera.add(first)
        camera.leaky_relu(0.1)
        camera.add(regioncam.nn.Residual(regioncam.nn.convert(inner)))
        camera.add(last)
        camera.max_pool()
        expected.append(camera.num_edges)
    assert linear_regions(network, path).tolist() == expected


@pytest.mark.parametrize("widths", [(2, 16, 16, 1), (2, 64, 64, 1), (2, 32, 32, 32, 32, 3)])
def test_random_lines_cross_boundaries_as_often_as_crofton_says_of_their_length(widths):
    regioncam = pytest.importorskip("regioncam")
    network = mlp(*widths)
    camera = regioncam.Regioncam(size=1)  # of [-1, 1]²
    camera.add(network)
    length: dict[int, float] = {}
    for edge in camera.edges:
        if not edge.is_image_boundary:
            length[edge.layer_nr] = length.get(edge.layer_nr, 0.0) + edge.length
    path = chords(4000)
    found = pieces(network, path)
    for index, site in enumerate(found.sites):
        crossings = found.transitions(site).double()
        expected = 2 * length[2 * index + 2] / 8  # lines that meet a convex set of perimeter 8
        stderr = crossings.std() / math.sqrt(len(crossings))
        assert stderr < 0.03 * expected
        assert (crossings.mean() - expected).abs() < 4 * stderr


def chords(count):
    """What uniformly distributed lines, of those that meet it, have in common with [-1, 1]²."""
    angle = 2 * math.pi * torch.rand(8 * count, dtype=torch.float64)
    offset = math.sqrt(2) * torch.rand(8 * count, dtype=torch.float64)
    normal = torch.stack([angle.cos(), angle.sin()], 1)
    along = torch.stack([-angle.sin(), angle.cos()], 1)
    start = offset[:, None] * normal
    sides = torch.stack([(-1 - start) / along, (1 - start) / along], 1).sort(1).values
    enter, leave = sides[:, 0].amax(1), sides[:, 1].amin(1)
    ends = torch.stack([start + t[:, None] * along for t in (enter, leave)], 1)
    return ends[enter < leave][:count]


def tree_of_cells(network, dimensions):
    """A tree whose leaves are the activation regions in [-1, 1]ⁿ, in exact linear programs."""
    affinitree = pytest.importorskip("affinitree")
    eye = np.eye(dimensions)
    box = affinitree.Polytope.from_mats(np.concatenate([eye, -eye]), np.ones(2 * dimensions))
    start = affinitree.AffTree.from_poly(box, affinitree.AffFunc.identity(dimensions), None)
    layers = affinitree.extract_pytorch_architecture(dimensions, network)
    return affinitree.builder.from_layers(layers, start, None)


@pytest.mark.parametrize("hidden", [(8,), (16, 16), (12, 12, 12), (24, 24)])
def test_regions_of_an_interval_are_the_leaves_of_a_decision_tree(hidden):
    network = mlp(1, *hidden, 2)
    path = torch.tensor([[[-1.0], [1.0]]])
    assert linear_regions(network, path).item() == tree_of_cells(network, 1).num_terminals()


@pytest.mark.parametrize("widths", [(2, 6, 1), (2, 8, 8, 1), (3, 6, 6, 1), (4, 6, 4, 1)])
def test_segments_between_all_leaves_of_a_decision_tree_find_no_other_regions(widths):
    network = mlp(*widths)
    tree = tree_of_cells(network, widths[0])
    centers = torch.tensor(
        np.stack([centre(p) for _, node, p in tree.polyhedra() if node.is_terminal()])
    )
    assert len(centers) == tree.num_terminals()
    network = network.double()
    assert len(patterns(network, centers)) == len(centers)
    first, second = torch.triu_indices(len(centers), len(centers), 1)
    path = torch.stack([centers[first], centers[second]], 1)
    found = pieces(network, path)
    start, end = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    seen = set()
    for index, (a, b) in enumerate(path):
        knots = found.position[found.path == index]
        t = torch.cat([start, knots, end])
        middle = ((t[1:] + t[:-1]) / 2)[t.diff() > 1e-12, None]
        on_this = patterns(network, torch.lerp(a, b, middle))
        assert len(on_this) == found.regions()[index]  # convex regions: never entered twice
        seen |= on_this
    assert len(seen) == tree.num_terminals()


def centre(polytope):
    """The centre of the largest ball inside."""
    program, cost = polytope.chebyshev_center()
    return program.solve(cost)[:-1]  # its radius is last


@torch.no_grad()
def patterns(network, x):
    codes = []
    for layer in network:
        if isinstance(layer, nn.ReLU):
            codes.append(x > 0)
        x = layer(x)
    return {code.numpy().tobytes() for code in torch.cat(codes, 1)}
