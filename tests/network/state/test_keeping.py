import random
import warnings
from itertools import count

import pytest
import torch
from networks import mlp
from stateful_networks import FORBIDDEN, REFUSED, STATES, STRUCTURES, Box
from torch import Tensor, nn
from traces import Trace

from lightning_effcx.metrics import JacobianNorm
from lightning_effcx.network.observe import observing
from lightning_effcx.network.state import keeping, walk

WHAT = {
    "EMA teacher": "the values of the parameter 'teacher.0.weight', .*, 1 more",
    "shrinks a weight": r"the values of the parameter 'layers.0.weight'",
    "replaces a weight": r"the parameters of 'layers.0'",
    "moves a weight": r"the values of the parameter 'layers.0.weight'",
    "adds a weight": r"the parameters of 'the module'",
    "freezes a weight": r"the values of the parameter 'layers.0.weight'",
    "leaves a hook": r"the hooks of 'layers.0'",
}


def evaluate(network, x):
    with observing(network):
        network(x)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_no_forward_should_do_is_put_back_and_said_once(name):
    network, x = FORBIDDEN[name](), torch.randn(3, 4)
    before = Trace(network)
    message = rf"effcx: evaluating {type(network).__name__} changed {WHAT[name]}.*put back: measure"
    with pytest.warns(UserWarning, match=message) as caught:
        evaluate(network, x)
    assert len(caught) == 1
    assert Trace(network).differences(before) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(network, x)
    assert Trace(network).differences(before) == []


@pytest.mark.parametrize("name", [*STATES, *STRUCTURES])
def test_what_forwards_do_regularly_is_put_back_without_a_word(name):
    make = (STATES | STRUCTURES)[name]
    network = make()
    before = Trace(network)
    with observing(network):
        network(torch.randn(3, 4))
    assert Trace(network).differences(before) == []


def test_what_is_put_back_is_said_also_after_an_exception_which_goes_on():
    network = FORBIDDEN["shrinks a weight"]()

    def look():
        with observing(network):
            network(torch.randn(3, 4))
            raise KeyError

    with pytest.warns(UserWarning, match="all of it was put back"), pytest.raises(KeyError):
        look()


def test_nan_among_the_parameters_is_no_change():
    network = mlp(2, 3)
    network[0].weight.data[0, 0] = torch.nan
    with observing(network):
        pass


def test_parameters_are_copied_where_nobody_further_out_has_a_copy(monkeypatch):
    kept = []
    read = keeping.TensorData.read
    monkeypatch.setattr(keeping.TensorData, "read", lambda self: kept.append(self.of) or read(self))
    network = mlp(2, 3, 1)
    with observing(network):
        assert {id(t) for t in kept} == {id(p) for p in network.parameters()}
        with observing(network[0]), observing(nn.Sequential(network)):
            pass
    assert len(kept) == 4


def test_beyond_a_size_a_change_is_seen_but_cannot_be_put_back(monkeypatch):
    monkeypatch.setattr(walk, "_COPIED_BYTES", 0)
    network = FORBIDDEN["shrinks a weight"]()
    with pytest.warns(
        UserWarning, match="layers.0.weight.; not all of it could be put back: measure"
    ):
        evaluate(network, torch.randn(3, 4))
    untouched = mlp(2, 3)
    with observing(untouched):
        untouched(torch.randn(3, 2))


class Stubborn(random.Random):
    """Cannot be set back."""

    def setstate(self, state) -> None:
        raise KeyError(state)


class Shy(random.Random):
    """Cannot be looked at."""

    def getstate(self):
        raise KeyError


def test_what_raises_when_it_is_put_back_ends_nothing_and_is_said():
    network = mlp(2, 3)
    network.source, network.shy, network.list = Stubborn(), Shy(), [1]
    with pytest.warns(UserWarning, match="changed 'source'; not all of it could be put back"):
        draw(network)
    assert network.list == [1]


def draw(network) -> None:
    with observing(network):
        network.source.random()
        network.list.append(2)


def test_modules_that_their_first_call_makes_are_left_alone():
    network = nn.Sequential(nn.LazyLinear(3))
    with observing(network):
        network(torch.zeros(2, 4))
    assert network(torch.zeros(2, 4)).shape == (2, 3)


def test_gradients_are_put_aside():
    network = mlp(2, 3)
    gradient = network[0].weight.grad = torch.ones(3, 2)
    with observing(network):
        assert network[0].weight.grad is None
        with torch.enable_grad():
            network(torch.randn(3, 2)).sum().backward()
    assert network[0].weight.grad is gradient
    assert network[0].bias.grad is None


def test_a_function_beside_the_network_is_put_back_too():
    network, box = mlp(2, 3), Box()

    def counting(x):
        box.value += 1
        return network(x)

    with observing(network, counting):
        counting(torch.randn(3, 2))
    assert box.value == 0


class Spending(nn.Module):
    """Holds what cannot be put back, and perhaps uses it."""

    def __init__(self, make, *, uses: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.layer.source = make().held
        self.uses = uses

    def forward(self, x: Tensor) -> Tensor:
        if self.uses:
            next(iter(self.layer.source))
        return self.layer(x)


@pytest.mark.parametrize("name", ["generator", "loader", "file"])
def test_what_cannot_be_put_back_is_refused_where_it_is_used(name):
    network, x = Spending(REFUSED[name], uses=True), torch.randn(3, 4)
    before, source = Trace(network), network.layer.source
    kind = type(source).__name__
    message = rf"the network uses 'layer.source' \({kind}\), which cannot be put back.*network="
    with pytest.raises(ValueError, match=message):
        evaluate(network, x)
    assert Trace(network).differences(before) == []
    assert str(next(source)) in {"1", "1\n", "tensor([0.])"}  # the first of all
    JacobianNorm().update(Spending(REFUSED[name], uses=False), x)


def test_in_a_list_it_is_refused_too():
    network = REFUSED["generator in a list"]()
    with pytest.raises(ValueError, match=r"the network uses 'held\[0\]' \(generator\)"):
        evaluate(network, torch.randn(3, 4))
    assert next(network.held[0]) == 1


def test_an_iterator_that_can_be_copied_is_lent_as_a_copy():
    network = mlp(4, 3)
    network.ids = count(5)
    with observing(network):
        assert next(network.ids) == 5
    assert next(network.ids) == 5


def test_a_module_that_holds_an_iterator_is_in_eval_mode_too():
    network = mlp(4, 3)
    network.ids = count(5)
    with observing(network):
        assert not any(module.training for module in network.modules())
    assert all(module.training for module in network.modules())
