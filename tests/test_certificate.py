"""The certificate refutes numbers that are wrong."""

from dataclasses import replace

import pytest
import torch
from certificate import check_deviation, check_distance, check_jacobian, check_lengths, check_pieces
from random_architectures import draw_architecture, plain
from torch import nn
from verdicts import is_advice, is_function_of_samples, judge

from lightning_effcx.functional import (
    boundary_distance,
    jacobian_norm,
    linear_deviation,
    trajectory_length,
)
from lightning_effcx.piecewise import pieces


@pytest.fixture
def case():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    network = network.double()
    path = 2 * torch.randn(2, 3, 3, dtype=torch.float64)
    return network, path, pieces(network, path, keep=["output"])


def changed(found, keep, position=None):
    """The knots without some of them, or at other positions."""
    columns = ("path", "position", "arc_length", "site", "unit", "kink")
    chosen = {name: getattr(found, name)[keep] for name in columns}
    if position is not None:
        chosen["position"] = position
    values = {name: rows[keep] for name, rows in found.values.items()}
    return replace(found, **chosen, values=values)


def test_right_pieces_pass(case):
    assert list(check_pieces(*case)) == []


def test_a_missing_knot_is_found_by_the_codes_and_by_the_outputs(case):
    network, path, found = case
    keep = torch.arange(len(found.path)) != 1
    complaints = " ".join(check_pieces(network, path, changed(found, keep)))
    assert "a knot is missing" in complaints
    assert "not affine" in complaints


def test_a_knot_where_nothing_bends_is_found(case):
    network, path, found = case
    position = found.position.clone()
    keep = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(len(position))])
    extra = torch.cat([position[:1] / 2, position])
    complaints = " ".join(check_pieces(network, path, changed(found, keep, extra)))
    assert "where 0 units change their piece" in complaints


def test_a_knot_at_another_place_is_found(case):
    network, path, found = case
    position = found.position.clone()
    position[1] += 1e-4
    everything = torch.arange(len(position))
    assert list(check_pieces(network, path, changed(found, everything, position))) != []


def test_outputs_at_knots_that_are_wrong_are_found(case):
    network, path, found = case
    wrong = replace(found, values={"output": found.values["output"] + 0.01})
    assert "the outputs at the knots are off by 0.01" in " ".join(
        check_pieces(network, path, wrong)
    )


@pytest.mark.parametrize(("factor", "words"), [(1.01, "changes inside"), (0.99, "no boundary is")])
def test_distances_that_are_wrong_are_found(case, factor, words):
    network, path, _ = case
    x = path[:, 0]
    distance = boundary_distance(network, x)
    assert list(check_distance(network, x, distance)) == []
    assert words in " ".join(check_distance(network, x, factor * distance, directions=500))


def test_an_infinite_distance_beside_boundaries_is_found(case):
    network, path, _ = case
    infinite = torch.full((2,), torch.inf, dtype=torch.float64)
    assert "changes inside" in " ".join(check_distance(network, path[:, 0], infinite))


def test_lengths_deviations_and_jacobians_that_are_wrong_are_found(case):
    network, path, found = case
    lengths = trajectory_length(network, path, exact=True)
    assert list(check_lengths(network, path, found, lengths)) == []
    wrong = {name: 1.001 * length for name, length in lengths.items()}
    assert len(list(check_lengths(network, path, found, wrong))) == 2 * len(lengths)
    deviation = linear_deviation(network, path)
    assert list(check_deviation(network, path, found, deviation)) == []
    assert len(list(check_deviation(network, path, found, 1.1 * deviation))) == 2
    norm = jacobian_norm(network, path[:, 0])
    assert list(check_jacobian(network, path[:, 0], norm)) == []
    assert len(list(check_jacobian(network, path[:, 0], 1.01 * norm))) == 2


def test_a_network_that_mixes_samples_or_is_random_is_no_function_of_samples():
    x = torch.randn(4, 3)
    assert is_function_of_samples(torch.relu, x)
    assert is_function_of_samples(lambda x: x - x.mean(0), x) is False
    assert is_function_of_samples(lambda x: x + torch.rand(3), x) is False
    assert is_function_of_samples(lambda x: x.flatten(), x) is None


def test_a_curve_that_was_counted_would_be_found():
    path = torch.tensor([[[-1.0], [2.0]]], dtype=torch.float64)
    found = pieces(torch.relu, path)
    assert "not affine" in " ".join(check_pieces(torch.exp, path, found))


def test_an_advice_is_one_sentence_in_our_words():
    assert is_advice("site 'tanh' is a curve: use Transitions.")
    assert not is_advice("index out of range in self")
    assert not is_advice("The size of tensor a (3)\nmust match.")


def test_a_network_is_judged_by_the_codes_that_its_blocks_note():
    network, path, x = draw_architecture(0, allowed=("shared", "maxout", "big_weights"))
    exact = plain(network)
    assert {each.kind for each in judge(exact, path, x, codes=exact.codes)} == {"equal"}
    exact.note = lambda *_: None
    found = {each.measure: each for each in judge(exact, path, x, codes=exact.codes)}
    assert "where 0 units change their piece" in found["regions"].why
