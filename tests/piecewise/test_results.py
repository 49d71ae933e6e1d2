"""What a network may return to a pass: constants, nothing, and what does not depend on x."""

import pytest
import torch
from torch import nn

from lightning_effcx.functional import linear_deviation, linear_regions, trajectory_length
from lightning_effcx.piecewise.lines import pieces

LAYER = nn.Linear(4, 6)
BUFFER = torch.ones(1, 3)


def hidden(x):
    return torch.relu(LAYER(x))


CONSTANT = {
    "zeros": lambda x: torch.zeros(len(x), 2),
    "ones of as many rows as there are then": lambda x: torch.ones(len(hidden(x)), 2),
    "buffer": lambda x: BUFFER.expand(len(x), 3),
    "zeros_like": lambda x: torch.zeros_like(hidden(x)),
    "several": lambda x: torch.cat([torch.zeros_like(hidden(x))] * 2, 1),
    "full_like, behind a kink": lambda x: torch.full_like(hidden(x), -2.0).relu() + 1,
    "new_zeros": lambda x: hidden(x).new_zeros(len(x), 2),
    "new_full": lambda x: hidden(x).new_full((len(hidden(x)), 2), 3.0),
    "isreal": lambda x: hidden(x).isreal().to(x),
    "beside a curve": lambda x: torch.ones_like(hidden(x).sigmoid()),
    "among other things": lambda x: {"n": len(x), "y": [torch.ones(len(x), 1)]},
}


@pytest.mark.parametrize("network", CONSTANT.values(), ids=CONSTANT)
def test_a_constant_network_has_one_region(network):
    path = 3 * torch.randn(2, 3, 4)
    found = pieces(network, path, keep=["output"])
    assert found.regions().tolist() == [1, 1]


def test_a_constant_network_has_no_length_and_no_deviation():
    path = 3 * torch.randn(2, 3, 4)
    network = CONSTANT["several"]
    assert linear_regions(network, path).tolist() == [1, 1]
    assert trajectory_length(network, path, exact=True)["output"].tolist() == [0, 0]
    assert linear_deviation(network, path).tolist() == [0, 0]


def test_what_has_only_the_shape_of_a_curve_may_be_added_and_written_to():
    def network(x):
        h = hidden(x)
        sizes = torch.zeros_like(h.sigmoid())
        sizes[:, :3] = h[:, 3:]
        return sizes + torch.ones_like(h.tanh())

    path = 3 * torch.randn(2, 3, 4)
    expected = pieces(lambda x: hidden(x)[:, 3:], path)
    assert pieces(network, path).regions().tolist() == expected.regions().tolist()


def test_noise_of_the_shape_of_a_curve_is_refused():
    with pytest.raises(ValueError, match=r"site 'sigmoid' .* is not piecewise linear"):
        pieces(lambda x: torch.rand_like(hidden(x).sigmoid()), torch.randn(2, 3, 4))


WITHOUT_EQUAL_ROWS = {
    "too few rows": lambda x: torch.ones(3, 2),
    "other rows": lambda x: torch.arange(len(x)).to(x)[:, None],
    "whole numbers": lambda x: torch.ones(len(x), 2, dtype=torch.long),
    "no tensor": lambda x: 1.0,
}


@pytest.mark.parametrize("network", WITHOUT_EQUAL_ROWS.values(), ids=WITHOUT_EQUAL_ROWS)
def test_what_is_no_constant_and_does_not_depend_on_the_input_is_refused(network):
    message = "returned no tensor that depends on its input, and no .*: return one tensor of shape"
    with pytest.raises(ValueError, match=message):
        pieces(network, torch.randn(2, 3, 4))


NO_NUMBERS = {
    "empty": (lambda x: hidden(x)[:, :0], r"float64 \(\d+, 0\)"),
    "indices": (lambda x: hidden(x).sort(1).indices, r"int64 \(\d+, 6\)"),
}


@pytest.mark.parametrize(("network", "what"), NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_outputs_without_floating_point_numbers_are_refused(network, what):
    message = f"^the network returned {what}, expected floating-point numbers .*: return such"
    with pytest.raises(ValueError, match=message):
        pieces(network, torch.randn(2, 3, 4))
