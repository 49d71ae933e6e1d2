import math
from functools import partial
from itertools import combinations

import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import linear, mlp
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import lann_complexity
from lightning_effcx.metrics import LANNComplexity
from lightning_effcx.piecewise.lines import pieces

CONTRACTS = [
    Contract(
        LANNComplexity,
        options=[
            {"tolerance": 0.01},
            {"tolerance": 0.001, "error": "measured", "share_positions": True},
        ],
        cheap={"tolerance": 0.5},
        functions={"lann_complexity": partial(lann_complexity, tolerance=0.5)},
        words={
            ("LANNComplexity", "error"): ["propagated", "measured"],
            ("lann_complexity", "error"): ["propagated", "measured"],
        },
        moves=False,
        curved=True,
        pooled=True,
        averages=False,
        variants=True,
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


class Only(nn.Module):
    """An activation and nothing else: as many units as inputs, each an output."""

    def __init__(self, apply):
        super().__init__()
        self.apply_ = apply

    def forward(self, x):
        return self.apply_(x)


def as_function(network):
    """Something that maps inputs to outputs and does not tell its weights."""
    return lambda x: network(x) + 0


def uniform(reach, samples=20_001):
    return torch.linspace(-reach, reach, samples)[:, None]


# By hand


@pytest.mark.parametrize("a", [0.5, 2.0, 5.0])
def test_one_tangent_of_tanh_has_the_error_of_the_integral(a):
    found = lann_complexity(Only(torch.tanh), uniform(a), tolerance=10.0)
    expected = a / 2 - math.log(math.cosh(a)) / a  # the mean of |z - tanh z|
    assert_close(found.propagated_error, expected, rtol=1e-3, atol=1e-9)  # of a sum for an integral
    assert_close(found.measured_error, expected, rtol=1e-3, atol=1e-9)
    assert found.complexity == 0
    assert found.tangents["tanh"][0].tolist() == [0.0]


@pytest.mark.parametrize("a", [0.5, 2.0, 5.0])
def test_one_tangent_of_a_sigmoid_has_the_error_of_the_integral(a):
    found = lann_complexity(Only(torch.sigmoid), uniform(a), tolerance=10.0)
    expected = 0.5 + a / 8 - (math.log(1 + math.exp(a)) - math.log(2)) / a
    assert_close(found.propagated_error, expected, rtol=1e-3, atol=1e-9)
    assert found.tangents["sigmoid"][0].tolist() == [0.0]


def test_six_tangents_of_tanh_are_where_a_fine_search_finds_them():
    # Each maximises the integral of what it gains, found on a grid of step 1e-4 by itself: the
    # first at ±1.366, then ±0.740, then one of ±1.774.
    found = lann_complexity(Only(torch.tanh), uniform(2.0), tolerance=0.01, candidates=4001)
    points = found.tangents["tanh"][0]
    assert_close(
        points.abs().sort().values,
        torch.tensor([0, 0.740, 0.740, 1.366, 1.366, 1.774]),
        rtol=0,
        atol=1.5e-3,
    )
    assert_close(points[points.abs() < 1.5].sum(), torch.tensor(0.0), rtol=0, atol=1e-9)
    assert found.pieces["tanh"].tolist() == [6]
    assert_close(found.complexity, math.log(6))
    assert_close(found.propagated_error, found.measured_error)  # nothing to cancel


def test_a_coarser_search_finds_as_many_tangents_close_by_and_does_no_better():
    found = lann_complexity(Only(torch.tanh), uniform(2.0), tolerance=0.01, candidates=4001)
    coarse = torch.tensor([0, -0.729, 0.729, -1.354, 1.354, -1.755])
    z = uniform(2.0)
    tangents = coarse.tanh() + (1 - coarse.tanh() ** 2) * (z - coarse)
    same_side = (z * coarse >= 0).to(z) * (tangents - z.tanh()).abs() + (z * coarse < 0) * 9.0
    error = same_side.amin(1).mean().item()
    assert found.measured_error <= error <= 0.01
    points = found.tangents["tanh"][0].abs().sort().values
    assert_close(points, coarse.abs().sort().values, rtol=0, atol=0.02)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus, nn.Mish])
@pytest.mark.parametrize("error", ["propagated", "measured"])
def test_a_network_that_is_nearly_linear_is_not_complex(activation, error):
    network, x = mlp(3, 8, 8, 2, activation=activation), torch.randn(30, 3)
    for p in network.parameters():
        p.data *= 1e-3
    found = lann_complexity(network, x, error=error)
    assert found.complexity == 0
    assert all((k == 1).all() for k in found.pieces.values())
    assert found.measured_error < 1e-3


