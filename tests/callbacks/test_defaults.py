from unittest.mock import Mock

import pytest
import torch
from networks import mlp
from torch import nn
from user_training import METRICS, OTHERS

from lightning_effcx.callbacks.defaults import candidates, choose_metrics
from lightning_effcx.network.independence import compare_samples
from lightning_effcx.network.observe import observing

CLASSES, VALUES = torch.arange(6) % 3, torch.randn(6, 2)


def choose(network, y=CLASSES, features=4):
    x = torch.randn(6, features)
    with observing(network):
        compare_samples(network, x)  # as where the network is captured
        return choose_metrics(0, network, x, y, network(x))


def test_a_small_classifier_is_measured_exactly():
    found = choose(mlp(4, 8, 3))
    assert [*found.metrics] == METRICS
    assert found.notes == ["the targets are classes, so the outputs are taken for logits."]
    assert not found.left_out


@pytest.mark.parametrize("y", [VALUES, None, CLASSES.float()])
def test_where_targets_are_no_classes_the_outputs_are_the_mean_of_a_gaussian(y):
    found = choose(mlp(4, 8, 3), y)
    between_classes = {"linear_regions.segment_same", "linear_regions.segment_different"}
    assert {*found.metrics} == {*METRICS} - between_classes
    assert found.metrics["fisher_rao_norm"].distribution == "gaussian"
    assert found.metrics["jacobian_norm"].of == "outputs"


def test_a_single_output_has_no_classes():
    assert choose(mlp(4, 8, 1)).metrics["fisher_rao_norm"].distribution == "gaussian"


def test_of_many_units_linear_regions_are_estimated():
    found = choose(mlp(4, 300, 300, 3))
    assert [*found.metrics] == [*METRICS[:4], "linear_regions.segment_estimated"]
    assert found.metrics["linear_regions.segment_estimated"].share == 8 / 600
    assert "there are 600 units, so linear regions are estimated" in found.notes[1]


@pytest.mark.parametrize("y", [CLASSES, VALUES])
def test_of_many_outputs_random_directions_are_taken(y):
    found = choose(mlp(4, 8, 200), y)
    of_classes = ["jacobian_norm.probabilities_sampled"] if y is CLASSES else []
    assert [*found.metrics][: 1 + len(of_classes)] == ["jacobian_norm.sampled", *of_classes]
    assert "there are 200 outputs, so jacobian_norm takes 16 random directions" in found.notes[0]


def test_networks_with_curves_are_approximated_unless_they_are_large():
    def curved(units):
        return nn.Sequential(nn.Linear(4, units), nn.Tanh(), nn.Linear(units, 3))

    found = choose(curved(8))
    assert [*found.metrics] == [*METRICS[:4], "lann_complexity"]
    assert found.left_out == METRICS[4:]
    assert found.reason.startswith("site '1' (tanh) is not piecewise linear")
    found = choose(curved(600))
    assert [*found.metrics] == METRICS[:4]
    assert "there are 600 units, so lann_complexity is left out" in found.notes[1]


def test_of_other_networks_there_is_what_holds_for_all():
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))
    assert [*choose(network).metrics] == METRICS[:4]


def test_whatever_is_chosen_was_a_candidate():
    assert [*candidates(0)] == [*METRICS, *OTHERS]


class InSinglePrecision(nn.Module):
    """A network that does not run in float64, in which exact measures are computed."""

    def __init__(self):
        super().__init__()
        self.network = mlp(4, 8, 3)

    def forward(self, x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return self.network(x)


def test_whatever_goes_wrong_with_exact_measures_the_others_are_chosen():
    found = choose(InSinglePrecision())
    assert [*found.metrics] == METRICS[:4]
    assert found.left_out == METRICS[4:]
    assert found.reason.endswith("(expected scalar type Float but found Double).")


def test_choosing_takes_a_few_samples_of_a_network():
    network, seen = mlp(4, 8, 3), Mock()  # in which nobody puts back what is counted

    def count(_, args):
        seen(len(args[0]))

    network.register_forward_pre_hook(count)
    choose(network)
    rows = [call.args[0] for call in seen.call_args_list]
    before, rows = rows[:5], rows[5:]
    assert before == [3, 2, 2, 2, 6]
    assert 0 < sum(rows) <= 8
