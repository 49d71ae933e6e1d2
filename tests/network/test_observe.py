import random
from collections import deque

import numpy as np
import pytest
import torch
from networks import ZOO, Caching, Conv, InPlace, Recurrent, mlp, specimen
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend
from torch.testing import assert_close
from torchmetrics import MeanMetric

from lightning_effcx.metrics import Transitions
from lightning_effcx.network.observe import check_finite, differentiating, evaluate, observing


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002, S311 the global ones


@pytest.fixture(params=[False, True], ids=["calmly", "after an exception"])
def observed(request):
    """Run something under `observing`, and perhaps fail at the end of it."""

    def run(network, act=lambda: None):
        try:
            with observing(network):
                act()
                if request.param:
                    raise KeyError  # noqa: TRY301
        except KeyError:
            assert request.param

    return run


def test_each_module_gets_its_own_mode_back(observed):
    network = Conv()
    network.norm.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    assert len(set(modes.values())) == 2
    inside = []
    observed(network, lambda: inside.extend(m.training for m in network.modules()))
    assert not any(inside)
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_train_and_eval_of_the_user_are_not_called(observed):
    class Strict(nn.Module):
        def train(self, mode: bool = True):  # noqa: FBT001, FBT002 as torch declares it
            raise AssertionError(mode)

    network = nn.Sequential(Strict())
    network.training = True
    observed(network)
    assert network.training
    assert network[0].training


def test_random_states_go_on_as_if_nothing_had_been_drawn(observed):
    network = mlp(2, 3)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    expected = draw()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    observed(network, draw)
    assert draw() == expected


def test_attributes_assigned_in_forward_are_put_back(observed):
    network = nn.Sequential(Caching())
    observed(network, lambda: network(torch.randn(2, 4)))
    assert network[0].calls == 0
    assert network[0].table is None
    network(torch.randn(2, 4))
    table = network[0].table
    observed(network, lambda: network(torch.randn(2, 4)))
    assert network[0].calls == 1
    assert network[0].table is table


def test_attributes_that_are_new_are_taken_away(observed):
    network = mlp(2, 3)
    observed(network, lambda: setattr(network[0], "last", 1))
    assert not hasattr(network[0], "last")


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("assigned", torch.zeros(2))
        self.register_buffer("empty", None)

    def forward(self, x):
        self.written += 1
        self.assigned = self.assigned + 1
        self.empty = x
        self.register_buffer("new", x)
        return x


def test_buffers_are_put_back_whether_written_or_assigned(observed):
    network = Buffered()
    written, assigned = network.written, network.assigned
    observed(network, lambda: network(torch.zeros(1, 2)))
    assert network.written is written
    assert network.assigned is assigned
    assert_close(written, torch.zeros(2))
    assert_close(assigned, torch.zeros(2))
    assert network.empty is None
    assert not hasattr(network, "new")


def test_buffers_that_nobody_wrote_to_are_not_written_to_either(observed):
    network = Conv()
    versions = {name: buffer._version for name, buffer in network.named_buffers()}
    observed(network, lambda: network(torch.randn(2, 1, 6, 6)))
    assert {name: buffer._version for name, buffer in network.named_buffers()} == versions


def test_what_was_made_in_inference_mode_can_be_differentiated_and_is_put_back(observed):
    # As when Lightning validates a network that caches a table at its first call.
    network = Caching()
    network.register_buffer("scale", None)
    with torch.inference_mode():
        network(torch.randn(2, 4))
        network.scale = torch.ones(3)
    table, scale = network.table, network.scale

    def differentiate():
        x = torch.randn(2, 4, requires_grad=True)
        with torch.enable_grad():
            (grad,) = torch.autograd.grad((network(x) * network.scale).sum(), x)
        assert grad.abs().sum() > 0
        network.scale += 1

    observed(network, differentiate)
    assert network.table is table
    assert network.scale is scale
    assert table.is_inference()
    assert_close(scale, torch.ones(3))


def test_gradients_of_the_user_are_not_touched(observed):
    network = mlp(2, 3, 1)
    network[0].weight.grad = torch.ones(3, 2)
    x = torch.randn(4, 2, requires_grad=True)
    observed(network, lambda: _differentiate(network, x))
    assert_close(network[0].weight.grad, torch.ones(3, 2))
    assert network[0].bias.grad is None
    assert x.grad is None


def _differentiate(network, x):
    with torch.enable_grad():
        torch.autograd.grad(network(x).sum(), x)


def test_autocast_is_off_inside_and_as_before_outside(observed):
    network, inside = mlp(2, 3), []
    with torch.autocast("cpu", torch.bfloat16):
        observed(network, lambda: inside.append(network(torch.randn(4, 2)).dtype))
        assert torch.is_autocast_enabled("cpu")
        assert network(torch.randn(4, 2)).dtype == torch.bfloat16
    assert inside == [torch.float32]
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_modes_of_autograd_are_off_inside_and_as_before_outside(observed, mode):
    inside = []

    def look():
        inside.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        observed(mlp(2, 3), look)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert inside == [(False, False)]


def test_the_choice_of_kernels_is_as_before(observed):
    def kernels():
        return (
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.mkldnn.enabled,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch._fused_sdp_choice(*torch.zeros(3, 1, 1, 2, 2)),
        )

    before, inside = kernels(), []
    observed(Recurrent(nn.LSTM), lambda: inside.append(kernels()))
    assert inside == [(False, False, False, False, True, SDPBackend.MATH.value)]
    assert kernels() == before


def test_observing_may_be_nested():
    network = Conv()
    with observing(network):
        with observing(network.norm), observing(network):
            assert not network.norm.training
        assert not any(m.training for m in network.modules())
        assert not torch.is_grad_enabled()
    assert all(m.training for m in network.modules())