def test_the_complexity_is_that_of_the_pieces_and_the_inputs():
    network, x = mlp(3, 5, 4, 2, activation=nn.Tanh), 2 * torch.randn(30, 3)
    found = lann_complexity(network, x, tolerance=0.05)
    layers = [sum(k.tolist()) - len(k) + 1 for k in found.pieces.values()]
    assert_close(found.complexity_per_input, sum(math.log(layer) for layer in layers))
    assert_close(found.complexity, 3 * found.complexity_per_input)
    for site, k in found.pieces.items():
        assert [len(points) for points in found.tangents[site]] == k.tolist()


def test_kinks_count_with_their_own_pieces():
    network = nn.Sequential(
        nn.Linear(4, 16),
        nn.Tanh(),
        nn.Hardtanh(),
        nn.Unflatten(1, (1, 4, 4)),
        nn.MaxPool2d(3, stride=1),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )
    found = lann_complexity(network, torch.randn(20, 4), error="measured", tolerance=9.0)
    assert {site: k.tolist() for site, k in found.pieces.items()} == {
        "1": [1] * 16,
        "2": [3] * 16,
        "4": [9] * 4,
        "5": [4],
    }
    assert [*found.tangents] == ["1"]
    assert_close(found.complexity, 4 * (math.log(33) + math.log(33) + math.log(4)))


# Regions


def crossed(lann, start, end):
    return int(pieces(lann.network, torch.stack([start, end])[None]).regions())


@pytest.mark.parametrize(
    "activation", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.Softplus]
)
def test_one_layer_of_one_input_has_exactly_as_many_regions_as_the_bound(activation):
    network, x = mlp(1, 6, 2, activation=activation), uniform(3.0, 200)
    found = lann_complexity(network, x, tolerance=0.02)
    (k,) = found.pieces.values()
    bound = int(k.sum()) - len(k) + 1
    assert bound > 1
    assert crossed(found, torch.tensor([-1e4]), torch.tensor([1e4])) == bound
    assert_close(found.complexity, math.log(bound))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.SELU])
def test_the_regions_on_a_line_never_exceed_the_bound(activation):
    network, x = mlp(3, 6, 5, 4, 2, activation=activation), 2 * torch.randn(60, 3)
    found = lann_complexity(network, x, tolerance=0.05)
    for _ in range(5):
        direction = torch.randn(3)
        regions = crossed(found, -100 * direction, 100 * direction)
        assert 1 < regions <= math.exp(found.complexity_per_input) * (1 + 1e-9)


def test_one_layer_of_two_inputs_has_as_many_regions_as_parallel_lines_make():
    # Knots of a unit are parallel lines; families in general position make Σ e_s(k_j - 1) regions,
    # with the elementary symmetric polynomials e_s. Each region has a corner, where two lines meet;
    # points around all of those are told apart by which knots they are above.
    network, x = mlp(2, 3, 1, activation=nn.Tanh), 2 * torch.randn(50, 2)
    network[0].weight.data = torch.tensor([[1.0, 0.0], [0.5, 0.9], [-0.5, 0.8]])
    network[0].bias.data = torch.tensor([0.1, -0.2, 0.15])
    network[2].weight.data = torch.tensor([[0.5, -0.4, 0.6]])
    found = lann_complexity(network, x, tolerance=0.02)
    cuts = [int(k) - 1 for k in found.pieces["1"]]
    assert min(cuts) >= 2
    symmetric = [sum(math.prod(c) for c in combinations(cuts, s)) for s in range(3)]
    lines = found.network.lines["1"]
    normal = network[0].weight.detach()[lines.unit]
    level = lines.knot - network[0].bias.detach()[lines.unit]
    pairs = torch.combinations(torch.arange(len(level)))
    pairs = pairs[lines.unit[pairs[:, 0]] != lines.unit[pairs[:, 1]]]
    corners = torch.linalg.solve(normal[pairs], level[pairs])
    angle = torch.arange(0.05, 2 * math.pi, 0.05)
    around = corners[:, None] + 1e-6 * torch.stack([angle.cos(), angle.sin()], 1)
    codes = (around.flatten(0, 1) @ normal.T > level).long() @ 2 ** torch.arange(len(level))
    assert len(codes.unique()) == sum(symmetric)
    assert sum(symmetric) <= math.exp(found.complexity)


# Any curve


