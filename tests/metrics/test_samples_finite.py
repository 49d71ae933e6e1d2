import pytest
import torch
from networks import mlp
from torch import nn

from lightning_effcx import functional
from lightning_effcx.tracing import find_sites

ALONG_PATHS = ["linear_regions", "transitions", "trajectory_length", "linear_deviation"]
AT_SAMPLES = ["boundary_distance", "boundary_density", "activation_patterns", "jacobian_norm"]
OPTIONS = {"boundary_density": {"radius": 0.1, "directions": 3}}
NUMBERS = {"NaN": torch.nan, "infinity": -torch.inf}


def measure(name, network, given):
    return getattr(functional, name)(network, given, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", [*ALONG_PATHS, *AT_SAMPLES])
def test_arguments_that_are_not_finite_are_refused_by_their_name(name, number):
    given = torch.randn(*([5] if name in AT_SAMPLES else [5, 3]), 4)
    given[1, ..., 0] = given[4, ..., 2] = NUMBERS[number]
    what = ("x", "samples") if name in AT_SAMPLES else ("path", "paths")
    message = rf"^{what[0]} has {number} in 2 of its 5 {what[1]}, expected finite numbers: leave"
    with pytest.raises(ValueError, match=message):
        measure(name, mlp(4, 8, 2), given)


@pytest.mark.parametrize("name", [*ALONG_PATHS, "boundary_distance", "activation_patterns"])
def test_weights_that_are_not_finite_are_refused_by_the_site_where_they_show(name):
    network = mlp(4, 8, 8, 2)
    with torch.no_grad():
        network[2].weight[3, 1] = torch.nan
    given = torch.randn(*([5] if name in AT_SAMPLES else [5, 3]), 4)
    message = r"^the network's values are not finite: its site '3' has NaN for finite inputs"
    with pytest.raises(ValueError, match=message):
        measure(name, network, given)


def test_infinite_weights_of_the_last_layer_are_refused_as_well():
    network = mlp(4, 8, 2)
    with torch.no_grad():
        network[2].weight[1] = torch.inf
    with pytest.raises(ValueError, match="values are not finite: its outputs have NaN"):
        functional.linear_regions(network, torch.randn(5, 3, 4))


def test_infinite_outputs_of_a_mask_are_measured():
    layer, mask = nn.Linear(4, 8), torch.arange(8) < 3
    path = torch.randn(5, 3, 4)

    def network(x):
        return layer(x).relu().masked_fill(mask, -torch.inf)

    found = functional.linear_regions(network, path)
    rest = functional.linear_regions(lambda x: layer(x).relu(), path)
    assert (found == rest).all()
    assert find_sites(network, path[:, 0])
