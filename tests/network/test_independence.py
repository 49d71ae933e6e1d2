import gc
import random
import re

import numpy as np
import pytest
import torch
from networks import ZOO, mlp, specimen
from stateful_networks import FORBIDDEN
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it

from lightning_effcx.network import independence
from lightning_effcx.network.calls import Call
from lightning_effcx.network.independence import check_samples_independent
from lightning_effcx.network.views import CallView

X = torch.randn(6, 3)
MIXED = "the network's outputs for a sample change with the other samples in its batch, but"
RANDOM = "the network's outputs are random: evaluated twice at the same samples, they differ"

EMPTY = (
    "for 3 samples, expected a floating-point tensor (3, ...), or a structure with one, with at "
    "least one number for each sample"
)


class TrainedByHand(nn.BatchNorm1d):
    """Takes the statistics of the batch in eval mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, training=True)


def padded(x: Tensor) -> Tensor:
    """Return eight rows, whatever there are."""
    return F.pad(x, (0, 0, 0, 8 - len(x)))


REFUSED = {
    "divided by the batch size": (lambda x: x / x.shape[0], MIXED),
    "mean of the batch": (lambda x: x - x.mean(0), MIXED),
    "softmax over the batch": (lambda x: x.softmax(0), MIXED),
    "largest so far": (lambda x: torch.cummax(x, 0)[0], MIXED),
    "largest of those to come": (lambda x: torch.cummax(x.flip(0), 0)[0].flip(0), MIXED),
    "neighbours": (lambda x: x + x.roll(1, 0), MIXED),
    "first row": (lambda x: torch.cat([x[:1] * 0, x[1:]]), MIXED),
    "below a diagonal": (torch.tril, MIXED),
    "Fourier transform": (lambda x: torch.fft.fft(x, dim=0).real, MIXED),
    "a small part of the mean": (lambda x: x + 0.1 * x.mean(0), MIXED),
    "noise": (lambda x: x + torch.randn(x.shape), RANDOM),
    "noise for the batch": (lambda x: x + torch.rand(()), RANDOM),
    "dropout": (lambda x: F.dropout(x, 0.5, training=True), RANDOM),
    "padded": (
        padded,
        "the network returned float32 (8, 3) for 3 samples, expected a floating-point tensor (3, ",
    ),
    "no numbers": (lambda x: x[:, :0], f"the network returned float32 (3, 0) {EMPTY}"),
    "no whole numbers": (lambda x: x[:, :0].long(), f"the network returned int64 (3, 0) {EMPTY}"),
    "padded, then cut": (lambda x: padded(x).softmax(0)[: len(x)], MIXED),
    "one size": (
        lambda x: x.reshape(6, 3),
        "the network cannot be evaluated at 3 of the 6 samples alone (RuntimeError: shape '[6, 3]'",
    ),
    "pairs": (
        lambda x: x.unflatten(0, (-1, 3)).flatten(0, 1),
        "the network cannot be evaluated at 1 of the 6 samples alone (RuntimeError: unflatten: ",
    ),
    "another shape": (
        lambda x: x @ torch.ones(4, 2),
        "the network cannot be evaluated at float32 (6, 3) (RuntimeError: mat1 and mat2 shapes ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_function_of_one_sample_is_refused(name):
    network, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_samples_independent(network, X)


def test_statistics_of_the_batch_are_found_in_eval_mode_and_left_as_they_were():
    network = nn.Sequential(nn.Linear(3, 4), TrainedByHand(4), nn.ReLU())
    for module in network:
        module.training = False
    with pytest.raises(ValueError, match=f"^{MIXED}"):
        check_samples_independent(network, X)
    assert torch.equal(network[1].running_mean, torch.zeros(4))


@pytest.mark.filterwarnings("ignore:effcx. evaluating")
def test_a_network_whose_weights_change_with_each_call_is_refused():
    network = FORBIDDEN["shrinks a weight"]()
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(ValueError, match=f"^{RANDOM}"):
        check_samples_independent(network, torch.randn(3, 4))
    assert all(map(torch.equal, before, network.parameters()))


@pytest.mark.parametrize("change", [lambda x: x - x.mean(0), lambda x: x / len(x)])
@pytest.mark.parametrize("samples", [1, 2])
def test_few_samples_are_enough_to_find_that_they_are_mixed(change, samples):
    with pytest.raises(ValueError, match=f"^{MIXED}"):
        check_samples_independent(change, X[:samples])


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_networks_that_keep_samples_apart_pass_at_any_scale(name, scale):
    network, x = specimen(name)
    check_samples_independent(network, x * scale)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale**0.1)
    independence._checked.clear()
    check_samples_independent(network, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half, torch.float32, torch.float64])
def test_deep_networks_pass_in_every_precision(dtype):
    network = mlp(3, *[64] * 50, 2).to(dtype)
    check_samples_independent(network, X.to(dtype))


@pytest.mark.parametrize(
    "network",
    [
        lambda x: x.sum(1).squeeze(),  # whose output for one sample has no row
        lambda x: (x > 0).long(),
        lambda x: x > 0,
        lambda x: {"loss": x.sum(), "logits": 2 * x},
        lambda x: torch.full_like(x, torch.nan),
        lambda x: x.log(),
        lambda x: F.linear(x.float(), torch.ones(2, 3)).to(x),
    ],
)
def test_unusual_functions_of_one_sample_pass(network):
    check_samples_independent(network, X)


def test_exact_measures_may_take_samples_of_another_precision_than_the_network():
    check_samples_independent(mlp(3, 4, 2), X.double())


# Once


class Usual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.drop(self.layer(x)))

    def twice(self, x: Tensor) -> Tensor:
        return self(self(x))


@pytest.fixture
def rows(monkeypatch) -> list[int]:
    """How many rows were evaluated in each call. `observing` would put back the network's count."""
    found: list[int] = []
    evaluate = independence._evaluate

    def count(network, index, x):
        found.append(len(x))
        return evaluate(network, index, x)

    monkeypatch.setattr(independence, "_evaluate", count)
    return found


