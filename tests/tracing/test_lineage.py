import numpy as np
import pytest
import torch
from networks import mlp
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_effcx.metrics.boundary_distance import boundary_distance
from lightning_effcx.metrics.capacity import region_capacity
from lightning_effcx.metrics.lann import lann_complexity
from lightning_effcx.metrics.patterns import activation_patterns
from lightning_effcx.metrics.trajectory import trajectory_length
from lightning_effcx.metrics.transitions import transitions
from lightning_effcx.network.precision import in_precision
from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tangents.amplification import error_amplification
from lightning_effcx.tracing.units import find_sites


class Beside(nn.Module):
    """A network that computes something else beside its outputs, before, within or after them."""

    def __init__(self, beside, activation):
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.activation = activation
        self.last = nn.Linear(5, 3)
        self.beside = beside

    def forward(self, x):
        labels = torch.arange(len(x)) % 3
        h = self.activation(self.first(x))
        if self.beside is not None:
            self.beside(h, self.last(h), labels)
        return self.last(h)


def loss_with_labels(h, y, labels):
    cross_entropy(y, labels)


def accuracy(h, y, labels):
    (y.argmax(1) == labels).float().mean()


def auxiliary_head(h, y, labels):
    torch.sigmoid(torch.relu(h[:, :2]) - 1)


def statistics_of_the_batch(h, y, labels):
    torch.relu(y.mean(0) - y.std(0)).sum()


def noise(h, y, labels):
    torch.relu(h + torch.randn_like(h)).tanh()


def written_in_place(h, y, labels):
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
        lambda network, x: dict.fromkeys(find_sites(network, x), torch.zeros(1)),
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
    assert [*error_amplification(network, x)] == ["activation"]
    assert torch.equal(found.network(x), expected.network(x))


def through_numpy(x):
    return torch.relu(x) + torch.from_numpy(np.sin(torch.relu(-x).numpy()))


def through_a_list(x):
    return x + torch.tensor(torch.relu(x).tolist())


def through_a_number(x):
    return x * torch.relu(x).sum().item()


def through_an_array(x):
    return x + torch.from_numpy(np.asarray(torch.relu(x)))


def through_a_list_of_tensors(x):
    return x + torch.tensor([list(row) for row in torch.relu(x)])


def through_its_memory(x):
    return x * sum(torch.relu(x).storage().tolist())


def through_a_count(x):
    return x * len(torch.relu(x).nonzero())


def through_the_size_of_a_selection(x):
    return x * len(x[torch.relu(x) > 0.5])


def through_different_values(x):
    return x * torch.unique(torch.relu(x)).numel()


def through_several_at_once(x):
    both = [x + 1, x + 2]
    torch._foreach_add_(both, [torch.relu(x), torch.relu(x)])
    return both[0] + both[1]


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


OUT_OF_SIGHT = [
    through_numpy,
    through_a_list,
    through_a_number,
    through_an_array,
    through_a_list_of_tensors,
    through_its_memory,
    through_a_count,
    through_the_size_of_a_selection,
    through_different_values,
]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    "network",
    [
        *OUT_OF_SIGHT,
        through_several_at_once,
        through_control_flow,
        through_a_mask,
        through_indices,
        through_a_buffer,
    ],
)
def test_whatever_may_lead_to_the_outputs_counts(network):
    with torch.no_grad():
        assert "relu" in find_sites(network, torch.randn(6, 4))


def test_an_error_at_a_site_counts_only_if_the_outputs_depend_on_it():
    layer = mlp(4, 5, 3)

    def pooled(x):
        return torch.relu(layer(x).sum(0))

    find_sites(lambda x: (pooled(x), layer(x))[1], torch.randn(6, 4))
    with pytest.raises(ValueError, match=r"^site 'relu' has units of shape \(3,\) for 6 samples"):
        find_sites(lambda x: layer(x) + pooled(x), torch.randn(6, 4))


def test_the_precision_of_a_network_with_something_beside_it_can_be_changed():
    network, alone = pair(loss_with_labels, nn.ReLU())
    x = torch.randn(6, 4, dtype=torch.float64)
    with torch.no_grad():
        found = in_precision(network, torch.float64)(x)
        assert torch.equal(found, in_precision(alone, torch.float64)(x))


# -- exact passes


EXACTLY = pytest.mark.parametrize(
    "beside", [loss_with_labels, accuracy, auxiliary_head, statistics_of_the_batch, noise]
)


@EXACTLY
def test_an_exact_pass_leaves_out_what_the_outputs_do_not_depend_on(beside):
    network, alone = pair(beside, nn.ReLU())
    path = torch.randn(3, 2, 4, dtype=torch.float64)
    found, expected = pieces(network, path, keep=["output"]), pieces(alone, path, keep=["output"])
    assert found.sites == expected.sites == ("activation",)
    assert torch.equal(found.regions(), expected.regions())
    assert torch.equal(found.position, expected.position)
    assert torch.equal(found.values["output"], expected.values["output"])


