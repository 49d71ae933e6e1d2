"""Networks by name on which exact measures were once wrong: now right, or refused in a sentence."""

import copy
import math

import pytest
import torch
from certificate import check_pieces, codes_of
from torch import nn
from torch.nn import functional as F  # noqa: N812 torch's own habit
from verdicts import is_advice, judge

from lightning_effcx.functional import (
    boundary_distance,
    jacobian_norm,
    lann_complexity,
    linear_deviation,
    linear_regions,
    trajectory_length,
    transitions,
)
from lightning_effcx.piecewise import pieces

EXACT = {"regions", "distance", "lengths", "deviation"}
W = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
V = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MASK = torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.bool)
LOW = {"-inf": -math.inf, "-1e30": -1e30, "finfo.min": torch.finfo(torch.float32).min}


def lin(x):
    return x @ W.T


def hidden(x):
    return torch.relu(x @ V - 0.1)


def column(y):
    return y.reshape(len(y), -1)


def draw(d=4, points=2, seed=3):
    random = torch.Generator().manual_seed(seed)
    path = 2 * torch.randn(3, points, d, generator=random, dtype=torch.float64)
    return path, torch.randn(2, d, generator=random, dtype=torch.float64)


def repeat(x, change, times=20):
    for _ in range(times):
        x = change(x)
    return x


def on_low_values(low):
    """Maxima of windows some of whose elements can never win."""
    return {
        "amax": lambda x: lin(x).masked_fill(MASK, low).amax(1, keepdim=True),
        "max": lambda x: lin(x).masked_fill(MASK, low).max(1, keepdim=True).values,
        "max_pool1d": lambda x: F.max_pool1d(lin(x).masked_fill(MASK, low)[:, None], 3).flatten(1),
        "padded": lambda x: F.max_pool1d(F.pad(lin(x)[:, None], (1, 1), value=low), 2).flatten(1),
        "behind a kink": lambda x: torch.relu(lin(x)).masked_fill(MASK, low).amax(1, keepdim=True),
        "smallest": lambda x: (-lin(x)).masked_fill(MASK, -low).amin(1, keepdim=True),
    }


def rrelu(x):
    return x + F.rrelu(x @ V, training=False) @ V


def write_slice(x):
    h = x @ V
    h[:, :2] = torch.relu(h[:, :2])
    h[:, 2:] *= 2.0
    return torch.relu(h)


def write_masked(x):
    h = x @ V
    h[h < 0] = 0.0
    return h


RIGHT = {
    **{
        f"{form} of {name}": network
        for name, low in LOW.items()
        for form, network in on_low_values(low).items()
    },
    "small weights beside -1e9": lambda x: (
        (1e-3 * lin(x)).masked_fill(MASK, -1e9).amax(1, keepdim=True)
    ),
    "rrelu in eval mode in a residual network": rrelu,
    "relu of softshrink": lambda x: torch.relu(F.softshrink(x, 0.1)),
    "clamp at -2e7": lambda x: torch.relu(x.clamp(min=-2e7) - 0.5),
    "rot90": lambda x: torch.rot90(hidden(x).view(-1, 2, 2), 1, (1, 2)).flatten(1),
    "einsum": lambda x: torch.einsum("nd,kd->nk", hidden(x), W[:, :4]),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x) @ V,
    "product with a mask": lambda x: (x @ V) * (x @ V > 0),
    "masked_fill below zero": lambda x: (x @ V).masked_fill(x @ V < 0, 0.0),
    "sort": lambda x: hidden(x).sort(1).values,
    "median": lambda x: (x @ V).median(1, keepdim=True).values,
    "topk": lambda x: (x @ V).topk(2, 1).values,
    "kthvalue": lambda x: (x @ V).kthvalue(2, 1, keepdim=True).values,
    "writes to slices": write_slice,
    "write to a mask": write_masked,
    "fft of real inputs": lambda x: torch.view_as_real(torch.fft.fft(hidden(x))).flatten(1),
    "rfft and back": lambda x: torch.relu(torch.fft.irfft(torch.fft.rfft(hidden(x))) - 0.1),
    "reshape by keyword": lambda x: torch.relu(torch.reshape(input=hidden(x), shape=(-1, 4)) - 0.1),
}


