import pytest
import torch
from networks import mlp
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import boundary_distance, linear_regions, transitions

COARSE = {
    "half": lambda x: x.half().float(),
    "bfloat16": lambda x: x.to(torch.bfloat16).to(x.dtype),
    "type": lambda x: x.type(torch.float16).to(x.dtype),
    "sum": lambda x: x + x.sum(1, keepdim=True, dtype=torch.bfloat16),
    "copy_": lambda x: torch.zeros(x.shape, dtype=torch.float16).copy_(x).to(x.dtype),
    "complex": lambda x: x.to(torch.complex32).real.to(x.dtype),
}
FINE = {
    "float": lambda x: x.float(),
    "double": lambda x: x.double().to(x.dtype),
    "its own": lambda x: x.to(x.dtype),
    "sum": lambda x: x + x.sum(1, keepdim=True, dtype=torch.float64).to(x.dtype),
    "copy_": lambda x: torch.zeros(x.shape).copy_(x),
    "new zeros": lambda x: x + torch.zeros_like(x, dtype=torch.float16),
    "complex": lambda x: x.to(torch.complex64).real,
}


class Cast(nn.Module):
    """A network that casts its input, and after its first layer."""

    def __init__(self, cast) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cast = cast
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.second(F.relu(self.cast(self.first(self.cast(x)))))


@pytest.mark.parametrize("name", COARSE)
def test_a_cast_that_rounds_is_refused(name):
    network, path = Cast(COARSE[name]), torch.randn(3, 3, 4)
    message = r"^'\w+' rounds numbers of torch.float32 to torch.(b?float16|complex32), which has"
    with pytest.raises(ValueError, match=message):
        linear_regions(network, path)
    with pytest.raises(ValueError, match=message):
        boundary_distance(network, path[:, 0])


def test_sampled_measures_take_a_network_that_rounds_as_it_is():
    assert transitions(Cast(COARSE["half"]), torch.randn(3, 20, 4)).sum() > 0


@pytest.mark.parametrize("name", FINE)
def test_a_cast_that_does_not_round_is_the_identity(name):
    network, path = Cast(FINE[name]), torch.randn(3, 3, 4)

    def without(x):
        added = FINE[name] if name == "sum" else lambda x: x
        return network.second(F.relu(added(network.first(added(x)))))

    assert_close(linear_regions(network, path), linear_regions(without, path))
    assert_close(boundary_distance(network, path[:, 0]), boundary_distance(without, path[:, 0]))


def test_double_precision_knows_that_single_precision_rounds():
    network, path = Cast(lambda x: x.float().double()).double(), torch.randn(3, 3, 4).double()
    with pytest.raises(ValueError, match=r"'to_copy' rounds numbers of torch.float64 to torch.fl"):
        linear_regions(network, path)


def test_a_network_in_half_precision_may_cast_its_input():
    network, path = mlp(4, 16, 2).half(), torch.randn(3, 3, 4)
    exact = linear_regions(mlp_like(network), path)
    assert_close(linear_regions(lambda x: network(x.half()), path), exact)


def mlp_like(network):
    """The same numbers in single precision."""
    same = mlp(4, 16, 2)
    same.load_state_dict(network.state_dict())
    return same


def test_a_cast_beside_the_outputs_does_not_count():
    network = mlp(4, 16, 2)

    def with_log(x):
        network.logged = x.half().sum()
        return network(x)

    path = torch.randn(3, 3, 4)
    assert_close(linear_regions(with_log, path), linear_regions(network, path))
