import contextlib
import copy
import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Normed, Prelu, Residual, Sawtooth, Staircase, Tied, linear, mlp
from slow_oracles import confirm, dense, lengths, points_at, sweep
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.nn.modules import module as global_hooks
from torch.testing import assert_close

from lightning_effcx.functional import transitions_per_site
from lightning_effcx.network.observe import observing
from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tracing.units import find_sites

pytestmark = pytest.mark.usefixtures("_float64")


def line(*vertices):
    return torch.tensor(vertices, dtype=torch.float64)[None, :, None]


def length_of(name, rows, values):
    return lengths(values)


# By hand


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_a_staircase_has_one_region_more_than_steps(steps):
    found = pieces(Staircase(steps), line(0, steps + 1))
    assert found.regions().tolist() == [steps + 1]
    assert_close(found.position * (steps + 1), torch.arange(1.0, steps + 1))
    assert (found.sites, found.unit.tolist()) == (("relu",), list(range(steps)))


@pytest.mark.parametrize("depth", [14, pytest.param(20, marks=pytest.mark.slow)])
def test_tents_on_each_other_double_the_regions(depth):
    found = pieces(Sawtooth(depth), line(0, 1), budget=2 ** (depth + 8))
    assert found.regions().tolist() == [2**depth]
    counts = {site: found.transitions(site).item() for site in found.sites}
    assert counts == Sawtooth(depth).crossings
    assert_close(found.position, torch.arange(1, 2**depth) / 2**depth)


HALF = torch.tensor([0.5], dtype=torch.float64)
KNOTS = {
    "relu": (F.relu, [0]),
    "relu_": (torch.relu_, [0]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), [0]),
    "leaky_relu_": (lambda x: F.leaky_relu_(x, 0.1), [0]),
    "prelu": (lambda x: F.prelu(x, HALF), [0]),
    "relu6": (F.relu6, [0, 6]),
    "hardtanh": (F.hardtanh, [-1, 1]),
    "hardtanh of other bounds": (lambda x: F.hardtanh(x, -2, 3), [-2, 3]),
    "hardsigmoid": (F.hardsigmoid, [-3, 3]),
    "softshrink": (lambda x: F.softshrink(x, 2), [-2, 2]),
    "threshold": (lambda x: F.threshold(x, 2, 2), [2]),
    "abs": (torch.abs, [0]),
    "abs_": (torch.abs_, [0]),
    "clamp": (lambda x: x.clamp(-2, 5), [-2, 5]),
    "clamp_": (lambda x: x.clamp_(-2, 5), [-2, 5]),
    "clamp min": (lambda x: x.clamp(min=5), [5]),
    "clamp_max": (lambda x: x.clamp_max(5), [5]),
    "clamp of a tensor": (lambda x: x.clamp(min=HALF), [0.5]),
    "maximum": (lambda x: torch.maximum(x, 2 - x), [1]),
    "maximum of a constant": (lambda x: torch.maximum(x, HALF), [0.5]),
    "maximum of a constant first": (lambda x: torch.maximum(HALF, x), [0.5]),
    "maximum that broadcasts": (lambda x: torch.maximum(x, torch.arange(3.0)), [0, 1, 2]),
    "minimum": (lambda x: torch.minimum(2 * x, x + 3), [3]),
    "fmax": (lambda x: torch.fmax(x, HALF), [0.5]),
    "max of two": (lambda x: torch.max(x, -x), [0]),
    "min of two": (lambda x: torch.min(x, HALF), [0.5]),
    "amax": (lambda x: torch.cat([-x - 1, 0 * x, x - 2], 1).amax(1), [-1, 2]),
    "amin": (lambda x: torch.cat([x, -x], 1).amin(-1, keepdim=True), [0]),
    "max over a dimension": (lambda x: torch.cat([-x - 1, 0 * x, x - 2], 1).max(1)[0], [-1, 2]),
    "min over a dimension": (lambda x: torch.cat([x, 2 - x], 1).min(1).values, [1]),
    "amax over two dimensions": (
        lambda x: torch.cat([-x - 1, 0 * x, x - 2, x - 9], 1).view(-1, 2, 2).amax((1, 2)),
        [-1, 2],
    ),
    "rrelu in eval": (lambda x: F.rrelu(x, training=False), [0]),
    "where not above": (lambda x: x - F.relu(x - 1), [1]),
}