ON_THEIR_KINKS = {
    "units that converge to their kink": lambda x: repeat(
        x, lambda d: d - torch.relu(d - d.roll(1, 1) - V[0].abs())
    ),
    "minimum repeated after it has converged": lambda x: repeat(
        x, lambda d: torch.minimum(d, d.roll(1, 1)), 12
    ),
    "flat image minus its average": lambda x: torch.relu(
        x[:, :1].expand(-1, 9).reshape(-1, 1, 3, 3)
        - F.avg_pool2d(
            x[:, :1].expand(-1, 9).reshape(-1, 1, 3, 3), 3, 1, 1, count_include_pad=False
        )
        + x[:, 1:2, None, None].abs()
    ).flatten(1),
}


@pytest.mark.parametrize("name", ON_THEIR_KINKS)
def test_units_that_lie_on_their_kink_up_to_rounding_have_no_knots(name):
    network = ON_THEIR_KINKS[name]
    found = list(judge(network, *draw(), codes=codes_of(network, slack=1e-11)))
    assert {each.measure: each for each in found if each.kind != "equal"} == {}


@pytest.mark.parametrize("name", RIGHT)
def test_exact_measures_of_a_network_are_right(name):
    found = list(judge(RIGHT[name], *draw()))
    assert {each.measure: each for each in found if each.kind != "equal"} == {}


def buffer_of_noise(x):
    return torch.relu(x + torch.randn(x.shape, dtype=x.dtype))


def write_first(x):
    h = x * 1.0
    h[[0]] = 0.0
    return torch.relu(h)


def masked_scatter(x):
    h = torch.relu(x @ V)
    return h.masked_scatter(h.detach() > -1, torch.arange(1000, dtype=h.dtype)) + h


