import copy
from itertools import pairwise

import pytest
import torch
from networks import mlp
from stateful_networks import STRUCTURES, Hidden, Shared, WithLoss, fabric, old_weight_norm, twice
from torch import Tensor, nn
from torch.testing import assert_close
from traces import Trace

from lightning_effcx.metrics import (
    BoundaryDistance,
    FisherRaoNorm,
    JacobianNorm,
    LANNComplexity,
    LinearDeviation,
    LinearRegions,
    Transitions,
)
from lightning_effcx.metrics.fisher_rao import fisher_rao_norm
from lightning_effcx.network.observe import observing
from lightning_effcx.network.precision import in_precision
from lightning_effcx.network.state.replacing import replacing_tensors
from lightning_effcx.network.state.walk import find_state
from lightning_effcx.paths import Segment
from lightning_effcx.tangents.amplification import error_amplification

SEGMENT = Segment(count=2, points=2)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A network with something shared, and the same function written without."""
    match name:
        case "under two names":
            network = Shared()
            layers = [*network.encoder, *network.net[1:]]
        case "twice in a sequence":
            network = twice()
            layers = [*network]
        case "held by a loss":
            network = WithLoss()
            layers = [*network.network]
        case "fabric":
            network = fabric()
            layers = [*network.module]
        case "not registered":
            network = Hidden()
            (first, second), norm = network.layers, network.by_name["norm"]
            layers = [first, nn.ReLU(), second, nn.ReLU(), norm, network.head]
        case _:
            network = old_weight_norm()
            first = nn.Linear(4, 6)
            first.load_state_dict({"weight": network[0].weight.detach(), "bias": network[0].bias})
            layers = [first, *network[1:]]
    return network, nn.Sequential(*(copy.deepcopy(layer) for layer in layers))


NAMES = [
    "under two names",
    "twice in a sequence",
    "held by a loss",
    "fabric",
    "not registered",
    "weight norm, old",
]
ABOUT_THE_FUNCTION = [
    JacobianNorm(),
    Transitions(Segment(count=2, points=9)),
    LinearRegions(SEGMENT),
    LinearDeviation(SEGMENT),
    BoundaryDistance(),
]


@pytest.mark.parametrize("metric", ABOUT_THE_FUNCTION, ids=lambda metric: metric.name)
@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_of_the_same_network_written_without_sharing(name, metric):
    network, other = pair(name)
    x, found = torch.randn(6, 4), []
    for each in (network, other):
        metric.reset()
        metric.update(each, x)
        found.append(metric.compute()[metric.name])
    assert_close(*found, rtol=1e-5, atol=0)
    assert found[0] > 0


@pytest.mark.parametrize("name", ["under two names", "held by a loss", "fabric"])
def test_measures_of_the_weights_are_too_where_these_are_used_once(name):
    head = [nn.Tanh(), nn.Linear(3, 3)]
    network, other = (nn.Sequential(each, *head) for each in pair(name))
    x = torch.randn(6, 4)
    with observing(network), observing(other):
        norms = [fisher_rao_norm(each, x).norm for each in (network, other)]
        gains = [error_amplification(each, x)["1"] for each in (network, other)]
        with torch.enable_grad():  # in forward mode
            norms.append(fisher_rao_norm(network, x).norm.detach())
    assert_close(norms[0], norms[1])
    assert_close(norms[2], norms[1])
    assert_close(*gains)


def test_a_layer_that_is_used_twice_scales_the_outputs_twice():
    layer = nn.Linear(3, 3, bias=False)
    network, x = nn.Sequential(layer, layer), torch.randn(5, 3)
    for recording in (False, True):  # by double backward, and in forward mode
        with torch.set_grad_enabled(recording):
            found = fisher_rao_norm(network, x, distribution="gaussian").squares
        assert_close(found, (2 * network(x)).square().sum(1))


def test_absolute_weights_of_modules_that_are_not_registered_count():
    network = Hidden()
    network.head = nn.Sequential(network.head, nn.Tanh(), nn.Linear(3, 3))
    with observing(network):
        gain = error_amplification(network, torch.randn(6, 4))["head.1"]
    assert_close(gain, network.head[2].weight.detach().abs().mean(0))
    (first, _) = network.layers
    assert bool((first.weight < 0).any())


def test_bound_methods_are_cast_as_their_module_is():
    network = mlp(4, 6, 3)
    x = torch.randn(2, 4, dtype=torch.float64)
    assert in_precision(network.forward, torch.float64)(x).dtype == torch.float64
    assert network[0].weight.dtype == torch.float32


def test_scripted_modules_are_cast_too():
    network = torch.jit.script(mlp(4, 6, 3))
    weight = getattr(network, "0").weight
    x = torch.randn(2, 4, dtype=torch.float64)
    assert in_precision(network, torch.float64)(x).dtype == torch.float64
    assert getattr(network, "0").weight is weight


def test_constants_that_are_not_registered_are_cast_with_the_rest():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = {"first": torch.randn(3, 4)}

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.tables["first"])

    network = Net()
    table, x = network.tables["first"], torch.randn(2, 4)
    found = in_precision(network, torch.float64)(x.double())
    assert_close(found, network(x).double(), rtol=1e-6, atol=1e-6)
    assert network.tables["first"] is table


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_slot_gets_its_very_object_back(name, failing):
    network = STRUCTURES[name]()
    before, slots, state = Trace(network), Trace(network, slots_only=True), find_state(network)
    values = {key: tensor.detach().double() for key, tensor in state.tensors.items()}
    try:
        with replacing_tensors(state.containers(), values):
            assert Trace(network).differences(before)
            network(torch.randn(3, 4, dtype=torch.float64))
            if failing:
                raise KeyError  # noqa: TRY301 the subject
    except KeyError:
        assert failing
    assert Trace(network, slots_only=True).differences(slots) == []
    objects = Trace(network).objects
    assert all(objects[key] is value for key, value in before.objects.items())


def test_what_is_tied_stays_tied():
    network = STRUCTURES["aliased"]()
    state = find_state(network)
    with replacing_tensors(
        state.containers(), {key: t.double() for key, t in state.tensors.items()}
    ):
        tied = [network.first.weight, network.second.weight, network.weights[0]]
        assert all(one is other for one, other in pairwise(tied))
        assert tied[0].dtype == torch.float64


def test_what_a_forward_makes_of_lent_values_is_taken_away():
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.table = None

        def forward(self, x: Tensor) -> Tensor:
            self.table = self.layer.weight.exp() if self.table is None else self.table
            return x @ self.table.T

    network = Caching()
    in_precision(network, torch.float64)(torch.randn(2, 4, dtype=torch.float64))
    assert network.table is None


def test_a_training_step_goes_on_after_every_measure():
    network = Shared()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    for metric in (*ABOUT_THE_FUNCTION, FisherRaoNorm(), LANNComplexity()):
        metric.reset()
        try:
            metric.update(network, x, y)
        except ValueError:
            assert isinstance(metric, LANNComplexity)  # there are no curves
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in network.parameters()}