@pytest.mark.parametrize(("network", "knots"), KNOTS.values(), ids=KNOTS)
def test_knots_are_where_they_are_on_paper(network, knots):
    found = pieces(network, line(-8, 8))
    assert_close(found.position * 16 - 8, torch.tensor(knots, dtype=torch.float64))
    assert_close(pieces(network, line(-8, -4, 0.7, 8)).regions(), found.regions())


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_kink_is_as_precise_as_the_pass_whatever_the_default_is(default):
    torch.set_default_dtype(default)  # put back by the fixture
    found = pieces(lambda x: x.clamp(-0.5, 0.7), line(-2, 2), keep=["output"])
    assert found.values["output"].flatten().tolist() == [-0.5, 0.7]


def test_maxout_takes_the_best_of_each_group():
    x = line(-4, 4)
    affine = linear(torch.tensor([[1.0], [-1], [2], [1]]), torch.tensor([0.0, 0, 0, 1]))
    found = pieces(lambda x: affine(x).view(-1, 2, 2).amax(2), x)
    assert_close(found.position * 8 - 4, torch.tensor([0.0, 1.0]))
    assert found.unit.tolist() == [0, 1]


def test_a_prelu_has_a_slope_for_each_channel():
    assert pieces(nn.PReLU(3), torch.tensor([[[-1.0, -2, 1], [1.0, 1, 2]]])).regions().item() == 3


def test_positions_count_vertices_of_several_segments():
    found = pieces(torch.relu, line(-1, 1, 3, -1))
    assert_close(found.position, torch.tensor([0.5, 2.75]))


def test_a_knot_tells_which_of_its_units_kinks_it_is():
    found = pieces(F.relu6, line(-1, 7, -1))
    assert found.kink.tolist() == [0, 1, 1, 0]
    assert pieces(lambda x: torch.maximum(x, 2 - x), line(0, 2)).kink.tolist() == [0]


def test_arc_lengths_count_from_the_start_of_the_path_in_units_of_input():
    path = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [3.0, -4.0]], [[1.0, 2.0]] * 4])
    found = pieces(lambda x: F.relu(x - 2), path)
    assert_close(found.arc_length, torch.tensor([2.5, 5 * 2 / 3, 7.0]))
    assert_close(found.position, torch.tensor([0.5, 2 / 3, 2.25]))


def test_random_units_in_one_dimension_follow_the_law_of_the_arctangent():
    m, end, weight, bias = 2000, 1.5, 1.3, 0.7
    network = nn.Sequential(linear(weight * torch.randn(m, 1), bias * torch.randn(m)), nn.ReLU())
    share = 2 / math.pi * math.atan(end * weight / bias)
    count = pieces(network, line(-end, end)).regions().item() - 1
    assert abs(count - m * share) < 5 * (m * share * (1 - share)) ** 0.5  # five standard errors


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_random_units_follow_the_law_of_the_arccosine(bias):
    m, path = 1500, torch.randn(4, 2, 6)
    network = nn.Sequential(linear(torch.randn(m, 6), bias * torch.randn(m)), nn.ReLU())
    covariance = path @ path.mT + bias**2
    scale = (covariance[:, 0, 0] * covariance[:, 1, 1]).sqrt()
    share = torch.arccos(covariance[:, 0, 1] / scale) / math.pi
    off = (pieces(network, path).regions() - 1 - m * share).abs()
    assert (off < 5 * (m * share * (1 - share)).sqrt()).all()  # five standard errors


# Slow oracle


@pytest.mark.parametrize("widths", [(3, 20, 2), (5, 16, 16, 2), (4, 12, 12, 12, 12, 3)])
def test_it_equals_a_layer_sweep(widths):
    network = mlp(*widths)
    path = 3 * torch.randn(8, 2, widths[0])
    found = pieces(network, path)
    for index, (a, b) in enumerate(path.numpy()):
        knots = sweep(network, a, b)
        assert found.regions()[index] == len(knots) + 1
        assert_close(found.position[found.path == index], torch.from_numpy(knots))


# Every architecture


