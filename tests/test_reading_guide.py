"""What the README says of two curves that disagree, shown on functions known in closed form."""

import pytest
import torch
from torch import Tensor, nn

from lightning_effcx.functional import (
    boundary_distance,
    fisher_rao_norm,
    jacobian_norm,
    linear_deviation,
    linear_regions,
    trajectory_length,
)

X = torch.tensor([[-1.0], [1.0]])
PATH = torch.tensor([[[-1.0], [1.0]]])


def hinges(*places: float, bend: float = 1.0, slope: float = 1.0):
    """Return a function of one input that bends at the places, up and down in turn."""

    def function(x: Tensor) -> Tensor:
        bends = ((-1) ** i * bend * torch.relu(x - place) for i, place in enumerate(sorted(places)))
        return slope * x + sum(bends)

    return function


def logits(factor: float) -> nn.Linear:
    layer = nn.Linear(1, 3)
    with torch.no_grad():
        layer.weight.copy_(factor * torch.tensor([[1.0], [0.0], [-1.0]]))
        layer.bias.zero_()
    return layer


def norm(network) -> float:
    return jacobian_norm(network, X).mean().item()


def length(network) -> float:
    return trajectory_length(network, PATH, exact=True)["output"].item()


def deviation(network) -> float:
    return linear_deviation(network, PATH).item()


def test_certainty_makes_logits_steeper_and_probabilities_and_fisher_rao_norm_fall():
    unsure, certain = logits(2.0), logits(20.0)
    assert norm(certain) > norm(unsure)
    of = {"of": "probabilities"}
    assert jacobian_norm(certain, X, **of).mean() < jacobian_norm(unsure, X, **of).mean()
    assert fisher_rao_norm(certain, X).norm < 1e-3 < fisher_rao_norm(unsure, X).norm


def test_regions_rise_without_deviation_where_the_function_bends_gently():
    few, many = hinges(0.0, bend=1.0), hinges(-0.6, -0.2, 0.2, 0.6, bend=0.1)
    assert linear_regions(many, PATH) > linear_regions(few, PATH)
    assert deviation(many) < deviation(few)


def test_deviation_rises_without_regions_where_the_same_bends_are_stronger():
    gentle, strong = hinges(0.0, bend=0.1), hinges(0.0, bend=1.0)
    assert linear_regions(strong, PATH) == linear_regions(gentle, PATH)
    assert deviation(strong) > deviation(gentle)


def test_length_rises_without_the_norm_where_the_function_is_steep_between_the_samples_only():
    straight, folded = hinges(), hinges(-0.5, 0.0, bend=4.0)
    assert jacobian_norm(folded, X).tolist() == jacobian_norm(straight, X).tolist()
    assert length(folded) > length(straight)


def test_a_factor_of_the_outputs_is_one_of_three_measures_and_no_region():
    once, thrice = hinges(0.0), lambda x: 3 * hinges(0.0)(x)
    for measure in (norm, length, deviation):
        assert measure(thrice) == pytest.approx(3 * measure(once))
    assert linear_regions(thrice, PATH) == linear_regions(once, PATH)


def test_new_boundaries_between_classes_add_regions_there_only():
    before, after = hinges(0.0), hinges(-0.1, 0.0, 0.1)
    within, between = torch.tensor([[[0.5], [1.0]]]), PATH
    assert linear_regions(after, within) == linear_regions(before, within)
    assert linear_regions(after, between) > linear_regions(before, between)


def test_distance_falls_without_regions_where_boundaries_move_towards_the_samples():
    away, near = hinges(-0.1, 0.1), hinges(-0.9, 0.9)
    assert linear_regions(near, PATH) == linear_regions(away, PATH)
    assert boundary_distance(near, X).mean() < boundary_distance(away, X).mean()