@pytest.mark.parametrize(
    "apply",
    [
        F.gelu,
        F.softplus,
        F.selu,
        F.hardswish,
        torch.sin,
        lambda z: z + torch.tanh(z),
        lambda z: 2**z,
        lambda z: torch.pow(z, torch.tensor(2.0)),
        F.logsigmoid,
    ],
)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-5])
def test_the_error_of_any_curve_falls_to_any_tolerance(apply, tolerance):
    network = nn.Sequential(nn.Linear(2, 4), Only(apply), nn.Linear(4, 2))
    x = 3 * torch.randn(60, 2)
    for error in ("propagated", "measured"):
        found = lann_complexity(network, x, tolerance=tolerance, error=error)
        assert found.measured_error <= tolerance
        assert found.measured_error <= found.propagated_error * (1 + 1e-6) + 1e-12
    assert found.complexity > 0 or tolerance == 1e-1


def test_a_tangent_at_each_inflection_among_the_samples_is_there_from_the_start():
    network = Only(F.gelu)
    for reach, points in ((1.0, 1), (3.0, 2)):
        found = lann_complexity(network, uniform(reach, 101), tolerance=9.0)
        assert found.pieces["gelu"].tolist() == [points]
    assert_close(found.tangents["gelu"][0], torch.tensor([-math.sqrt(2), math.sqrt(2)]))
    selu = lann_complexity(Only(F.selu), uniform(1.0, 101), tolerance=9.0)
    assert selu.tangents["elu"][0].tolist() == [0.0, 0.0]  # one on each side of the jump
    halves = torch.linspace(0.1, 2, 51)[:, None]
    assert lann_complexity(Only(F.selu), halves).pieces["elu"].tolist() == [1]


# Measured


def test_the_measured_error_is_that_of_few_tangents():
    network, x = mlp(2, 16, 16, 2, activation=nn.Tanh), 3 * torch.randn(80, 2)
    measured = lann_complexity(network, x, tolerance=0.01, error="measured")
    propagated = lann_complexity(network, x, tolerance=0.01)
    assert measured.measured_error <= 0.01
    assert propagated.propagated_error <= 0.01
    assert measured.complexity < propagated.complexity
    assert measured.propagated_error > 0.01
    apart = (network(x).detach() - measured.network(x)).abs().mean()
    assert_close(measured.measured_error, float(apart))


def test_where_amplification_is_not_known_units_count_alike():
    network, x = mlp(2, 8, 2, activation=nn.Tanh), 3 * torch.randn(40, 2)
    found = lann_complexity(as_function(network), x, tolerance=0.01, error="measured")
    assert found.measured_error <= 0.01
    assert found.propagated_error is None
    with pytest.raises(ValueError, match=r"needs the weights of a .*, got a function"):
        lann_complexity(as_function(network), x)
    assert lann_complexity(network.forward, x).propagated_error > 0


# Positions


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * 16, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.head((h + torch.tanh(self.second(h))).flatten(1))


def test_positions_of_a_channel_share_their_tangents_if_asked():
    network, x = Conv(), 2 * torch.randn(12, 1, 4, 4)
    apart = lann_complexity(network, x, tolerance=0.05)
    shared = lann_complexity(network, x, tolerance=0.05, share_positions=True)
    for found in (apart, shared):
        assert found.propagated_error <= 0.05
        assert found.measured_error <= 0.05
        assert [len(k) for k in found.pieces.values()] == [48, 48]
    for site, points in shared.tangents.items():
        for channel in range(3):
            mine = points[16 * channel : 16 * channel + 16]
            assert all(p is mine[0] for p in mine)
        k = shared.pieces[site].reshape(3, 16)
        assert (k == k[:, :1]).all()
    assert len({tuple(p.tolist()) for p in apart.tangents["tanh"]}) > 3
    assert shared.complexity > apart.complexity  # each tangent is paid for at all positions


def test_sharing_is_nothing_where_there_are_no_positions():
    network, x = mlp(2, 6, 2, activation=nn.Tanh), torch.randn(30, 2)
    one, other = (
        lann_complexity(network, x, share_positions=share, tolerance=0.01)
        for share in (False, True)
    )
    assert one.complexity == other.complexity


# Invariance


@given(st.integers(0, 10**6), st.floats(1e-3, 0.5), st.floats(0.1, 0.99), st.booleans())
def test_a_smaller_tolerance_never_lowers_the_complexity(seed, tolerance, factor, measured):
    torch.manual_seed(seed)
    network, x = mlp(2, 5, 4, 2, activation=nn.Tanh), 3 * torch.randn(25, 2)
    error = "measured" if measured else "propagated"
    wide = lann_complexity(network, x, tolerance=tolerance, error=error)
    narrow = lann_complexity(network, x, tolerance=tolerance * factor, error=error)
    assert narrow.complexity >= wide.complexity
    for site, k in narrow.pieces.items():
        assert (k >= wide.pieces[site]).all()


