from unittest.mock import Mock

import pytest
import torch
from networks import linear, mlp
from torch import nn
from torch.testing import assert_close

from lightning_effcx.metrics import LinearRegions
from lightning_effcx.paths import Segment
from lightning_effcx.piecewise.lines import check_piecewise_linear, pieces
from lightning_effcx.piecewise.path_parts import PASSES


class Counted(nn.Module):
    """A network that counts how often it is called, in what nobody puts back."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.count = Mock()

    @property
    def calls(self):
        return self.count.call_count

    def forward(self, x):
        self.count()
        return self.network(x)


def comb(units):
    """A layer with a kink at each of the first numbers."""
    return nn.Sequential(linear(torch.ones(units, 1), -torch.arange(1.0, units + 1)), nn.ReLU())


def ladder(units):
    return torch.tensor([[[0.0], [units + 0.5]]], dtype=torch.float64)


def test_scripted_networks_are_cut_into_parts_like_others():
    # TorchScript makes a RuntimeError of the error by which a pass asks for smaller parts.
    network = mlp(4, 64, 64, 1).double()
    path = 2 * torch.randn(2, 2, 4, dtype=torch.float64)
    expected = pieces(network, path, budget=40_000)
    found = pieces(torch.jit.script(network), path, budget=40_000)
    assert torch.equal(found.position, expected.position)


@pytest.mark.parametrize("budget", [10**9, 10**6, 10**5])
def test_the_knots_are_the_same_in_however_many_parts_they_are_found(budget):
    network = Counted(comb(200))
    found = pieces(network, ladder(200).expand(3, -1, -1), budget=budget)
    assert found.transitions().tolist() == [200] * 3
    assert_close(found.arc_length, torch.arange(1.0, 201).double().repeat(3))
    needed = 600 * 200 * 8 * 3 / budget
    assert 1 <= network.calls < 2 + 8 * needed


def test_the_number_of_passes_is_known_before_the_first_cut():
    network = Counted(mlp(5, 20_000, 3))
    path = torch.randn(2, 2, 5)
    expected = (
        r"^the paths have at least [\d,]+ vertices and knots, each of which takes [\d.]+ MB in "
        r"this network, so finding all linear regions would take at least [\d,]+ passes, but at "
        r"most 1,000 are made: take shorter or fewer paths, or estimate from a share of each, such "
        r"as with LinearRegions\(share=0.001\)\.$"
    )
    with pytest.raises(ValueError, match=expected):
        pieces(network, path, budget=10**6)
    assert network.calls == 1


def test_what_is_refused_can_be_estimated_from_a_share():
    network, x = mlp(5, 2_000, 3), torch.randn(4, 5)
    exact, estimate = LinearRegions(Segment(points=2)), LinearRegions(Segment(points=2), share=0.1)
    exact.update(network, x)
    estimate.update(network, x)
    assert estimate.compute()[estimate.name] == pytest.approx(
        exact.compute()[exact.name].item(), rel=0.2
    )


class Endless(nn.Module):
    """Folds finer and finer, so that no part of a path ever fits."""

    def forward(self, x):
        for _ in range(60):
            x = 1 - 2 * x.abs()
        return x


def test_how_many_passes_are_needed_is_told_also_after_some_were_made():
    torch.manual_seed(0)
    path = 3 * torch.randn(60, 120, 5)
    with pytest.raises(
        ValueError, match=r"take at least [1-9][\d,]*,\d{3} passes, but at most 1,000"
    ):
        pieces(mlp(5, 32, 32, 2), path, budget=10**5)


def test_a_network_that_always_finds_more_knots_is_refused_in_the_end():
    network = Counted(Endless())
    with pytest.raises(
        ValueError, match=r"the paths have at least .* passes, but at most 1,000 are"
    ):
        pieces(network, torch.tensor([[[-1.0], [1.0]]]), budget=2_000)
    assert network.calls <= PASSES


@pytest.mark.parametrize("budget", [10**3, 10**9])
def test_knots_at_one_place_cannot_be_cut_apart_and_are_found_all_the_same(budget):
    network = nn.Sequential(linear(torch.ones(300, 1)), nn.ReLU())
    found = pieces(network, torch.tensor([[[-1.0], [2.0]]]), budget=budget)
    assert found.transitions().tolist() == [300]
    assert found.regions().tolist() == [2]


@pytest.mark.parametrize("budget", [5_000, 20_000])
def test_a_unit_that_stays_on_its_kink_stays_there_at_a_cut(budget):
    weight = torch.cat([torch.ones(1, 2), torch.arange(80.0).reshape(40, 2) - 20])
    network = nn.Sequential(linear(weight, -torch.arange(1.0, 42)), nn.ReLU())
    k = torch.arange(1.0, 9)
    along = torch.stack([torch.stack([-k, k + 1], 1), torch.stack([k + 1, -k], 1)], 1)
    beyond = torch.tensor([[5.0, 9.0], [-9.0, 3.0]]).expand(8, 2, 2)
    found = pieces(network, torch.cat([along, beyond], 1), budget=budget)
    # Not on the first segments, where it is 0.
    assert (found.unit == 0).sum() == 2 * 8


def test_an_interrupt_ends_a_pass_and_leaves_no_mode_behind():
    class Interrupted(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            raise KeyboardInterrupt
            return y

    before = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
    with pytest.raises(KeyboardInterrupt):
        pieces(Interrupted(), torch.randn(2, 2, 3))
    assert before == (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack())


# -- whether there are linear regions at all


class ReadsBatchSize(nn.Module):
    def forward(self, x):
        n = len(x)
        return torch.cat([torch.relu(x), torch.arange(2.0 * n).reshape(n, 2).to(x)], 1)


def test_one_sample_tells_whether_a_network_is_piecewise_linear():
    network = Counted(mlp(4, 8, 3))
    check_piecewise_linear(network, torch.randn(6, 4))
    assert network.calls == 1


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh()), r"^site '1' \(tanh\) is not piecewise linear"),
        (
            nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)),
            r"^site '1' \(softmax\) is not known to be piecewise linear",
        ),
        (ReadsBatchSize(), "it keeps the batch size that it read before: use -1 for it"),
        (lambda x: torch.relu(x - x.mean(0)), "'mean' mixes the samples of a batch"),
    ],
)
def test_one_sample_tells_why_a_network_is_not_piecewise_linear(network, message):
    with pytest.raises(ValueError, match=message):
        check_piecewise_linear(network, torch.randn(6, 4))


def test_what_fails_for_another_reason_is_not_blamed_on_the_batch_size():
    class FailsLater(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return y if len(y) < 3 else y @ torch.ones(9, 9)

    expected = (
        r"^the network failed with more rows than .* regions cannot be found: use Transitions \("
    )
    with pytest.raises(ValueError, match=expected):
        check_piecewise_linear(FailsLater(), torch.randn(6, 4))
