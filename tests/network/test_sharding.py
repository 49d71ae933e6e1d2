from contextlib import suppress

import pytest
import torch
import torch.distributed as dist
from networks import mlp
from torch import _dynamo, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing import assert_close
from two_processes import together

from lightning_effcx.functional import (
    fisher_rao_norm,
    jacobian_norm,
    lann_complexity,
    linear_regions,
)
from lightning_effcx.network.observe import observing
from lightning_effcx.network.precision import in_precision
from lightning_effcx.network.sharding import unsharded

assert _dynamo  # FSDP's hooks import it, which takes seconds: once here, not in every process


class Tied(nn.Module):
    """The same matrix twice, a layer that does not learn, BatchNorm, and hooks of the user's."""

    def __init__(self, activation=nn.ReLU) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.norm = nn.BatchNorm1d(5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.activation = activation()
        self.last = nn.Linear(5, 3)
        self.called: list[str] = []
        self.register_forward_pre_hook(lambda *_: self.called.append("before"))
        self.register_forward_hook(lambda *_: self.called.append("after"))

    def forward(self, x):
        x = self.activation(self.norm(self.first(x)))
        return self.last(self.activation(self.frozen(self.activation(self.second(x)))))

    def outputs(self, x):
        return self(x)


def plain(activation=nn.ReLU):
    torch.manual_seed(3)
    network = Tied(activation)
    network.norm.running_mean.uniform_(-1, 1)
    return network


def sharded(activation=nn.ReLU, how="nested", policy=None):
    """The same network, spread by FSDP2 over all ranks."""
    network = plain(activation)
    options = {} if policy is None else {"mp_policy": policy}
    fully_shard(network.norm)  # in its own precision, as its statistics are
    if how == "nested":
        for part in (network.frozen, network.last):
            fully_shard(part, **options)
    fully_shard(network, **options, **({"reshard_after_forward": True} if how == "root" else {}))
    network.register_forward_hook(lambda *_: network.called.append("later"))
    return network


def everything(network):
    """All that observing must leave as it is, by identity where there is any."""
    held = {}
    for name, module in network.named_modules():
        for kind in ("_parameters", "_buffers", "_forward_pre_hooks", "_forward_hooks"):
            here = vars(module)[kind]
            held[name, kind] = id(here), {key: id(value) for key, value in here.items()}
            held[name, kind, "order"] = list(here)
    held["versions"] = [p._version for p in network.parameters()]
    held["grads"] = [id(p.grad) for p in network.parameters()]
    return held


X = torch.linspace(-1.5, 1.5, 40).sin().cumsum(0).reshape(8, 5)


def measures(network, x):
    return {
        "jacobian_norm": jacobian_norm(network, x),
        "fisher_rao_norm": fisher_rao_norm(network, x).norm,
        "linear_regions": linear_regions(network, torch.stack([x[:4], x[4:]], 1)),
        "in_float64": in_precision(network, torch.float64)(x.double()),
    }


def test_where_nothing_is_spread_out_nothing_is_touched():
    network = plain()
    before = everything(network)
    with unsharded(list(network.modules())):
        assert everything(network) == before


def looked_at(how, state, precision):
    policy = (
        MixedPrecisionPolicy(torch.bfloat16, output_dtype=torch.bfloat16) if precision else None
    )
    network, reference = sharded(how=how, policy=policy), plain().eval()
    if state == "after a forward":
        network.eval()
        with torch.no_grad():
            network(X)
        network.train()
    if state == "after a step":
        network(X).sum().backward()
        for name, statistic in reference.norm.named_buffers():
            statistic.copy_(network.norm.get_buffer(name))
    before = everything(network)
    network.called.clear()
    with suppress(KeyError), observing(network):
        assert not any(isinstance(p, DTensor) for p in network.parameters())
        assert_close(
            dict(network.named_parameters()), dict(reference.named_parameters()), rtol=0, atol=0
        )
        learns = {name: p.requires_grad for name, p in network.named_parameters()}
        assert learns == {name: p.requires_grad for name, p in reference.named_parameters()}
        assert network.first.weight is network.second.weight
        expected = measures(reference, X)
        if dist.get_rank() == 0:  # ranks need not do the same
            assert_close(measures(network, X), expected, rtol=1e-6, atol=0)
        with observing(network.last), observing(network):
            assert_close(measures(network, X), expected, rtol=1e-6, atol=0)
        network.called.clear()
        network(X)
        assert network.called == ["before", "after", "later"]
        raise KeyError
    assert everything(network) == before


def looked_at_after_all(how, precision):
    for state in ("at first", "after a forward", "after a step"):
        looked_at(how, state, precision)


@pytest.mark.parametrize("how", ["nested", "root", "kept"])
@pytest.mark.parametrize("precision", ["", "mixed"])
def test_ranks_look_at_the_whole_network_each_in_its_own_way(how, precision):
    together(looked_at_after_all, how, precision)


def approximated():
    network, reference = sharded(nn.Tanh), plain(nn.Tanh).eval()
    with observing(network):
        found = lann_complexity(network, X)
    with observing(reference):
        expected = lann_complexity(reference, X)
    values = {name: value for name, value in vars(found).items() if name != "network"}
    assert_close(values, {name: getattr(expected, name) for name in values}, rtol=1e-6, atol=0)


def test_a_network_with_curves_is_approximated_alike():
    together(approximated)


def trained(observed):
    network = sharded()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def look():
        if observed:
            with observing(network):
                for _ in range(1 + dist.get_rank()):
                    jacobian_norm(network, X)

    for _ in range(3):
        look()
        loss = network(X + dist.get_rank()).square().sum()
        look()  # between forward and backward, too
        loss.backward()
        look()
        optimizer.step()
        network.eval()
        with torch.no_grad():
            network(X)
        network.train()
        look()
        optimizer.zero_grad()
    network.reshard()
    return [p.full_tensor() for p in network.parameters()], network.norm.running_mean


def test_training_goes_on_as_if_nobody_had_looked():
    without, with_looks = together(trained, False), together(trained, True)
    assert_close(with_looks, without, rtol=0, atol=0)
    assert not torch.equal(without[0][0][0], plain().first.weight)


def called_otherwise():
    network, reference = sharded(), plain().eval()
    register_fsdp_forward_method(network, "outputs")
    kept = vars(network)["outputs"]
    with observing(network):
        for _ in range(dist.get_rank()):
            assert_close(network.outputs(X), reference(X).detach())
    assert vars(network)["outputs"] is kept


def test_a_method_that_gathers_as_forward_does_gathers_nothing_while_looked_at():
    together(called_otherwise)


def recurrent():
    network, reference = nn.LSTM(3, 4, batch_first=True), nn.LSTM(3, 4, batch_first=True)
    reference.load_state_dict(network.state_dict())
    fully_shard(network)
    weights = [id(weight) for weight in network._flat_weights]
    x = torch.randn(2, 5, 3)
    with observing(network), observing(reference):
        for _ in range(dist.get_rank()):
            assert_close(network(x)[0], reference(x)[0])
    assert [id(weight) for weight in network._flat_weights] == weights
    with torch.no_grad():  # recording, FSDP2 warns of a layer that returns a view
        assert_close(network(x), reference(x))


def test_a_recurrent_layer_is_looked_at_too():
    together(recurrent)


def split_up():
    torch.manual_seed(3)
    reference = mlp(5, 8, 8, 3)
    network = mlp(5, 8, 8, 3)
    network.load_state_dict(reference.state_dict())
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(network, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    before = everything(network)
    with observing(network), observing(reference):
        expected = measures(reference, X)
        for _ in range(1 + dist.get_rank()):
            assert_close(measures(network, X), expected, rtol=1e-6, atol=0)
    assert everything(network) == before
    assert_close(network(X), reference(X))


def test_tensor_parallelism_is_looked_at_the_same_way():
    together(split_up)