def test_few_rows_are_evaluated_once_for_a_network_and_a_shape(rows):
    network = Usual()
    for _ in range(3):
        check_samples_independent(network, torch.randn(500, 3))
    assert rows == [3, 2, 2, 2]
    check_samples_independent(network, torch.randn(500, 3, 3))
    assert rows[4:] == [3, 2, 2, 2]


def test_fewer_samples_than_usual_do_not_count_as_checked(rows):
    network = Usual()
    for samples, calls in ((1, 4), (2, 8), (3, 12), (2, 12)):
        check_samples_independent(network, X[:samples])
        assert len(rows) == calls


def test_the_methods_of_a_module_are_checked_each(rows):
    network = Usual()
    check_samples_independent(network.forward, X)
    check_samples_independent(network.twice, X)
    check_samples_independent(network.twice, X)
    assert len(rows) == 2 * 4


def test_nothing_keeps_a_network_that_was_checked_alive():
    gc.collect()
    before = len(independence._checked)
    network = Usual()
    check_samples_independent(network, X)
    assert len(independence._checked) == before + 1
    del network
    gc.collect()
    assert len(independence._checked) == before


def test_a_network_that_nobody_can_remember_is_checked_each_time(rows):
    class Slotted:
        __slots__ = ()

        def __call__(self, x: Tensor) -> Tensor:
            return x

    network = Slotted()
    for _ in range(2):
        check_samples_independent(network, X)
    assert len(rows) == 8


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_training_step_is_not_disturbed(wrapped):
    module = Usual()
    network = (lambda x: module(2 * x)) if wrapped else module
    torch.manual_seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    x = X.clone().requires_grad_()
    check_samples_independent(network, x)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    assert all(part.training for part in module.modules())
    assert int(module.norm.num_batches_tracked) == 0
    assert x.grad is None
    assert torch.is_grad_enabled()


def test_each_sample_has_its_own_arguments():
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale

    scale = torch.rand(6, 1)
    call = Call.of("", (X, scale), {}, 6)
    assert call is not None
    check_samples_independent(CallView(Scaled(), call, ((0, 0),)), X)