class Dense(nn.Module):
    """Each block sees what all before it gave."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(2 + 2 * i, 2, 3, padding=1) for i in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = torch.cat([x, F.relu(block(x))], 1)
        return x.mean((2, 3))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        for norm in self.norms:
            nn.init.normal_(norm.running_mean)

    def forward(self, x):
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(norm(h).relu_())
        x = x + h
        return F.max_pool2d(x, 3, 2, 1).flatten(1)


class Batched(nn.Module):
    """Reads the size of the batch at the top and uses it at the end."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        n, _, length = x.shape
        h = self.conv(x).relu().permute(0, 2, 1).contiguous()
        h = self.head(h.reshape(n, length - 2, 4)).relu()
        return h.view(n, -1), h.sum(1)


class Parts(nn.Module):
    """Linear layers on samples of several dimensions, in place, and with a token in front."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.body = nn.Sequential(
            nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.ReLU(inplace=True)
        )
        self.mix = nn.Linear(4, 3)

    def forward(self, x):
        h = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        h = h + self.body(h)
        return self.mix(h).amax(1)


class Places(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x):
        h = F.relu_(self.first(x))
        h += 1.0
        h = self.second(h)
        h.mul_(2).clamp_(-1, 1)
        other = h.view(len(h), 2, 3)
        other.abs_()
        return torch.cat([h, other.flatten(1)], 1)


def convs(n):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    back = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[n - 1]
    return nn.Sequential(
        conv(2, 3, 3, stride=2, padding=1),
        norm(3),
        nn.ReLU(),
        back(3, 2, 2, stride=2),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(2 * 4**n, 3),
    )


def pools(kind, n):
    return getattr(nn, f"{kind}Pool{n}d")


ARCHITECTURES = {
    "residual": (Residual, (4,)),
    "dense": (Dense, (2, 4, 4)),
    "block": (Block, (3, 5, 5)),
    "batched": (Batched, (2, 6)),
    "parts": (Parts, (3, 4)),
    "in place": (Places, (4,)),
    "prelu": (Prelu, (4,)),
    "weight norm": (Normed, (4,)),
    "shared": (Tied, (4,)),
    "scripted": (lambda: torch.jit.script(mlp(4, 8, 8, 3)), (4,)),
    **{f"conv {n}d": (lambda n=n: convs(n), (2, *[4] * n)) for n in (1, 2, 3)},
    **{
        f"max pool {n}d": (
            lambda n=n: nn.Sequential(pools("Max", n)(3, 2, 1), pools("Avg", n)(2, 1), nn.ReLU()),
            (2, *[6, 5, 4][:n]),
        )
        for n in (1, 2, 3)
    },
    **{
        f"adaptive pool {n}d": (
            lambda n=n: nn.Sequential(
                pools("AdaptiveMax", n)(3), nn.LeakyReLU(0.2), pools("AdaptiveAvg", n)(2)
            ),
            (2, *[5, 4, 4][:n]),
        )
        for n in (1, 2, 3)
    },
    "dilated max pool": (lambda: nn.MaxPool2d(2, 1, 0, 2, ceil_mode=True), (1, 5, 5)),
    "max pool without channels": (lambda: nn.MaxPool2d(2), (4, 4)),
    "up": (
        lambda: nn.Sequential(
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(1, 2, 3),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.ReflectionPad2d(1),
            nn.ReplicationPad2d(1),
            nn.ZeroPad2d(1),
            nn.Conv2d(2, 1, 3, stride=3),
            nn.ReLU(),
        ),
        (1, 3, 3),
    ),
    "shuffles": (
        lambda: nn.Sequential(
            nn.PixelShuffle(2),
            nn.Conv2d(1, 4, 1),
            nn.ReLU(),
            nn.ChannelShuffle(2),
            nn.PixelUnshuffle(2),
            nn.Hardtanh(),
            nn.Unfold(1),
            nn.Unflatten(2, (1, -1)),
            nn.ReLU6(),
        ),
        (4, 2, 2),
    ),
    "flat and in place": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(True), nn.Linear(18, 3)),
        (1, 5, 5),
    ),
}


@pytest.mark.parametrize(("make", "shape"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_piece_is_affine_and_sampling_finds_none_that_lacks(make, shape):
    network = make().eval()
    confirm(network, 2 * torch.randn(3, 3, *shape))


def test_sites_have_the_names_that_transitions_give_them():
    network, path = Block().eval(), torch.randn(2, 2, 3, 5, 5)
    assert list(transitions_per_site(network, path)) == list(pieces(network, path).sites)


STEPS = {
    "linear": lambda w: nn.Linear(w, w),
    "relu": lambda _: nn.ReLU(),
    "relu in place": lambda w: nn.ReLU(inplace=True),
    "leaky": lambda w: nn.LeakyReLU(0.3),
    "prelu": lambda w: nn.PReLU(w),  # noqa: PLW0108
    "hardtanh": lambda w: nn.Hardtanh(),
    "relu6": lambda w: nn.ReLU6(),
    "softshrink": lambda w: nn.Softshrink(),
    "norm": lambda w: nn.BatchNorm1d(w),  # noqa: PLW0108
    "drop": lambda w: nn.Dropout(),
    "residual": lambda w: Wrapped(nn.Linear(w, w), lambda x, f: x + f(x).relu()),
    "shared": lambda w: Wrapped(nn.Linear(w, w), lambda x, f: f(f(x).abs())),
    "cat": lambda w: Wrapped(
        nn.Linear(2 * w, w), lambda x, f: f(torch.cat([x, x.clamp(-1, 0.5)], 1))
    ),
    "conv": lambda w: Wrapped(nn.Conv1d(1, 2, 3, padding=1), lambda x, f: f(x[:, None]).amax(1)),
    "max pool": lambda w: Wrapped(nn.MaxPool1d(3, 1, 1), lambda x, f: f(x[:, None]).squeeze(1)),
    "mean": lambda w: Wrapped(nn.AvgPool1d(3, 1, 1), lambda x, f: f(x[:, None]).flatten(1)),
    "maximum": lambda w: Wrapped(nn.Linear(w, w), lambda x, f: torch.maximum(x, f(x))),
    "minimum": lambda w: Wrapped(nn.Linear(w, w), lambda x, f: torch.minimum(f(x), x.flip(1))),
    "in parts": lambda w: Wrapped(
        nn.Linear(2, 2), lambda x, f: f(x.unflatten(1, (-1, 2))).flatten(1)
    ),
}


class Wrapped(nn.Module):
    def __init__(self, part, call):
        super().__init__()
        self.part, self.call = part, call

    def forward(self, x):
        return self.call(x, self.part)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6), st.integers(0, 1000))
def test_random_architectures_are_cut_into_affine_pieces(steps, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 6), *[STEPS[s](6) for s in steps], nn.Linear(6, 2))
    confirm(network.eval(), 3 * torch.randn(2, 2, 3), least=1)


# Invariances


def deep(seed=0):
    torch.manual_seed(seed)
    return mlp(3, 12, 12, 2), 3 * torch.randn(4, 3, 3)


@given(st.integers(0, 1000))
def test_direction_does_not_matter(seed):
    network, path = deep(seed)
    there, back = pieces(network, path), pieces(network, path.flip(1))
    assert_close(there.transitions(), back.transitions())
    for index in range(len(path)):
        mirrored = 2 - back.position[back.path == index].flip(0)
        assert_close(there.position[there.path == index], mirrored)


@given(st.integers(0, 1000), st.floats(0.001, 0.999))
def test_cutting_a_path_anywhere_adds_up(seed, share):
    network, path = deep(seed)
    a, b = path[:, 0], path[:, 1]
    middle = torch.lerp(a, b, share)
    whole = pieces(network, torch.stack([a, b], 1)).transitions()
    assert_close(pieces(network, torch.stack([a, middle, b], 1)).transitions(), whole)
    parts = [
        pieces(network, torch.stack(ends, 1)).transitions() for ends in pairwise([a, middle, b])
    ]
    assert_close(sum(parts), whole)


def test_a_vertex_on_a_boundary_changes_nothing():
    network = Staircase(3)
    for vertices in [(0, 4), (0, 1, 4), (0, 1, 2, 3, 4), (0, 2, 2, 4), (4, 3, 0)]:
        found = pieces(network, line(*vertices))
        assert (found.transitions().item(), found.regions().item()) == (3, 4)


def test_the_ends_of_a_path_are_not_inside_it():
    assert pieces(torch.relu, line(0, 1)).regions().item() == 1
    assert pieces(torch.relu, line(-1, 0)).regions().item() == 1


@given(st.integers(0, 1000))
def test_order_and_scale_of_hidden_units_do_not_matter(seed):
    network, path = deep(seed)
    before = pieces(network, path)
    order, scale = torch.randperm(12), torch.rand(12) + 0.1
    network[0].weight.data = (scale[:, None] * network[0].weight)[order]
    network[0].bias.data = (scale * network[0].bias)[order]
    network[2].weight.data = (network[2].weight / scale)[:, order]
    after = pieces(network, path)
    assert_close(after.position, before.position)
    assert_close(after.regions(), before.regions())


def test_each_path_is_cut_by_itself():
    network, path = deep()
    alone = [pieces(network, one[None]) for one in path]
    together = pieces(network, path)
    assert_close(together.position, torch.cat([p.position for p in alone]))
    assert_close(together.regions(), torch.cat([p.regions() for p in alone]))


def test_repeated_vertices_count_once_and_keep_their_places():
    found = pieces(torch.relu, line(-1, -1, -1, 1, 1, -3))
    assert_close(found.position, torch.tensor([2.5, 4.25]))
    assert_close(pieces(torch.relu, line(-1, 0, 0, 0, 1)).transitions(), torch.tensor([1]))
    best = pieces(lambda x: torch.cat([x, -x], 1).amax(1), line(-1, 0, 0, 0, 1))
    assert_close(best.transitions(), torch.tensor([1]))


def test_a_path_of_no_length_has_one_region():
    network = mlp(3, 8, 2)
    assert pieces(network, torch.randn(2, 1, 3).expand(2, 4, 3)).regions().tolist() == [1, 1]
    assert pieces(network, torch.randn(2, 1, 3)).regions().tolist() == [1, 1]


def test_a_unit_that_is_always_zero_has_no_knot():
    network = nn.Sequential(linear(torch.zeros(4, 3)), nn.ReLU())
    assert pieces(network, torch.randn(2, 3, 3)).transitions().tolist() == [0, 0]
    assert pieces(lambda x: (0 * x).amax(1), torch.randn(2, 3, 3)).transitions().tolist() == [0, 0]


def test_touching_a_kink_is_no_knot():
    assert pieces(torch.relu, line(-1, 0, -1)).transitions().item() == 0
    assert pieces(lambda x: torch.cat([x, 0 * x], 1).amax(1), line(-1, 0, -1)).regions().item() == 1


def test_twin_units_bend_at_one_boundary_twice():
    found = pieces(twins, line(-1, 2))
    assert (found.regions().item(), found.transitions().item()) == (2, 2)
    assert found.unit.tolist() == [0, 1]


def twins(x):
    return torch.cat([x, -3 * x], 1).relu()


def test_a_network_in_single_precision_is_cut_like_one_in_double():
    double, path = deep()
    single = copy.deepcopy(double).float()
    double.load_state_dict(single.state_dict())
    versions = [p._version for p in single.parameters()]
    found = pieces(single, path.float())
    assert found.position.dtype == torch.float64
    assert_close(found.position, pieces(double, path.float().double()).position)
    assert_close(pieces(lambda x: single(x), path.float()).position, found.position)  # noqa: PLW0108 no module
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert [p._version for p in single.parameters()] == versions
    assert pieces(single, path, dtype=torch.float32).position.dtype == torch.float32


# Memory and what is measured


@pytest.mark.parametrize("budget", [20_000, 100_000])
def test_a_small_budget_finds_the_same(budget):
    for network, path in [deep(), (Block().eval(), torch.randn(2, 2, 3, 5, 5))]:
        all_at_once = pieces(network, path, integrate=length_of)
        in_parts = pieces(network, path, integrate=length_of, budget=budget)
        assert_close(in_parts.position, all_at_once.position)
        assert_close(in_parts.transitions(), all_at_once.transitions())
        assert_close(in_parts.site, all_at_once.site)
        assert_close(in_parts.integrals, all_at_once.integrals)


def test_lengths_are_those_of_the_path_with_all_knots():
    network, path = deep()
    found = pieces(network, path, integrate=length_of)
    assert list(found.integrals) == ["input", "1", "3", "output"]
    for index in range(len(path)):
        position = torch.cat([torch.arange(3.0), found.position[found.path == index]]).sort().values
        x = points_at(path, torch.full_like(position, index).long(), position)
        for name, values in {"input": x, "1": network[:2](x), "output": network(x)}.items():
            expected = lengths(values).sum()
            assert_close(found.integrals[name][index], expected, rtol=1e-9, atol=0)


def test_a_length_is_what_many_vertices_come_to():
    network, path = deep()
    expected = torch.stack([lengths(network(x)).sum() for x in dense(path, 4000)])
    measured = pieces(network, path, integrate=length_of).integrals["output"]
    assert_close(measured, expected, rtol=1e-4, atol=0)  # between vertices it cuts corners


@pytest.mark.parametrize("budget", [5_000, 10**9])
def test_values_to_keep_are_those_of_the_network_at_the_knots(budget):
    for network, path in [deep(), (Residual(), torch.randn(3, 4, 4))]:
        sites = pieces(network, path).sites
        found = pieces(network, path, keep=["input", *sites, "output"], budget=budget)
        x = points_at(path, found.path, found.position)
        assert_close(found.values["input"], x)
        assert_close(found.values["output"], network(x))
        for name, site in find_sites(network, x).items():
            assert_close(found.values[name], site.value)


def test_values_to_keep_stay_where_the_network_writes_over_them():
    def network(x):
        h = torch.relu_(x.clone())
        h += 1
        return h.clamp_(max=3)

    found = pieces(network, line(-1, 4), keep=["relu", "clamp"])
    assert_close(found.values["relu"].flatten(), torch.tensor([0.0, 2.0]))
    assert_close(found.values["clamp"].flatten(), torch.tensor([1.0, 3.0]))


def test_nothing_is_kept_of_a_site_that_is_not_there():
    with pytest.raises(ValueError, match=r"^keep has 'rule', expected some of input, output, relu"):
        pieces(torch.relu, line(-1, 4), keep=["rule"])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_works_in_every_mode_of_autograd(mode):
    network, path = nn.Sequential(nn.ReLU(inplace=True), mlp(3, 8, 2)), torch.randn(2, 4, 3)
    expected = pieces(network, path)
    with mode():
        assert_close(pieces(network, path + 0).position, expected.position)


# No trace


def fails(x):
    raise RuntimeError("from within")


@pytest.mark.parametrize(
    "network",
    [mlp(3, 4, 2), nn.Tanh(), Wrapped(nn.Linear(3, 3), lambda *_: fails(0))],
    ids=["works", "refused", "fails"],
)
def test_nothing_is_left_behind(network):
    network.train()
    hooks = (len(global_hooks._global_forward_hooks), len(global_hooks._global_forward_pre_hooks))
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    path = torch.randn(2, 3, 3)
    states, kept = (torch.get_rng_state(), *states[1:]), path.clone()
    parameters = copy.deepcopy(network.state_dict())
    with contextlib.suppress(ValueError, RuntimeError):
        pieces(network, path)
    assert torch.equal(path, kept)
    assert network.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    now = (len(global_hooks._global_forward_hooks), len(global_hooks._global_forward_pre_hooks))
    assert now == hooks
    assert torch.is_grad_enabled()
    assert_close(network.state_dict(), parameters)
    assert all(p.grad is None for p in network.parameters())
    with observing(network):
        network.eval() and torch.relu(path)  # no mode is left open that would refuse


# Errors

BENT_MESSAGE = (
    r"is not (known to be |)(piecewise linear|continuous), so it has no exact regions: "
    r".*use Transitions"
)
BENT = {
    "softmax": (lambda x: x.softmax(1), "softmax"),
    "log_softmax": (lambda x: F.log_softmax(x, 1), "log_softmax"),
    "layer norm": (lambda x: F.layer_norm(x, (4,)), "native_layer_norm"),
    "gelu": (F.gelu, "gelu"),
    "tanh": (torch.tanh, "tanh"),
    "product": (lambda x: x * x.relu(), "mul"),
    "matrix product": (lambda x: x[:, None] @ x[:, :, None], "bmm"),
    "prelu of a slope that depends on x": (
        lambda x: torch.ops.aten._prelu_kernel(x, 2 * x),
        "prelu_kernel",
    ),
    "square": (lambda x: x**2, "pow"),
    "division": (lambda x: 1 / x, "reciprocal"),
    "norm": (lambda x: x.norm(dim=1), "linalg_vector_norm"),
    "batch norm in train mode": (
        lambda x: F.batch_norm(x, None, None, training=True),
        "native_batch_norm",
    ),
    "dropout in train mode": (F.dropout, "bernoulli"),
    "comparison": (lambda x: torch.where(x > 0, x, 1.0), "gt"),
    "gate": (lambda x: x * (x > 0.1), "gt"),
    "sign": (torch.sign, "sign"),
    "round": (torch.round, "round"),
    "hardshrink": (F.hardshrink, "hardshrink"),
    "hardswish": (F.hardswish, "hardswish"),
    "threshold with a jump": (lambda x: F.threshold(x, 1, 0), "threshold"),
    "clamp between tensors": (lambda x: x.clamp(torch.zeros(4), torch.ones(4)), "clamp"),
    "argmax": (lambda x: x.argmax(1), "argmax"),
    "fractional max pool": (
        lambda x: F.fractional_max_pool2d(x.view(-1, 1, 2, 2), 1, output_size=1),
        "fractional_max_pool2d",
    ),
}


@pytest.mark.parametrize(("network", "operation"), BENT.values(), ids=BENT)
def test_what_is_not_piecewise_linear_is_refused(network, operation):
    with pytest.raises(ValueError, match=rf"site .* \({operation}\) {BENT_MESSAGE}"):
        pieces(network, torch.randn(2, 3, 4))


def test_a_network_that_is_being_trained_is_told_to_be_evaluated():
    with pytest.raises(
        ValueError,
        match=r"^site '0' \(native_batch_norm\) .*: put the network in eval mode, or use",
    ):
        pieces(nn.Sequential(nn.BatchNorm1d(3)), torch.randn(2, 3, 3))


def test_the_refused_site_is_named():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    with pytest.raises(
        ValueError, match=rf"site '2.1' \(tanh\) {BENT_MESSAGE} or LANNComplexity\.$"
    ):
        pieces(network, torch.randn(2, 3, 4))


MIXING = {
    "sum": (lambda x: x - x.sum(0), "sum"),
    "mean": (lambda x: x - x.mean(), "mean"),
    "t": (lambda x: x.t(), "t"),
    "slice": (lambda x: x[::2], "slice"),
    "flip": (lambda x: x.flip(0), "flip"),
    "cat": (lambda x: torch.cat([x, x]), "cat"),
    "repeat": (lambda x: x.repeat(2, 1), "repeat"),
    "max over samples": (lambda x: x - x.max(0).values, "max"),
    "max over all": (lambda x: x - x.max(), "max"),
    "amax over all": (lambda x: x - x.amax(), "amax"),
    "view": (lambda x: x.relu().view(1, -1), "view"),
    "control flow": (lambda x: x if x.sum() > 0 else 2 * x, "sum"),
    "one number": (lambda x: x * x[0, 0].item(), "select"),
}


@pytest.mark.parametrize(("network", "operation"), MIXING.values(), ids=MIXING)
def test_what_mixes_samples_is_refused(network, operation):
    message = (
        rf"site '{operation}' mixes the samples of a batch, or is not known to keep them apart,"
    )
    with pytest.raises(ValueError, match=message):
        pieces(network, torch.randn(2, 3, 4))


CHOOSING = {
    "item": (lambda x: x * x.item(), "local_scalar_dense", (1, 1, 1)),
    "control flow": (lambda x: -x if x else x.abs(), "local_scalar_dense", (1, 1, 1)),
    "equality": (lambda x: x.masked_fill(x != 0, 1.0), "ne", (1, 2, 3)),
    "integers": (lambda x: x.long() + x, "to_copy", (1, 2, 3)),
    "noise": (lambda x: x + torch.rand_like(x), "rand_like", (1, 2, 3)),
    "winner": (lambda x: x * F.one_hot(x.max(1).indices, 3), "local_scalar_dense", (1, 2, 3)),
    "winner compared": (lambda x: x * (x.max(1, True).indices == 1), "mul", (1, 2, 3)),
    "gathering": (lambda x: x.gather(1, x.max(1, True).indices + 0), "gather", (1, 2, 3)),
    "casting": (lambda x: x + x.max(1, True).indices.to(x.dtype), "to_copy", (1, 2, 3)),
}


@pytest.mark.parametrize(("network", "operation", "shape"), CHOOSING.values(), ids=CHOOSING)
def test_what_decides_by_its_input_or_by_chance_is_refused(network, operation, shape):
    message = f"'{operation}' lets the network decide by its input, or by chance, what it computes"
    with pytest.raises(ValueError, match=message):
        pieces(network, torch.randn(shape))


def test_a_site_has_regions_of_its_own():
    network, path = mlp(3, 8, 8, 2), torch.randn(4, 2, 3)
    found = pieces(network, path)
    assert_close(found.regions("1"), pieces(network[:2], path).regions())
    assert_close(found.regions("1") + found.regions("3") - 1, found.regions())
    assert pieces(lambda x: F.relu(x + 9), line(0, 1)).regions("relu").tolist() == [1]


@pytest.mark.parametrize("padding", [(2, 0, 0, 1), (1, 1, 1, 1)])
def test_circular_padding_wraps_around(padding):
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")

    def network(x):
        return torch.relu(conv(F.pad(x, padding, mode="circular"))).flatten(1)

    confirm(network, torch.randn(2, 2, 1, 4, 4))


@pytest.mark.parametrize(
    "reshape",
    [
        lambda h, n: h.reshape(n, 6),
        lambda h, n: h.reshape((n, 6)),
        lambda h, n: torch.reshape(h, (n, 6)),
        lambda h, n: torch.reshape(h, shape=(n, 6)),
        lambda h, n: h.reshape(shape=(n, -1)),
        lambda h, n: h.reshape([n, -1]),
        lambda h, n: h.contiguous().view(n, 6),
        lambda h, n: h.sum((1, 2)).reshape(n)[:, None] * torch.ones(6),
    ],
)
def test_a_batch_size_read_at_the_top_may_shape_what_was_permuted(reshape):
    layer, path = nn.Linear(6, 6), torch.randn(3, 2, 6)

    def network(x):
        n = len(x)
        h = torch.relu(layer(x)).view(n, 2, 3).permute(0, 2, 1)
        return torch.relu(reshape(h, n))

    expected = pieces(lambda x: torch.relu(torch.relu(layer(x))), path)
    assert_close(pieces(network, path).regions(), expected.regions())


def test_a_batch_size_that_cannot_be_corrected_is_named_with_what_to_do():
    layer = nn.Linear(6, 6)

    def network(x):
        padding = torch.arange(2.0 * len(x)).reshape(len(x), 2)
        return torch.cat([torch.relu(layer(x)), padding], 1)

    with pytest.raises(
        ValueError, match="it keeps the batch size that it read before: use -1 for it, or use Tr"
    ):
        pieces(network, torch.randn(3, 2, 6))


def test_an_error_of_the_network_itself_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shape"):
        pieces(nn.Linear(5, 2), torch.randn(3, 2, 6))


@pytest.mark.parametrize(
    "with_padding",
    [
        lambda h, zeros: h + zeros,
        lambda h, zeros: torch.cat([h, zeros], 1),
        lambda h, zeros: torch.stack([zeros, h], 1).flatten(1),
        lambda h, zeros: torch.where(zeros == 0, h, 2 * h),
    ],
)
def test_constants_that_are_equal_for_all_samples_may_be_made_before(with_padding):
    layer, path = nn.Linear(6, 6), torch.randn(3, 2, 6)

    def network(x):
        zeros = torch.zeros(len(x), 6)
        return torch.relu(with_padding(torch.relu(layer(x)), zeros) - 0.1)

    def expected(x):
        h = torch.relu(layer(x))
        return torch.relu(with_padding(h, torch.zeros(len(h), 6)) - 0.1)

    assert_close(pieces(network, path).regions(), pieces(expected, path).regions())