@EXACTLY
def test_boundaries_and_capacity_leave_out_what_the_outputs_do_not_depend_on(beside):
    network, alone = pair(beside, nn.ReLU())
    x = torch.randn(6, 4)
    assert region_capacity(network, x) == region_capacity(alone, x)
    assert torch.equal(boundary_distance(network, x), boundary_distance(alone, x))


def test_another_output_costs_no_rows():
    network = mlp(4, 5, 3)
    rows = []

    class Decoder(nn.Module):
        def forward(self, x):
            rows.append(len(x))
            return torch.relu(x @ torch.ones(3, 200, dtype=x.dtype) - 1)

    decoder = Decoder()

    def both(x):
        code = network(x)
        return code, decoder(code)

    path = torch.randn(1, 2, 4)
    found = pieces(lambda x: both(x)[0], path)
    assert torch.equal(found.regions(), pieces(network, path).regions())
    assert rows[-1] < rows[0] + len(found.path) + 3  # once it is known not to count


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("network", OUT_OF_SIGHT)
def test_numbers_that_leave_torch_cannot_be_followed(network):
    path = torch.randn(3, 2, 4)
    expected = (
        "lets the network decide by its input|mixes the|"
        "is not (known to be |)(continuous|piecewise linear)"
    )
    with pytest.raises(ValueError, match=expected):
        pieces(network, path)


def test_memory_that_is_shared_behind_the_back_of_torch_is_not_taken_for_a_constant():
    def network(x):
        h = torch.relu(x)
        same = torch.empty(0, dtype=h.dtype).set_(h.untyped_storage(), 0, h.shape, h.stride())
        return torch.relu(same - 0.3)

    with pytest.raises(ValueError, match=r"^'sub' lets the network decide by its input"):
        pieces(network, torch.randn(3, 2, 4))


LABELLED = [
    torch.nn.functional.mse_loss,
    torch.nn.functional.smooth_l1_loss,
    torch.nn.functional.binary_cross_entropy_with_logits,
    torch.nn.functional.cosine_similarity,
    lambda h, labels: (h - labels).square().mean(),
    lambda h, labels: torch.cat([h, labels], 1).exp(),
    lambda h, labels: (h @ h.t()).log_softmax(1),
    lambda h, labels: [sample.relu() for sample in h],
]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", LABELLED)
def test_a_loss_with_labels_for_each_sample_is_left_out(loss):
    def alone(x):
        return torch.relu(torch.relu(x) - 0.2)

    def network(x):
        labels = torch.arange(2.0 * len(x)).reshape(-1, 2).to(x)
        h = torch.relu(x)
        loss(h, labels)
        return torch.relu(h - 0.2)

    x = torch.tensor([[-1.0, 0.5], [2.0, 0.3]], dtype=torch.float64)
    found = pieces(network, x[None])
    assert len(found.sites) == 2
    assert torch.equal(found.position, pieces(alone, x[None]).position)
    assert torch.equal(boundary_distance(network, x), boundary_distance(alone, x))


@pytest.mark.parametrize("view", [torch.t, torch.unbind])
def test_what_is_written_to_a_view_that_cannot_be_followed_is_refused(view):
    def network(x):
        h = torch.relu(x) - 0.2  # at rows that were inserted
        for part in view(h):
            part.relu_()
        return h

    path = torch.tensor([[[-1.0, 0.5], [2.0, 0.3]]])
    with pytest.raises(ValueError, match=r"^site '(t|unbind)' mixes the samples of a batch"):
        pieces(network, path)
    pieces(lambda x: (torch.relu(x), network(x))[0], path)


def test_what_is_refused_is_refused_if_the_outputs_depend_on_it_by_any_way():
    layer = mlp(4, 5, 3)
    path = torch.randn(3, 2, 4)
    ways = [
        lambda h: h + h.sigmoid(),
        lambda h: torch.cat([h, h.sigmoid()], 1),
        lambda h: torch.zeros_like(h).copy_(h.sigmoid()),
        lambda h: h * (h.sigmoid() > 0.5),
        lambda h: h * h.sigmoid().sum().item(),
        lambda h: h + torch.from_numpy(h.sigmoid().numpy()),
        lambda h: h if h.sigmoid().sum() > 0 else -h,
    ]
    for way in ways:
        with pytest.raises(
            ValueError, match=r"^site 'sigmoid' \(sigmoid\) is not piecewise linear"
        ):
            pieces(lambda x, way=way: way(layer(x)), path)


def test_a_curve_is_named_rather_than_how_its_network_arranges_samples():
    class Last(nn.Sequential):
        def forward(self, x):
            return self[0](x)[0][:, -1]

    for layer in (nn.LSTM, nn.GRU):
        network = Last(layer(4, 3, batch_first=True))
        with pytest.raises(
            ValueError, match=r"^site '0' \((sigmoid|tanh)\) is not piecewise linear"
        ):
            pieces(network, torch.randn(2, 2, 5, 4))
