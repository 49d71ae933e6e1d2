import numpy as np
import pytest
import torch
from networks import mlp
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import lann_complexity
from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tangents.substitution import SubstitutedNetwork, difference

pytestmark = pytest.mark.usefixtures("_float64")


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh_(self.first(x))
        h = F.silu(self.second(h), inplace=True)
        h += 1
        return F.logsigmoid(h)


class Conv(nn.Module):
    """Residual, with in-place and overlapping parts, a batch size, and kinks among the curves."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.norm.running_var.uniform_(0.5, 2)
        self.head = nn.Linear(18, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = F.relu(h + F.gelu(self.norm(self.second(h))), inplace=True)
        return self.head(F.max_pool2d(h, 2).view(len(x), -1))


NETWORKS = {
    "tanh": (lambda: mlp(2, 8, 6, 3, activation=nn.Tanh), (2,)),
    "gelu": (lambda: mlp(2, 8, 6, 3, activation=nn.GELU), (2,)),
    "selu": (lambda: mlp(2, 8, 6, 3, activation=nn.SELU), (2,)),
    "in place": (InPlace, (2,)),
    "conv": (lambda: Conv().eval(), (1, 6, 6)),
}


@pytest.fixture(params=NETWORKS)
def approximated(request):
    make, shape = NETWORKS[request.param]
    network, x = make(), 2 * torch.randn(20, *shape)
    return network, x, lann_complexity(network, x, tolerance=0.02)


def test_it_is_linear_between_the_knots_that_pieces_finds(approximated):
    _, x, lann = approximated
    path = torch.stack([-3 * x[:4], 3 * x[:4]], 1)
    found = pieces(lann.network, path, keep=["output"])
    assert (found.regions() > 1).all()
    for s, (a, b) in enumerate(path):
        knots = found.position[found.path == s]
        ends = torch.cat([torch.zeros(1), knots, torch.ones(1)])
        t = torch.stack([ends[:-1], (ends[1:] + ends[:-1]) / 2, ends[1:]])
        t = t.reshape(-1, *[1] * a.dim())
        low, middle, high = lann.network(a + t * (b - a)).reshape(3, len(ends) - 1, -1)
        assert_close(middle, (low + high) / 2, rtol=0, atol=1e-9)
        values = lann.network(a + knots.reshape(-1, *[1] * a.dim()) * (b - a))
        assert_close(values, found.values["output"][found.path == s], rtol=0, atol=1e-9)


def test_it_takes_any_number_of_rows_and_leaves_the_network_alone(approximated):
    network, x, lann = approximated
    before = network(x)
    parts = torch.cat([lann.network(part) for part in x.split([1, 7, 12])])
    assert_close(parts, lann.network(x))
    assert_close(network(x), before, rtol=0, atol=0)
    with torch.inference_mode():
        assert_close(lann.network(x + 0), parts)


def test_its_difference_is_the_mean_over_samples_and_outputs(approximated):
    network, x, lann = approximated
    expected = float((network(x).detach() - lann.network(x)).abs().mean())
    for chunk in (3, 1000):
        assert_close(difference(network, lann.network, x, chunk), expected)
    assert_close(lann.measured_error, expected)


def test_it_records_no_gradients():
    network, x = mlp(2, 4, 1, activation=nn.Tanh), torch.randn(5, 2, requires_grad=True)
    assert not lann_complexity(network, x.detach()).network(x).requires_grad


def test_it_agrees_with_interpolation_in_plain_numpy():
    network, x = mlp(3, 6, 5, 2, activation=nn.Tanh), 2 * torch.randn(40, 3)
    lann = lann_complexity(network, x, tolerance=0.1)

    def broken(points, z):
        """The tangents of tanh at some points, joined where neighbours meet."""
        p = np.sort(points)
        phi, slope = np.tanh(p), 1 - np.tanh(p) ** 2
        meet = np.diff(phi - slope * p) / -np.diff(slope)
        ends = np.concatenate([[-1e3], meet, [1e3]])
        last = np.concatenate([[0], np.arange(len(p))])  # which tangent goes through each end
        return np.interp(z, ends, phi[last] + slope[last] * (ends - p[last]))

    h = x.numpy()
    for linear, site in ((network[0], "1"), (network[2], "3")):
        z = h @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        units = zip(lann.tangents[site], z.T, strict=True)
        h = np.stack([broken(points.numpy(), z) for points, z in units], 1)
    expected = h @ network[4].weight.detach().numpy().T + network[4].bias.detach().numpy()
    assert_close(lann.network(x), torch.tensor(expected))
    apart = np.abs(expected - network(x).detach().numpy()).mean()
    assert_close(lann.measured_error, float(apart))


def test_it_computes_in_the_precision_of_the_network():
    network, x = mlp(2, 5, 1, activation=nn.GELU).float(), torch.randn(9, 2, dtype=torch.float32)
    lann = lann_complexity(network, x, tolerance=0.01)
    assert lann.network(x).dtype == torch.float32
    exact = SubstitutedNetwork(network.double(), lann.network.lines)(x.double())
    assert_close(lann.network(x.double()), exact)
    # By `pieces` in float64, whatever the precision of the parameters.
    network.float()
    assert pieces(lann.network, torch.tensor([[[-9.0, 0.0], [9.0, 1.0]]])).regions() > 1


class Steps(nn.Module):
    """Runs one layer at each step, with the samples first or second, or flattened with steps."""

    def __init__(self, order):
        super().__init__()
        self.order, self.layer, self.head = order, nn.Linear(2, 3), nn.Linear(9, 2)

    def forward(self, x):
        if self.order == "samples first":
            return self.head(torch.tanh(self.layer(x)).flatten(1))
        h = x.transpose(0, 1)
        rows = h if self.order == "steps first" else h.reshape(-1, 2)
        h = torch.tanh(self.layer(rows)).reshape(*h.shape[:2], 3)
        return self.head(h.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("error", ["propagated", "measured"])
@pytest.mark.parametrize("count", [3, 7, 12])
@pytest.mark.parametrize("order", ["steps first", "flattened"])
def test_the_dimension_of_the_samples_does_not_matter(order, count, error):
    expected, network = Steps("samples first"), Steps(order)
    network.load_state_dict(expected.state_dict())
    x = 2 * torch.randn(count, 3, 2)
    options = {"tolerance": 0.01, "error": error, "chunk": 6}
    found, expected = (lann_complexity(n, x, **options) for n in (network, expected))
    assert found.complexity == expected.complexity > 0
    assert_close(found.pieces, expected.pieces)
    assert_close(found.propagated_error, expected.propagated_error)
    assert_close(found.measured_error, expected.measured_error)
    assert_close(found.network(x), expected.network(x))


def test_a_network_whose_units_change_their_number_is_refused():
    class Growing(nn.Module):
        times = 1

        def forward(self, x):
            return torch.tanh(x.repeat(1, self.times))[:, :2]

    network, x = Growing(), torch.randn(5, 2)
    lann = lann_complexity(network, x)
    network.times = 2
    message = r"site 'tanh' has pre-activations of shape \(5, 4\), expected 2 units for each of 5"
    with pytest.raises(ValueError, match=message):
        lann.network(x)


def test_a_network_must_do_the_same_at_every_call():
    class Changing(nn.Module):
        twice = False

        def forward(self, x):
            return torch.tanh(torch.tanh(x)) if self.twice else torch.tanh(x)

    network, x = Changing(), torch.randn(5, 2)
    lann = lann_complexity(network, x)
    network.twice = True
    with pytest.raises(
        ValueError, match="site 'tanh_2' did not run when the network was approximated"
    ):
        lann.network(x)