@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=5, max_size=5))
def test_negating_weights_into_and_out_of_units_of_tanh_changes_nothing(seed, flipped):
    torch.manual_seed(seed)
    network, x = mlp(2, 5, 4, 2, activation=nn.Tanh), 3 * torch.randn(25, 2)
    before = lann_complexity(network, x, tolerance=0.01)
    sign = 1 - 2 * torch.tensor(flipped).double()
    network[0].weight.data *= sign[:, None]
    network[0].bias.data *= sign
    network[2].weight.data *= sign
    after = lann_complexity(network, x, tolerance=0.01)
    assert after.complexity == before.complexity
    assert_close(after.propagated_error, before.propagated_error)
    assert_close(after.measured_error, before.measured_error)


def test_chunks_do_not_matter():
    network, x = Conv(), torch.randn(12, 1, 4, 4)
    whole, parts = (lann_complexity(network, x, chunk=chunk) for chunk in (100, 5))
    assert whole.complexity == parts.complexity
    assert_close(whole.propagated_error, parts.propagated_error)
    assert_close(whole.measured_error, parts.measured_error)


def test_several_thousand_units_are_approximated():
    network, x = mlp(4, 2000, 2000, 2, activation=nn.Tanh), 2 * torch.randn(32, 4)
    found = lann_complexity(network, x)
    assert found.propagated_error <= 0.1
    assert sum(len(k) for k in found.pieces.values()) == 4000


# The metric


def test_the_metric_has_the_value_the_errors_and_the_pieces_of_each_site():
    network, x = mlp(2, 6, 5, 2, activation=nn.Tanh), 2 * torch.randn(30, 2)
    metric = LANNComplexity(tolerance=0.05)
    metric.update(network, x)
    found, expected = metric.compute(), lann_complexity(network, x, tolerance=0.05)
    totals = {site: int(k.sum()) for site, k in expected.pieces.items()}
    assert {key: float(value) for key, value in found.items()} == pytest.approx(
        {
            "lann_complexity": expected.complexity,
            "lann_complexity.per_input": expected.complexity_per_input,
            "lann_complexity.pieces": sum(totals.values()) / 11,
            "lann_complexity.measured_error": expected.measured_error,
            "lann_complexity.propagated_error": expected.propagated_error,
            "lann_complexity/1": totals["1"],
            "lann_complexity/3": totals["3"],
        }
    )


def test_batches_are_averaged_by_their_size():
    network, x = mlp(2, 6, 2, activation=nn.Tanh), 2 * torch.randn(30, 2)
    metric = LANNComplexity(tolerance=0.05)
    for part in (x[:10], x[10:]):
        metric.update(network, part)
    one, two = (lann_complexity(network, p, tolerance=0.05).complexity for p in (x[:10], x[10:]))
    assert_close(float(metric.compute()["lann_complexity"]), (one + 2 * two) / 3)


def test_a_callable_that_is_no_module_has_no_propagated_error_in_the_metric():
    network = mlp(2, 6, 2, activation=nn.Tanh)
    metric = LANNComplexity(error="measured")
    metric.update(as_function(network), torch.randn(8, 2))
    assert "lann_complexity.propagated_error" not in metric.compute()


# Errors


def test_networks_without_curves_are_told_what_to_measure_instead():
    with pytest.raises(ValueError, match=r"piecewise linear already.*: use LinearRegions"):
        lann_complexity(mlp(2, 4, 1), torch.randn(5, 2))
    with pytest.raises(ValueError, match=r"no nonlinear units.*: use JacobianNorm"):
        lann_complexity(linear(torch.ones(1, 2)), torch.randn(5, 2))


@pytest.mark.parametrize(
    ("forward", "site"),
    [
        (lambda x: torch.tanh(x).softmax(1), r"'softmax' \(softmax\)"),
        (lambda x: x * torch.sigmoid(x.flip(1)), r"'mul' \(mul\)"),
        (lambda x: x ** torch.tensor([2.0, 3.0]), r"'pow' \(pow\)"),
        (lambda x: F.layer_norm(x, (2,)), r"'native_layer_norm' \(native_layer_norm\)"),
    ],
)
def test_what_has_no_tangents_is_named(forward, site):
    message = f"^site {site} is no activation of one pre-activation that is the same for all units"
    with pytest.raises(ValueError, match=message):
        lann_complexity(Only(forward), torch.rand(5, 2))


