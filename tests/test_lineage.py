import numpy as np
import pytest
import torch
from networks import mlp
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_effcx.amplification import amplification
from lightning_effcx.metrics.lann import lann_complexity
from lightning_effcx.metrics.patterns import activation_patterns
from lightning_effcx.metrics.regions import transitions
from lightning_effcx.metrics.trajectory import trajectory_length
from lightning_effcx.observe import in_precision
from lightning_effcx.units import units

LABELS = torch.arange(6) % 3


class Beside(nn.Module):
    """A network that computes something else beside its outputs, before, within or after them."""

    def __init__(self, beside, activation):
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.activation = activation
        self.last = nn.Linear(5, 3)
        self.beside = beside

    def forward(self, x):
        h = self.activation(self.first(x))
        if self.beside is not None:
            self.beside(h, self.last(h))
        return self.last(h)


def loss_with_labels(h, y):
    cross_entropy(y, LABELS[: len(y)])


def accuracy(h, y):
    (y.argmax(1) == LABELS[: len(y)]).float().mean()


def auxiliary_head(h, y):
    torch.sigmoid(torch.relu(h[:, :2]) - 1)


def statistics_of_the_batch(h, y):
    torch.relu(y.mean(0) - y.std(0)).sum()


def noise(h, y):
    torch.relu(h + torch.randn_like(h)).tanh()


def written_in_place(h, y):
    other = torch.zeros(len(h), 4)
    other[:, 0] = h[:, 0]
    other.relu_()


BESIDE = [
    loss_with_labels,
    accuracy,
    auxiliary_head,
    statistics_of_the_batch,
    noise,
    written_in_place,
]


def pair(beside, activation):
    network, alone = Beside(beside, activation), Beside(None, activation)
    alone.load_state_dict(network.state_dict())
    return network.eval(), alone.eval()


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize(
    "measure",
    [
        lambda network, x: dict.fromkeys(units(network, x), torch.zeros(1)),
        lambda network, x: {"": transitions(network, x[None])},
        lambda network, x: {"": activation_patterns(network, x)},
        lambda network, x: trajectory_length(network, x[None]),
    ],
    ids=["units", "transitions", "activation_patterns", "trajectory_length"],
)
def test_what_the_outputs_do_not_depend_on_does_not_count(beside, measure):
    network, alone = pair(beside, nn.ReLU())
    x = torch.randn(6, 4)
    found, expected = measure(network, x), measure(alone, x)
    assert [*found] == [*expected]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("beside", [loss_with_labels, accuracy, auxiliary_head])
def test_what_the_outputs_do_not_depend_on_does_not_count_in_lann(beside):
    network, alone = pair(beside, nn.Tanh())
    x = torch.randn(6, 4)
    found, expected = lann_complexity(network, x), lann_complexity(alone, x)
    assert found.complexity == expected.complexity
    assert [*found.pieces] == [*expected.pieces] == ["activation"]
    assert found.measured_error == expected.measured_error
    assert [*amplification(network, x)] == ["activation"]
    assert torch.equal(found.network(x), expected.network(x))


def through_numpy(x):
    return torch.relu(x) + torch.from_numpy(np.sin(torch.relu(-x).numpy()))


def through_a_list(x):
    return x + torch.tensor(torch.relu(x).tolist())


def through_a_number(x):
    return x * torch.relu(x).sum().item()


def through_an_array(x):
    return x + torch.from_numpy(np.asarray(torch.relu(x)))


def through_control_flow(x):
    return x if torch.relu(x).sum() > 1 else -x


def through_a_mask(x):
    return torch.where(torch.relu(x) > 0.5, x, 2 * x)


def through_indices(x):
    return x.gather(1, torch.relu(x).argmax(1, keepdim=True))


def through_a_buffer(x):
    table = torch.zeros(len(x), 4)
    table[:, :] = torch.relu(x)
    return x + table


@pytest.mark.parametrize(
    "network",
    [
        through_numpy,
        through_a_list,
        through_a_number,
        through_an_array,
        through_control_flow,
        through_a_mask,
        through_indices,
        through_a_buffer,
    ],
)
def test_whatever_may_lead_to_the_outputs_counts(network):
    with torch.no_grad():
        assert "relu" in units(network, torch.randn(6, 4))


def test_an_error_at_a_site_counts_only_if_the_outputs_depend_on_it():
    layer = mlp(4, 5, 3)

    def pooled(x):
        return torch.relu(layer(x).sum(0))

    units(lambda x: (pooled(x), layer(x))[1], torch.randn(6, 4))
    with pytest.raises(ValueError, match=r"^site 'relu' has units of shape \(3,\) for 6 samples"):
        units(lambda x: layer(x) + pooled(x), torch.randn(6, 4))


def test_the_precision_of_a_network_with_something_beside_it_can_be_changed():
    network, alone = pair(loss_with_labels, nn.ReLU())
    x = torch.randn(6, 4, dtype=torch.float64)
    with torch.no_grad():
        found = in_precision(network, torch.float64)(x)
        assert torch.equal(found, in_precision(alone, torch.float64)(x))
