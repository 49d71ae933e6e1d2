import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import lann_complexity
from lightning_effcx.metrics import LANNComplexity
from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tracing.custom_activations import as_one
from lightning_effcx.tracing.units import find_sites

pytestmark = pytest.mark.usefixtures("_float64")


class Swish(nn.Module):
    """The sigmoid linear unit, as one would write it."""

    def forward(self, x):
        return x * torch.sigmoid(x)


class Scaled(Swish):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class Normalising(nn.Module):
    def forward(self, x):
        return x / (1 + x.norm())


class Bent(nn.Module):
    def forward(self, x):
        return torch.relu(x) - 0.1 * torch.relu(-x)


class Failing(nn.Module):
    def forward(self, x):
        raise KeyError


def network(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 2))


def kinds(module, x):
    return [site.kind for site in find_sites(module, x).values()]


def test_a_curve_of_several_operations_is_one_while_it_is_open():
    module, x = network(Swish()), torch.randn(5, 3)
    expected = module(x)
    with as_one(module):
        assert kinds(module, x) == ["curve", "curve"]
        assert_close(module(x), expected)
    assert "other" in kinds(module, x)
    assert "forward" not in vars(module[1])


def test_it_has_derivatives_of_every_order():
    module, z = Swish(), torch.randn(6, requires_grad=True)
    with as_one(module):
        assert torch.autograd.gradcheck(module, z)
        assert torch.autograd.gradgradcheck(module, z)


@pytest.mark.parametrize("module", [Scaled(), Normalising(), Bent(), Failing(), nn.SiLU()])
def test_what_is_no_curve_of_every_entry_by_itself_stays_what_it_is(module):
    with as_one(nn.Sequential(module)):
        assert "forward" not in vars(module)


def test_it_is_closed_after_an_error():
    module = network(Swish())
    with pytest.raises(KeyError), as_one(module):
        raise KeyError
    assert "forward" not in vars(module[1])


def test_a_curve_of_torch_in_several_operations_is_one_too():
    module, x = network(nn.Softsign()), torch.randn(5, 3)
    expected = module(x)
    with as_one(module):
        sites = find_sites(module, x)
        assert {name: site.kind for name, site in sites.items()} == {"1": "curve", "1_2": "curve"}
        assert_close(module(x), expected)


class Softsign(nn.Module):
    """The same in other operations."""

    def forward(self, x):
        return x * (1 + x.abs()).reciprocal()


def test_the_lann_complexity_of_softsign_does_not_depend_on_how_it_is_written():
    x = torch.randn(60, 3)
    found = lann_complexity(network(nn.Softsign()), x, tolerance=0.02)
    expected = lann_complexity(network(Softsign()), x, tolerance=0.02)
    assert found.complexity == expected.complexity > 0
    assert found.measured_error <= found.propagated_error <= 0.02
    apart = (network(nn.Softsign())(x) - found.network(x)).abs().mean().item()
    assert_close(found.measured_error, apart)


@pytest.mark.parametrize("error", ["propagated", "measured"])
def test_its_lann_complexity_is_that_of_torchs_own(error):
    x = torch.randn(60, 3)
    found = lann_complexity(network(Swish()), x, tolerance=0.002, error=error)
    expected = lann_complexity(network(nn.SiLU()), x, tolerance=0.002, error=error)
    assert found.complexity == expected.complexity > 0
    assert_close(found.propagated_error, expected.propagated_error)
    assert_close(found.measured_error, expected.measured_error)
    path = torch.randn(4, 2, 3)
    regions = pieces(found.network, path).regions()
    assert_close(regions, pieces(expected.network, path).regions())
    assert (regions > 1).all()


def test_its_metric_is_the_same_in_inference_mode():
    module, x = network(Swish()), torch.randn(60, 3)
    metric = LANNComplexity(tolerance=0.01)
    metric.update(module, x)
    expected = metric.compute()
    metric.reset()
    with torch.inference_mode():
        metric.update(module, x + 0)
        assert_close(metric.compute(), expected, rtol=0, atol=0)
    assert expected["lann_complexity"] > 0


def test_one_that_is_no_module_of_its_own_is_told_to_be_one():
    module = nn.Linear(3, 3)

    def forward(x):
        h = module(x)
        return h * F.sigmoid(h)

    with pytest.raises(
        ValueError, match=r"^site 'mul' .* make an activation of several operations"
    ):
        lann_complexity(forward, torch.randn(5, 3), error="measured")