def test_curves_with_poles_among_the_samples_are_refused():
    message = r"site 'reciprocal' \(reciprocal\) has no finite value .* keep away from such points"
    with pytest.raises(ValueError, match=message):
        lann_complexity(Only(torch.reciprocal), torch.tensor([[-1.0], [2.0]]))
    assert lann_complexity(Only(torch.reciprocal), torch.rand(9, 1) + 1).complexity >= 0
    with pytest.raises(ValueError, match=r"site 'log' .* has no finite value"):
        lann_complexity(Only(torch.log), torch.tensor([[0.0], [2.0]]))


STEPS = {
    "round": (torch.round, r"near -?\d"),
    "floor": (torch.floor, r"near -?\d"),
    "frac": (torch.frac, r"near -?\d"),
    "a jump": (lambda z: z.sigmoid() * z + (z > 0), r"near 0: it jumps there, or detaches, or"),
    "straight through": (lambda z: z + (torch.round(z) - z).detach(), r"near -?\d"),
}


@pytest.mark.parametrize("error", ["propagated", "measured"])
@pytest.mark.parametrize("name", STEPS)
def test_steps_in_a_module_of_their_own_are_no_curve(name, error):
    apply, place = STEPS[name]
    network = nn.Sequential(nn.Linear(3, 8), Only(apply), nn.Linear(8, 2))
    message = rf"^site '1.activation' \(activation\) does not rise by .* of its slope {place}"
    with pytest.raises(ValueError, match=message):
        lann_complexity(network, 3 * torch.randn(60, 3), tolerance=0.05, error=error)


@pytest.mark.parametrize("error", ["propagated", "measured"])
@pytest.mark.parametrize("inner", [True, False])
def test_what_has_no_derivative_is_told_so(inner, error):
    class Heaviside(nn.Module):
        def forward(self, x):
            return torch.heaviside(x, torch.zeros(()))

    class Halves(nn.Module):
        def forward(self, x):
            return x // 0.5

    for activation in (Heaviside(), Halves()):
        network = nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 2))
        given = network if inner else as_function(network)
        with pytest.raises(
            ValueError, match=r"has no derivative|is no activation of|piecewise linear already"
        ):
            lann_complexity(given, torch.randn(60, 3), error=error)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus, nn.SELU, nn.Softsign])
def test_the_scale_of_the_inputs_does_not_matter_if_the_weights_make_up_for_it(activation):
    network, x = mlp(3, 8, 2, activation=activation), torch.randn(40, 3)
    expected = lann_complexity(network, x, tolerance=0.02)
    network[0].weight.data /= 2.0**27
    found = lann_complexity(network, x * 2.0**27, tolerance=0.02)
    assert found.complexity == expected.complexity
    assert_close(found.measured_error, expected.measured_error)


@pytest.mark.parametrize("error", ["propagated", "measured"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus, nn.SELU, nn.Mish])
def test_huge_samples_beside_ordinary_ones_hide_no_turn(activation, error):
    network, x = mlp(3, 8, 2, activation=activation), torch.randn(60, 3)
    x = torch.cat([x, 1e8 * x])
    found = lann_complexity(network, x, tolerance=0.02, error=error, candidates=1000)
    assert found.measured_error <= 0.02
    apart = (network(x).detach() - found.network(x)).abs().mean().item()
    assert_close(found.measured_error, apart)


def test_a_tolerance_that_so_few_candidates_do_not_reach_is_refused():
    for error in ("propagated", "measured"):
        with pytest.raises(ValueError, match=r"tangents at candidates=3 samples do not bring the"):
            lann_complexity(
                Only(torch.tanh), uniform(3.0, 100), tolerance=1e-3, candidates=3, error=error
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, r"tolerance=0.0: expected a positive number"),
        ({"tolerance": math.nan}, r"tolerance=nan: expected a positive number"),
        ({"error": "true"}, r"error='true': expected 'propagated' or 'measured'"),
        ({"chunk": 0}, r"chunk=0: expected at least 1 row"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LANNComplexity(**options)
    if "error" not in options:  # whose type is checked in the tests
        with pytest.raises(ValueError, match=message):
            lann_complexity(Only(torch.tanh), torch.randn(4, 1), **options)
    with pytest.raises(ValueError, match="candidates=0: expected at least 1 sample"):
        lann_complexity(Only(torch.tanh), torch.randn(4, 1), candidates=0)


def test_there_must_be_samples():
    with pytest.raises(ValueError, match="expected at least one sample"):
        lann_complexity(Only(torch.tanh), torch.zeros(0, 2))
