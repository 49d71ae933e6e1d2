import pytest
import torch
from networks import mlp
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.tangents.amplification import error_amplification
from lightning_effcx.tracing.units import find_sites

pytestmark = pytest.mark.usefixtures("_float64")


def mean_slopes(apply, z):
    """The mean over samples of the absolute slope of each unit."""
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(apply(z).sum(), z)
    return slope.abs().mean(0)


@pytest.mark.parametrize(
    "activation", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.SELU, nn.Softplus, nn.ReLU, nn.Hardtanh]
)
@pytest.mark.parametrize("chunk", [4, 1000])
def test_the_amplification_of_connected_layers_is_a_product_of_absolute_jacobians(
    activation, chunk
):
    network, x = mlp(5, 7, 6, 4, 3, activation=activation), torch.randn(11, 5)
    found = error_amplification(network, x, chunk=chunk)
    expected = network[6].weight.abs().sum(0) / 3
    for site, linear in (("5", network[4]), ("3", network[2]), ("1", None)):
        assert_close(found[site], expected.detach())
        if linear is not None:
            z = network[: int(site)](x)
            expected = (expected * mean_slopes(network[int(site)], z)) @ linear.weight.abs()


class Branches(nn.Module):
    """tanh, then the difference of a path as it is and one that passes a GELU, and a skip."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.norm.weight.data.uniform_(-1, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        g = F.gelu(self.norm(self.second(h)))
        return self.head(torch.cat([h - g, -2.0 * g], 1))


def test_paths_through_branches_add_up_whatever_their_signs():
    network, x = Branches().eval(), torch.randn(9, 3)
    found = error_amplification(network, x)
    head = network.head.weight.abs().sum(0) / 2
    gelu = head[:4] + 2 * head[4:]
    assert_close(found["gelu"], gelu.detach())
    norm = network.norm.weight.abs() / (network.norm.running_var + network.norm.eps).sqrt()
    slopes = mean_slopes(F.gelu, network.norm(network.second(torch.tanh(network.first(x)))))
    tanh = head[:4] + (gelu * slopes * norm) @ network.second.weight.abs()
    assert_close(found["tanh"], tanh.detach())


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.max_pool2d(torch.tanh(self.conv(x)), 2).flatten(1))


def test_a_pooling_window_passes_on_to_each_element_as_often_as_it_wins():
    network, x = Pooled(), torch.randn(13, 1, 6, 6)
    found = error_amplification(network, x)
    head = network.head.weight.abs().sum(0) / 3
    assert_close(found["max_pool2d_with_indices"], head.detach())
    h = torch.tanh(network.conv(x)).reshape(13, 2, 2, 2, 2, 2).permute(0, 1, 2, 4, 3, 5).flatten(4)
    wins = F.one_hot(h.argmax(4), 4).double().mean(0)  # (2, 2, 2, 4)
    expected = head.reshape(2, 2, 2, 1) * wins
    expected = expected.unflatten(3, (2, 2)).transpose(2, 3).reshape(-1)
    assert_close(found["tanh"], expected.detach())


class Sequence(nn.Module):
    """Time first: its units are (5, n, 3)."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(2, 3), nn.Linear(15, 2)

    def forward(self, x):
        h = F.silu(torch.tanh(self.layer(x.transpose(0, 1))))
        return self.head(h.transpose(0, 1).flatten(1))


def test_samples_may_be_the_second_dimension():
    network, x = Sequence(), torch.randn(4, 5, 2)
    found = error_amplification(network, x)
    head = network.head.weight.abs().sum(0) / 2
    assert_close(found["silu"], head.detach())
    slopes = mean_slopes(F.silu, torch.tanh(network.layer(x)).flatten(1))
    assert_close(found["tanh"], (head * slopes).detach())


def test_a_maximum_passes_on_to_both_sides_by_how_often_they_win():
    layer = nn.Linear(2, 4)

    class Maximum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            a, b = torch.tanh(self.layer(x)).chunk(2, 1)
            return torch.maximum(a, b)

    x = torch.randn(10, 2)
    a, b = torch.tanh(layer(x)).chunk(2, 1)
    wins = (a > b).double().mean(0) / 2
    assert_close(error_amplification(Maximum(), x)["tanh"], torch.cat([wins, 0.5 - wins]))


def test_units_that_the_outputs_do_not_need_have_no_amplification():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            torch.sigmoid(x)
            return self.layer(torch.tanh(x))

    found = error_amplification(Idle(), torch.randn(4, 2))
    assert "sigmoid" not in found
    assert (found["tanh"] > 0).all()


def test_bound_methods_work_and_existing_gradients_are_kept():
    network, x = mlp(3, 4, 2, activation=nn.Tanh), torch.randn(6, 3)
    outside = torch.ones(2, requires_grad=True)
    outside.grad = torch.full((2,), 3.0)

    class With(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def scaled(self, x):
            return self.network(x) * outside

    before = [p.detach().clone() for p in network.parameters()]
    (found,) = error_amplification(With().scaled, x).values()
    assert_close(found, error_amplification(network, x)["1"])
    assert outside.grad.tolist() == [3.0, 3.0]
    assert all(p.grad is None for p in network.parameters())
    assert_close([p.detach() for p in network.parameters()], before)


def test_amplifications_have_the_names_of_their_sites():
    network, x = Branches().eval(), torch.randn(9, 3)
    assert [*error_amplification(network, x)] == [*find_sites(network, x)]


def test_a_function_and_a_scripted_module_are_refused():
    network = mlp(2, 3, 1, activation=nn.Tanh)
    message = r"needs the weights of a torch.nn.Module, got a .*: pass the module .*'measured'"
    for other in (lambda x: network(x) + 0, torch.jit.script(network)):
        with pytest.raises(ValueError, match=message):
            error_amplification(other, torch.randn(4, 2))


def test_a_comparison_is_refused_since_it_has_no_derivative():
    class Compared(nn.Module):
        def forward(self, x):
            h = torch.tanh(x)
            return torch.where(h > 0, h, 0.0)

    with pytest.raises(ValueError, match=r"site 'gt' \(gt\) has no derivative of its own"):
        error_amplification(Compared(), torch.randn(4, 2))


def test_a_part_that_is_written_in_place_is_refused():
    class Partly(nn.Module):
        def forward(self, x):
            h = x * 2
            h[:, :1].tanh_()
            return h

    with pytest.raises(ValueError, match="written in place into a part of a tensor"):
        error_amplification(Partly(), torch.randn(4, 2))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_network_that_decides_by_its_weights_is_refused(sign):
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(-1.0))

        def forward(self, x):
            h = torch.tanh(self.weight * x)
            return torch.tanh(h) if sign * self.weight > 0 else h

    there, here = (1, 2) if sign < 0 else (2, 1)
    message = f"runs {there} nonlinear operations with the absolute .* and {here} with its own"
    with pytest.raises(ValueError, match=message):
        error_amplification(Deciding(), torch.randn(4, 2))