def test_a_bound_method_stands_for_its_module():
    network = Conv()
    with observing(network.forward):
        assert not any(m.training for m in network.modules())
    assert all(m.training for m in network.modules())


def test_other_callables_are_observed_as_far_as_they_are_known():
    network = mlp(2, 3)
    before = draw()[0]
    with observing(lambda x: network(x)), observing(network):  # noqa: PLW0108 a callable of its own
        inside = draw()[0]
        assert not network.training
    assert inside == draw()[0] != before


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_compiled_is_compiled_for_training_as_if_nobody_had_looked(in_place):
    class Net(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x))

    def compiled_for(look):
        torch._dynamo.reset()
        counters.clear()
        net = Net(nn.Linear(3, 4), nn.ReLU())
        if in_place:
            net.compile(backend="eager")
        else:
            net = torch.compile(net, backend="eager")
        net(torch.randn(2, 3))  # as a validation before does
        if look:
            with observing(net):
                net(torch.randn(5, 3))
                torch.func.jvp(net, (torch.randn(2, 3),), (torch.randn(2, 3),))
            Transitions().update(net, torch.randn(4, 3))
        net.train()(torch.randn(2, 3)).sum().backward()
        with torch.no_grad():
            net(torch.randn(2, 3))
        return dict(counters["stats"])

    assert compiled_for(look=True) == compiled_for(look=False) != {}


def test_scripted_modules_get_their_mode_back(observed):
    network, x = specimen("scripted")
    observed(network, lambda: network(x))
    assert network.training
    assert all(m.training for m in network.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["transformer", "attention", "lstm", "gru", "conv", "in_place"])
def test_every_derivative_works_inside_and_they_agree(name, mode):
    # In float32, since only there the fused kernels are taken that know no derivatives.
    network, x = specimen(name)
    with mode(), observing(network):
        x = x.clone()
        v = torch.randn_like(x)
        f, forward = torch.func.jvp(network, (x,), (v,))
        with torch.enable_grad():
            x.requires_grad_()
            y = network(x)
            u = torch.randn_like(y, requires_grad=True)
            (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)
            (twice,) = torch.autograd.grad((pulled * v).sum(), u)
        # The kernels are float32 and add up in another order, forwards and backwards.
        assert_close(f, y.detach())
        assert_close((forward * u).sum(), (pulled * v).sum(), rtol=1e-4, atol=1e-5)
        assert_close(twice, forward, rtol=1e-4, atol=1e-5)
        assert forward.abs().max() > 1e-3  # and not the silent zeros of inference mode


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_leaves_no_trace_and_computes_what_it_would_in_eval_mode(name):
    network, x = specimen(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with observing(network):
        first, again = network(x), network(x)
    assert_close(first, again, rtol=0, atol=0)
    assert_close(first, network.eval()(x).detach(), rtol=1e-4, atol=1e-5)  # fused or not, float32
    assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


def test_in_place_networks_do_not_write_into_the_observer():
    network, x = InPlace(), torch.randn(3, 4)
    kept = x.clone()
    with observing(network):
        network(x)
    assert_close(x, kept)


class Collecting(nn.Module):
    """Its forward leaves something in whatever a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = [1.0]
        self.by_name: dict[str, list[Tensor]] = {"sums": []}
        self.lengths = {0}
        self.last: deque[Tensor] = deque(maxlen=2)
        self.total = torch.zeros(())
        self.metric = MeanMetric()
        self.by_name["itself"] = self.by_name  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(2.0)
        self.by_name["sums"].append(x.sum())
        self.by_name["more"] = [x]
        self.lengths.add(len(x))
        self.last.append(x)
        self.total += x.sum()
        self.metric.update(x)
        return x


def test_what_a_forward_collects_is_as_before():
    network = Collecting()
    network.last.append(torch.zeros(1))
    with observing(network):
        network(torch.ones(3))
    assert network.seen == [1.0]
    assert network.by_name == {"sums": [], "itself": network.by_name}
    assert network.lengths == {0}
    assert list(network.last) == [torch.zeros(1)]
    assert network.total == 0
    assert network.metric.weight == 0


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_differentiating_keeps_the_choice_to_record(recording, inference):
    with torch.inference_mode(inference), torch.set_grad_enabled(recording):
        with differentiating():
            assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled() == recording
        assert torch.is_inference_mode_enabled() == inference
        assert torch.is_grad_enabled() == recording


def test_evaluate_returns_the_outputs():
    network, x = mlp(2, 3), torch.randn(4, 2)
    assert_close(evaluate(network, x), network(x))


@pytest.mark.parametrize("outputs", [(), {}, None, [1]])
def test_evaluate_says_what_else_the_network_returned(outputs):
    message = f"returned a {type(outputs).__name__}, expected one tensor of shape"
    with pytest.raises(TypeError, match=message):
        evaluate(lambda _: outputs, torch.zeros(4, 2))


@pytest.mark.parametrize("shape", [(4,), (4, 2, 3), (3, 2), ()])
def test_evaluate_says_which_shape_it_expected(shape):
    with pytest.raises(ValueError, match=r"for 4 samples, expected \(4, k\): reshape it"):
        evaluate(lambda _: torch.zeros(shape), torch.zeros(4, 2))


def test_outputs_that_are_not_finite_are_counted_by_the_sample():
    outputs = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf], [0.0, -torch.inf]])
    check_finite(outputs[:1])
    with pytest.raises(ValueError, match=r"^the network's outputs are not finite for 2 of 3 sampl"):
        check_finite(outputs)
    with pytest.raises(ValueError, match=r"for 2 of 3 probes\.$"):
        check_finite(outputs, "probes")