MIXING = {
    "fft along dimension 0": lambda x: torch.fft.fft(torch.relu(x), dim=0).real,
    "rfft2": lambda x: torch.fft.rfft2(torch.relu(x)).real,
    "tril": lambda x: F.leaky_relu(x @ V).tril(),
    "triu": lambda x: F.leaky_relu(x @ V).triu(),
    "diagonal": lambda x: torch.relu(x) + torch.relu(x).diagonal().sum(),
    "pad that moves rows": lambda x: F.pad(torch.relu(x @ V), (0, 0, 1, -1)),
    "write to the first row": write_first,
    "take": lambda x: x + torch.relu(x).take(torch.tensor([0, 1, 2, 3])),
    "masked_scatter": masked_scatter,
    "as_strided": lambda x: x + torch.relu(x).as_strided((1, 4), (4, 1)),
    "addbmm": lambda x: x + torch.addbmm(x[:1] * 0, torch.relu(x)[:, None], V.expand(len(x), 4, 4)),
    "division by the number of samples": lambda x: torch.relu(x) / x.shape[0],
    "noise of the shape": buffer_of_noise,
    "dropout in training": lambda x: torch.native_dropout(torch.relu(x), 0.5, True)[0],
    "rrelu in training": lambda x: F.rrelu(x @ V, training=True),
    "mean of the batch": lambda x: torch.relu(x - x.mean(0)),
    "softmax over samples": lambda x: torch.relu(x).softmax(0),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_network_that_mixes_samples_or_is_random_is_refused_by_all_measures(name):
    found = list(judge(MIXING[name], *draw()))
    assert {each.measure: each for each in found if each.kind != "refused"} == {}


REFUSED = {
    "half precision inside": lambda x: torch.relu(x @ V).half().double(),
    "bfloat16 inside": lambda x: torch.relu(x @ V).bfloat16().double(),
    "softsign": lambda x: F.softsign(x @ V),
    "product with another mask": lambda x: (x @ V) * (x @ V > 1),
    "where it jumps": lambda x: torch.where(x > 0, x, 1.0),
    "masked_fill where it jumps": lambda x: (x @ V).masked_fill(x @ V < 1, 0.0),
    "rounding": lambda x: (x @ V).round(),
    "hardshrink": lambda x: F.hardshrink(x @ V),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_continuous_piecewise_linear_function_has_no_exact_measures(name):
    found = {each.measure: each for each in judge(REFUSED[name], *draw())}
    assert {each for each in EXACT if found[each].kind != "refused"} == set()
    assert {each for each in found.values() if each.kind in {"wrong", "traceback"}} == set()


def through_parameter(x):
    return torch.relu(nn.Parameter(x) @ V)


LEAVING = {
    "NumPy": lambda x: torch.from_numpy(torch.relu(x @ V).detach().numpy()) * 1.0,
    "deepcopy": lambda x: torch.relu(copy.deepcopy(x.detach()) @ V),
    "parameter": through_parameter,
    "tolist": lambda x: torch.relu(torch.tensor(x.tolist(), dtype=x.dtype) @ V),
    "complex numbers": lambda x: torch.relu((x @ V).to(torch.complex128).real),
    "complex numbers, viewed": lambda x: torch.relu(
        torch.view_as_real((x @ V).relu().cdouble()).flatten(1) - 0.1
    ),
    "labels of a loss behind a kink": lambda x: _with_loss(torch.relu(x @ V)),
    "constant behind a kink": lambda x: torch.zeros_like(torch.relu(x)).repeat(1, 2),
    "no outputs": lambda x: torch.relu(x)[:, :0],
    "index of the batch size of before": lambda x: _scattered(x, torch.relu(x @ V)),
    "operator that vmap cannot batch": lambda x: torch.vmap(lambda h: h.take(torch.arange(2)))(
        hidden(x)
    ),
    "vmap over two tensors": lambda x: torch.vmap(torch.add)(hidden(x), torch.relu(lin(x)[:, :4])),
    "batch size of before": lambda x: _scaled(x, hidden(x)),
}


def _with_loss(h):
    F.cross_entropy(h, torch.zeros(len(h), dtype=torch.long))
    return h


def _scattered(x, h):
    return torch.relu(h.scatter(1, torch.tensor([0, 2]).expand(len(x), 2), 1.0) - 0.2)


def _scaled(x, h):
    ones = torch.ones(len(x), 1, dtype=x.dtype)
    return torch.relu(ones * h - 0.1).view(len(x), -1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch, on vmap
@pytest.mark.parametrize("name", LEAVING)
def test_what_a_pass_may_lose_is_followed_or_refused(name):
    found = list(judge(LEAVING[name], *draw()))
    assert {each.measure: each for each in found if each.kind in {"wrong", "traceback"}} == {}


def time_first(steps, w):
    def network(x):
        z = (x.view(len(x), steps, -1).transpose(0, 1) @ w).relu()
        return z.transpose(0, 1).flatten(1)

    def flat(x):
        z = x.view(len(x), steps, -1).transpose(0, 1)
        z = (z.reshape(-1, z.shape[-1]) @ w).relu().view(steps, len(x), -1)
        return z.transpose(0, 1).flatten(1)

    return network, flat


@pytest.mark.parametrize("steps", [3, 8, 16, 128])
@pytest.mark.parametrize("form", [0, 1])
def test_sequences_with_time_first_have_the_transitions_of_each_path_alone(steps, form):
    w = torch.randn(2, 3, dtype=torch.float64)
    network = time_first(steps, w)[form]
    path = torch.randn(1, 8, steps * 2, dtype=torch.float64)
    path = torch.cat([path, path + 0.3])  # 16 rows
    z = path.view(2, 8, steps, 2) @ w
    expected = ((z[:, 1:] > 0) != (z[:, :-1] > 0)).flatten(1).sum(1)
    assert transitions(network, path).tolist() == expected.tolist()
    lengths = trajectory_length(network, path)
    (site,) = lengths.keys() - {"input", "output"}
    length = z.relu().flatten(2).diff(dim=1).norm(dim=2).sum(1)
    torch.testing.assert_close(lengths[site], length)


@pytest.mark.parametrize("steps", [3, 16])
@pytest.mark.parametrize("form", [0, 1])
def test_exact_measures_of_sequences_with_time_first_are_right_or_refused(steps, form):
    network = time_first(steps, torch.randn(2, 3, dtype=torch.float64))[form]
    found = list(judge(network, *draw(2 * steps)))
    assert [each for each in found if each.kind in {"wrong", "traceback"}] == []


def test_the_distance_to_a_unit_of_small_weights_beside_a_big_bias_is_right():
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-9], [1.0]]))
        layer.bias.copy_(torch.tensor([-0.15e-9, 1e6]))
    distance = boundary_distance(nn.Sequential(layer, nn.ReLU()), torch.zeros(1, 1))
    torch.testing.assert_close(distance, torch.tensor([0.15], dtype=torch.float64))


def nan_at(tensor, where):
    tensor = tensor.clone()
    tensor.view(-1)[where] = math.nan
    return tensor


@pytest.mark.parametrize("measure", [linear_regions, linear_deviation, transitions])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_paths_that_are_not_finite_are_refused(measure, value):
    path, _ = draw()
    path[1, 0, 2] = value
    with pytest.raises(ValueError, match=r"\.$") as caught:
        measure(torch.relu, path)
    assert is_advice(str(caught.value))


