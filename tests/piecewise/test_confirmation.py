import pickle
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from networks import mlp
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_effcx.functional import boundary_distance, linear_deviation, trajectory_length
from lightning_effcx.piecewise import passes, pieces
from lightning_effcx.piecewise.affine import bends
from lightning_effcx.piecewise.confirmation import Claim, claim_between
from lightning_effcx.piecewise.rows import Rows

DIFFERENT = (
    r"^the exact pass and the network itself differ by up to [\d.e-]+ where the outputs are "
)


def leave(x: Tensor) -> Tensor:
    """Take the numbers out of torch in a way that no mode sees, and bring them back."""
    return pickle.loads(pickle.dumps(x.detach()))


class Changed(nn.Module):
    """A network whose hidden layer sees its input through some function, and a skip connection."""

    def __init__(self, change) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.change = change
        self.first, self.last, self.skip = nn.Linear(3, 16), nn.Linear(16, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(self.change(x)))
        return self.last(hidden) + self.skip(x)


class Beside(nn.Module):
    """A network that is seen, and one beside it that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.unseen, self.seen = Changed(leave), mlp(3, 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.unseen(x) + self.seen(x)


CHANGES = {
    "leaves torch": leave,
    "rounds to half precision": lambda x: x.half().to(x.dtype),
    "rounds to brain floats": lambda x: x.bfloat16().to(x.dtype),
}
PATH = 3 * torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
MEASURES = {
    "regions": pieces,
    "deviation": linear_deviation,
    "length": lambda network, path: trajectory_length(network, path, exact=True),
    "distance": lambda network, path: boundary_distance(network, path[:, 0]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("measure", [*MEASURES])
def test_what_the_pass_does_not_see_is_refused(change, measure):
    # Where nothing else bends, there is no distance to confirm.
    others = "no units with kinks|rounds numbers of torch.float32|mixes the samples of a batch"
    message = f"{DIFFERENT}|{others}"
    with pytest.raises(ValueError, match=message):
        MEASURES[measure](Changed(CHANGES[change]), PATH)


@pytest.mark.parametrize("measure", MEASURES)
def test_what_leaves_torch_beside_units_that_the_pass_sees_is_refused(measure):
    with pytest.raises(
        ValueError,
        match=f"{DIFFERENT}|the network failed with more rows|mixes the samples of a batch",
    ):
        MEASURES[measure](Beside(), 0.3 * PATH)


def test_the_pass_is_wrong_between_the_vertices_where_it_sees_nothing():
    network = Changed(leave).double()
    vertices = PATH.double().flatten(0, 1)
    rows = Rows(torch.arange(8) // 2, torch.arange(8.0).double() % 2)
    with torch.no_grad():
        outputs = network(vertices)
    Claim(vertices, outputs, 0).confirm(network)
    with pytest.raises(ValueError, match=DIFFERENT):
        claim_between(rows, torch.arange(8), vertices, outputs, 0).confirm(network)


def test_a_wrong_row_of_the_table_of_operators_is_found(monkeypatch):
    known = passes.nonlinearity

    def wrong(call):
        operation = known(call)
        return operation and replace(operation, kinks=operation.kinks[:1])

    monkeypatch.setattr(passes, "nonlinearity", wrong)
    network = nn.Sequential(nn.Linear(3, 8), nn.Hardtanh(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=DIFFERENT):
        pieces(network, PATH)


def test_noise_is_refused_also_where_nobody_compares_samples():
    noise = torch.nn.Parameter(torch.zeros(2))

    def network(x):
        with torch.no_grad():
            noise.add_(1.0)
        return torch.relu(x) + noise[0]

    with pytest.raises(ValueError, match=DIFFERENT):
        pieces(network, PATH)


@pytest.mark.parametrize("change", [lambda x: x.float().to(x.dtype), lambda x: x.data])
def test_what_is_the_same_to_single_precision_passes(change):
    expected = pieces(Changed(lambda x: x), PATH)
    found = pieces(Changed(change), PATH)
    assert_close(found.regions(), expected.regions())


class Casting(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = mlp(3, 8, 2).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.to(self.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.half, torch.bfloat16])
def test_a_network_that_casts_its_input_is_evaluated_in_its_own_precision(dtype):
    network = Casting(dtype)
    network.dtype = dtype
    with pytest.raises(RuntimeError, match="dtype"):
        nn.Sequential(network).double()(PATH[:, 0].double())
    network.network.to(dtype)
    found = pieces(network, PATH).regions()
    assert_close(found, pieces(network.network, PATH).regions())
    assert_close(
        boundary_distance(network, PATH[:, 0]), boundary_distance(network.network, PATH[:, 0])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("depth", [2, 50])
def test_no_scale_and_no_depth_is_taken_for_a_difference(dtype, scale, depth):
    torch.manual_seed(0)
    network = mlp(6, *[16] * depth, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale ** (1 / depth) if parameter.dim() > 1 else 1.0)
    path = torch.randn(3, 4, 6)
    assert (pieces(network, path, dtype=dtype).regions() >= 1).all()
    if dtype == torch.float64:
        assert (boundary_distance(network, path[:, 0]) > 0).all()


def test_outputs_that_are_nothing_but_rounding_pass():
    network = mlp(6, 16, 16)
    weight = torch.randn(16, 6)
    twice = pieces(lambda x: (x @ weight.to(x).T).relu() - (x @ weight.to(x).T).relu(), PATH2)
    assert (twice.regions() > 1).all()
    assert (pieces(lambda x: network(x) - network(x), PATH2).regions() > 1).all()


PATH2 = 3 * torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))


# The cost


@pytest.fixture
def counted():
    """A network and how many rows each call had, which nobody puts back."""
    network, seen = mlp(3, 32, 32, 2), Mock()

    def count(_, args):
        seen(len(args[0]))

    network.register_forward_pre_hook(count)
    return network, lambda: [call.args[0] for call in seen.call_args_list]


@pytest.mark.parametrize("points", [2, 5])
def test_one_row_for_each_segment_is_evaluated_once(counted, points):
    network, rows = counted
    path = torch.randn(7, points, 3)
    pieces(network, path)
    assert rows() == [7 * points, 7 * (points - 1)]


def test_a_vertex_that_is_repeated_has_no_segment_and_a_path_of_one_vertex_is_a_point(counted):
    network, rows = counted
    pieces(network, PATH[:, [0, 0, 1, 1]])
    pieces(network, PATH[:, :1])
    assert rows() == [8, 4, 4, 4]


def test_two_rows_for_each_sample_are_evaluated_once(counted):
    network, rows = counted
    bends(network, PATH[:, 0], torch.eye(3))
    assert rows() == [4 * 5, 4 * 2]


def test_the_point_of_a_segment_is_in_its_longest_interval():
    rows = Rows(torch.tensor([0, 0, 0, 1]), torch.tensor([0.0, 1.0, 2.0, 0.0]))
    x = torch.tensor([[0.0], [10.0], [20.0], [7.0]])
    rows.insert(torch.tensor([0, 0, 1]), torch.tensor([0.1, 0.3, 0.4]))
    claim = claim_between(rows, rows.moved(torch.arange(4), 0), x, rows.bring(x, 0), 0)
    assert_close(claim.x, torch.tensor([[6.5], [17.0], [7.0]]))
    assert_close(claim.y, claim.x)
