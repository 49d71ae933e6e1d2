import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.tangents.curves import analyse_curve

pytestmark = pytest.mark.usefixtures("_float64")

S_SHAPED = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "atan": torch.atan,
    "erf": torch.erf,
}
CONVEX = {
    "elu": F.elu,
    "softplus": F.softplus,
    "sharp softplus": lambda z: F.softplus(z, beta=100),
    "celu": lambda z: F.celu(z, 2.0),
    "exp": torch.exp,
    "square": torch.square,
}
SMOOTH = S_SHAPED | CONVEX | {"gelu": F.gelu, "silu": F.silu, "mish": F.mish, "sin": torch.sin}


def analyse(apply, low=-1.7, high=2.9):
    return analyse_curve(apply, low, high, like=torch.zeros(()))


@pytest.mark.parametrize("name", S_SHAPED)
@pytest.mark.parametrize("reach", [1.0, 13.7, 1e4])
def test_s_shaped_curves_turn_at_zero_exactly(name, reach):
    found = analyse(S_SHAPED[name], -reach, reach / 3)
    assert found.has_one_inflection
    assert found.turns.tolist() == [0.0]
    assert found.signs.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", CONVEX)
def test_convex_curves_do_not_turn(name):
    found = analyse(CONVEX[name])
    assert len(found.turns) == 0
    assert found.signs.tolist() == [-1.0]
    assert not found.has_one_inflection


def test_a_concave_curve_has_another_sign_than_a_convex_one():
    assert analyse(F.logsigmoid).signs.tolist() == [1.0]


def test_gelu_turns_at_the_root_of_two():
    # Its second derivative is (2 - z²) times the density of the normal distribution.
    found = analyse(F.gelu)
    assert_close(found.turns, torch.tensor([-math.sqrt(2), math.sqrt(2)]))
    assert found.signs.tolist() == [1.0, -1.0, 1.0]


def test_silu_turns_where_its_second_derivative_is_zero():
    # s (1 - s) (2 + z (1 - 2 s)) = 0 for the sigmoid s, so that z tanh(z / 2) = 2.
    found = analyse(F.silu)
    assert_close(found.turns * torch.tanh(found.turns / 2), torch.full((2,), 2.0))
    assert found.signs.tolist() == [1.0, -1.0, 1.0]


def test_a_sine_turns_at_all_its_zeros_among_the_data():
    found = analyse(torch.sin, 0.0, 40.0)
    assert_close(found.turns, math.pi * torch.arange(-3.0, 13.0))
    assert found.signs.tolist() == [1.0, -1.0] * 8 + [1.0]


def test_jumps_of_the_slope_are_found_with_the_slopes_on_both_sides():
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    selu = analyse(F.selu)
    assert selu.turns.tolist() == [0.0]
    assert_close(selu.sides, torch.tensor([[scale * alpha, scale]]))
    assert not selu.has_one_inflection
    halved = analyse(lambda z: F.elu(z, 0.5))
    assert halved.turns.tolist() == [0.0]
    assert_close(halved.sides, torch.tensor([[0.5, 1.0]]))
    hardswish = analyse(F.hardswish)  # z (z + 3) / 6 between -3 and 3
    assert hardswish.turns.tolist() == [-3.0, 3.0]
    assert_close(hardswish.sides, torch.tensor([[0.0, -0.5], [1.5, 1.0]]))
    assert hardswish.jumps.all()


@pytest.mark.parametrize("name", SMOOTH)
def test_tangents_are_on_one_side_of_the_curve_on_each_stretch(name):
    found = analyse(SMOOTH[name])
    ends = torch.cat(
        [torch.tensor([-8.0]), found.turns[found.turns.abs() < 8], torch.tensor([8.0])]
    )
    for low, high in pairwise(ends):
        z = torch.linspace(float(low), float(high), 101)
        value, slope = found.tangents(z[1:-1])
        sign = found.signs[torch.bucketize((low + high) / 2, found.turns)]
        above = value[:, None] + slope[:, None] * (z - z[1:-1, None]) - SMOOTH[name](z)
        assert (sign * above > -1e-12 * SMOOTH[name](z).abs().max()).all()


def test_a_linear_function_has_no_turns():
    for apply in (lambda z: z**1, torch.zeros_like):
        assert len(analyse(apply).turns) == 0


def test_a_pole_is_no_inflection():
    assert not analyse(torch.reciprocal).has_one_inflection


CURVES = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "softplus": F.softplus,
    "mish": F.mish,
    "selu": F.selu,
    "softsign": F.softsign,
    "cube": lambda z: z**3,
    "root": lambda z: z.abs().sqrt(),
    "steep": lambda z: torch.tanh(1e5 * z),
    "small beside a constant": lambda z: 1e6 + torch.tanh(z),
    "exp": torch.exp,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CURVES)
def test_a_curve_rises_by_the_integral_of_its_slope_however_far_the_data_reach(name, dtype):
    like = torch.zeros((), dtype=dtype)
    near = analyse_curve(CURVES[name], -3.0, 3.0, like=like)
    far = analyse_curve(CURVES[name], -1e8, 1e9, like=like)
    assert not len(near.broken)
    assert not len(far.broken)
    if dtype == torch.float64:
        for turn in near.turns:  # far data hide no turn near zero
            assert (far.turns - turn).abs().amin() < 1e-6


BROKEN = {
    "round": (torch.round, 0.5),
    "floor": (torch.floor, 1.0),
    "a small jump": (lambda z: torch.tanh(z) + 1e-3 * (z > 0.3), 0.3),
    "straight through": (lambda z: z + (torch.round(z) - z).detach(), 0.0),
    "a part that is detached": (lambda z: torch.tanh(z) + torch.tanh(z).detach(), 0.0),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reach", [1.0, 1e3, 1e9])
@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_rise_by_the_integral_of_its_slope_is_told(name, reach, dtype):
    apply, place = BROKEN[name]
    found = analyse_curve(apply, -reach, reach, like=torch.zeros((), dtype=dtype)).broken
    assert (found - place).abs().amin() < 1


def test_far_waves_that_the_grid_cannot_see_are_told():
    like = torch.zeros((), dtype=torch.float64)
    assert not len(analyse_curve(torch.sin, -1e3, 1e3, like=like).broken)
    assert len(analyse_curve(torch.sin, -1e5, 1e5, like=like).broken)