@pytest.mark.parametrize("measure", [linear_regions, linear_deviation])
def test_weights_that_are_nan_are_refused(measure):
    path, _ = draw()
    with pytest.raises(ValueError, match=r"\.$") as caught:
        measure(lambda x: torch.relu(x @ nan_at(V, 5)), path)
    assert is_advice(str(caught.value))


def test_the_distance_of_weights_that_are_nan_is_refused():
    with pytest.raises(ValueError, match=r"\.$") as caught:
        boundary_distance(lambda x: torch.relu(x @ nan_at(V, 5)), draw()[1])
    assert is_advice(str(caught.value))


EMPTY = {
    "no paths": torch.zeros(0, 2, 4),
    "no vertices": torch.zeros(2, 0, 4),
    "two dimensions": torch.zeros(2, 2),
    "no inputs": torch.zeros(2, 2, 0),
    "three dimensions of no paths": torch.zeros(0, 2, 1, 4),
}


@pytest.mark.parametrize("measure", [linear_regions, linear_deviation, transitions])
@pytest.mark.parametrize("name", EMPTY)
def test_paths_without_points_are_measured_or_refused_in_a_sentence(measure, name):
    try:
        measure(torch.relu, EMPTY[name])
    except (ValueError, TypeError) as error:
        assert is_advice(str(error))  # noqa: PT017 either is right


@pytest.mark.parametrize("measure", [boundary_distance, jacobian_norm])
def test_no_samples_are_refused_in_a_sentence(measure):
    with pytest.raises(ValueError, match=r"no samples.*\.$"):
        measure(torch.relu, torch.zeros(0, 4))


def images():
    torch.manual_seed(4)
    conv = nn.Conv2d(1, 2, 3)
    path = torch.randn(2, 2, 1, 5, 5)
    return conv, path


CONVOLUTIONS = {
    "scripted": lambda conv: torch.jit.script(nn.Sequential(conv, nn.ReLU(), nn.Flatten())),
    "in a lambda": lambda conv: lambda x: torch.relu(conv(x)).flatten(1),
    "its forward": lambda conv: nn.Sequential(conv, nn.ReLU(), nn.Flatten()).forward,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolutions_in_float32_are_measured_however_they_are_called(name, dtype):
    conv, path = images()
    network = CONVOLUTIONS[name](conv)
    exact = nn.Sequential(copy.deepcopy(conv).double(), nn.ReLU(), nn.Flatten())
    path = path.to(dtype)
    found = pieces(network, path, keep=["output"])
    assert list(check_pieces(exact, path.double(), found)) == []
    assert linear_regions(network, path).tolist() == found.regions().tolist()
    torch.testing.assert_close(linear_deviation(network, path), linear_deviation(exact, path))
    x = path[:, 0]
    torch.testing.assert_close(boundary_distance(network, x), boundary_distance(exact, x))


def test_outputs_in_a_tuple_are_measured_or_refused_in_a_sentence():
    path, _ = draw()
    for network in (lambda x: (torch.relu(x @ V), x), lambda x: {"a": torch.relu(x @ V)}):
        try:
            linear_deviation(network, path)
        except (ValueError, TypeError) as error:
            assert is_advice(str(error))  # noqa: PT017 either is right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_maxima_in_lower_precision_come_to_an_end(dtype):
    path, _ = draw()

    def network(x):
        z = torch.relu(x @ V.to(x.dtype))
        return torch.cat([z.view(-1, 2, 2).amax(2), F.max_pool1d(z[:, None], 2).flatten(1)], 1)

    exact = pieces(network, path).regions()
    try:
        found = pieces(network, path, dtype=dtype).regions()
    except (ValueError, TypeError) as error:
        assert is_advice(str(error))  # noqa: PT017 either is right
    else:
        assert (found - exact).abs().max() <= 2


STEPS = {
    "round": torch.round,
    "floor division": lambda z: z // 0.5,
    "heaviside": lambda z: torch.heaviside(z, torch.zeros((), dtype=z.dtype)),
}


class Steps(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, z):
        return self.step(z)


@pytest.mark.parametrize("name", STEPS)
def test_lann_of_steps_is_refused_or_keeps_its_tolerance(name):
    network = nn.Sequential(nn.Linear(4, 3), Steps(STEPS[name]), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    try:
        found = lann_complexity(network, x, tolerance=0.05)
    except (ValueError, TypeError) as error:
        assert is_advice(str(error))  # noqa: PT017 either is right
    else:
        assert found.measured_error <= 0.05
