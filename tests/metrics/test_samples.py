import re
from functools import partial

import jaxtyping
import numpy as np
import pytest
import torch
from concrete_metrics import CONCRETE
from contract import with_own
from contracts import CONTRACTS, FUNCTIONS, takes_paths
from networks import mlp

from lightning_effcx.metrics import NetworkMetric
from lightning_effcx.metrics.samples import check_paths, check_samples

NETWORK, X, Y = mlp(3, 4, 2), torch.randn(6, 3), torch.arange(6) % 2
TOKENS = torch.arange(18).reshape(6, 3)
PATH = torch.randn(6, 2, 3)


class Frame:
    """What a table of pandas or polars has."""

    def to_numpy(self):
        return X.numpy()

    def __array__(self):
        return X.numpy()


NO_TENSORS = [
    (X.numpy(), r"is of the type ndarray, expected a tensor: torch\.from_numpy\({}\) makes one\."),
    (X.tolist(), r"is of the type list, expected a tensor: torch\.as_tensor\({}\) makes one\."),
    ([*X], r"is of the type list, expected a tensor: torch\.stack\({}\) makes one\."),
    (Frame(), r"is of the type Frame, expected a tensor: torch\.as_tensor\({}\.to_numpy\(\)\) mak"),
    ({"x": X}, r"is of the type dict, expected a tensor\."),
    (None, r"is of the type NoneType, expected a tensor\."),
]
NO_NETWORKS = [
    ("encoder", "the network is str: expected a callable that maps"),
    (None, "the network is NoneType: expected a callable that maps"),
    (X, r"the network is float32 \(6, 3\): expected a callable that maps"),
    (torch.nn.ReLU, r"the network is the class ReLU, expected an instance: write ReLU\(\.\.\.\)"),
]

METRICS = {kind: partial(kind, **with_own(CONTRACTS[kind].cheap, X, Y)) for kind in CONCRETE}
MOVING = [kind for kind in METRICS if kind.moves]
OF_PATHS = [name for name, function in FUNCTIONS.items() if takes_paths(function)]
UPDATES = pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.__name__)
CALLS = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.fixture(autouse=True)
def _as_for_a_user(monkeypatch):
    """Without the types that are checked in tests alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def assert_refused(call, what, error, message):
    with pytest.raises(error) as raised:
        call()
    assert re.match(message, str(raised.value)), (what, raised.value)
    assert str(raised.value).endswith(".")


@UPDATES
def test_every_metric_refuses_what_is_no_network(kind):
    for given, message in NO_NETWORKS:
        assert_refused(lambda g=given: METRICS[kind]().update(g, X, Y), given, TypeError, message)
    swapped = r"the network is float32 \(6, 3\) and the samples are a Sequential: expected the net"
    assert_refused(lambda: METRICS[kind]().update(X, NETWORK, Y), "swapped", TypeError, swapped)


@UPDATES
def test_every_metric_refuses_samples_and_targets_that_are_no_tensors(kind):
    for given, message in NO_TENSORS:
        for_x, for_y = ("^" + n + " " + message.format(n) for n in "xy")
        update = METRICS[kind]().update
        assert_refused(lambda g=given, u=update: u(NETWORK, g, Y), given, TypeError, for_x)
        if given is not None:
            assert_refused(lambda g=given, u=update: u(NETWORK, X, g), given, TypeError, for_y)


@UPDATES
def test_every_metric_refuses_samples_that_are_none_and_targets_of_others(kind):
    update = METRICS[kind]().update
    with pytest.raises(ValueError, match=r"^x has no samples, expected at least one sample\.$"):
        update(NETWORK, X[:0], Y[:0])
    with pytest.raises(ValueError, match=r"^x is float32 \(\): expected samples of shape \(n, "):
        update(NETWORK, X[0, 0])
    for y in (Y[:4], torch.cat([Y, Y]), Y[0]):
        message = r"^x is float32 \(6, 3\) and y is int64 .*: expected a target for each of the 6 s"
        with pytest.raises(ValueError, match=message):
            update(NETWORK, X, y)


@pytest.mark.parametrize("kind", MOVING)
def test_a_metric_that_moves_the_input_refuses_whole_numbers(kind):
    message = r"^x is int64 \(6, 3\), but this measure moves the input: expected floating-point sam"
    with pytest.raises(TypeError, match=message):
        METRICS[kind]().update(NETWORK, TOKENS, Y)


def test_all_that_draw_paths_or_differentiate_by_the_input_move_it():
    assert {kind: kind.moves for kind in METRICS} == {
        kind: contract.moves for kind, contract in CONTRACTS.items()
    }


def test_a_metric_of_the_users_own_is_checked_as_well():
    class Own(NetworkMetric):
        name = "own"

        def observe(self, network, batch):
            raise AssertionError

        def measurement(self):
            raise AssertionError

    with pytest.raises(TypeError, match=r"^x is of the type list, expected a tensor"):
        Own().update(NETWORK, [1.0])


@CALLS
def test_every_function_refuses_what_is_no_network(name):
    x = PATH if name in OF_PATHS else X
    for given, message in NO_NETWORKS[:2] + NO_NETWORKS[3:]:
        assert_refused(lambda g=given: FUNCTIONS[name](g, x), given, TypeError, message)
    swapped = r"the network is float32 \(.*\) and the samples are a Sequential: expected the netw"
    assert_refused(lambda: FUNCTIONS[name](x, NETWORK), "swapped", TypeError, swapped)


@CALLS
def test_every_function_refuses_what_is_no_tensor(name):
    argument = "path" if name in OF_PATHS else "x"
    for given, message in NO_TENSORS:
        expected = f"^{argument} {message.format(argument)}"
        assert_refused(lambda g=given: FUNCTIONS[name](NETWORK, g), given, TypeError, expected)


MIXING = {
    "by the batch size": (lambda x: x / x.shape[0], "change with the other samples in its batch"),
    "by the mean": (lambda x: (x - x.mean(0)).relu(), "change with the other samples in its batch"),
    "by chance": (lambda x: (x + torch.randn(x.shape)).relu(), "outputs are random"),
}


@CALLS
@pytest.mark.parametrize("how", MIXING)
def test_every_function_refuses_a_network_that_is_no_function_of_one_sample(name, how):
    network, message = MIXING[how]
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](network, PATH if name in OF_PATHS else X)


@UPDATES
@pytest.mark.parametrize("how", MIXING)
def test_every_metric_refuses_a_network_that_is_no_function_of_one_sample(kind, how):
    network, message = MIXING[how]
    with pytest.raises(ValueError, match=message):
        METRICS[kind]().update(network, X, Y)


PATHS_OF_NO_USE = {
    "no vertices": PATH[:, :0],
    "no paths": PATH[:0],
    "no dimension of inputs": X[:, :2],
    "no inputs": PATH[..., :0],
    "whole numbers": TOKENS[:, None],
}
EXPECTED_OF_PATHS = (
    r"^path is (float32|int64) \(.*\): expected one or more floating-point paths, of sh"
)
CONV = torch.nn.Sequential(
    torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 2)
)
WRONG = {  # inputs that the networks do not take
    "wider": (NETWORK, (5,)),
    "images": (NETWORK, (1, 4, 4)),
    "vectors": (CONV, (3,)),
    "other images": (CONV, (1, 5, 5)),
}


@CALLS
def test_every_function_refuses_samples_that_are_none(name):
    if name in OF_PATHS:
        for what, path in PATHS_OF_NO_USE.items():
            call = partial(FUNCTIONS[name], NETWORK, path)
            assert_refused(call, what, ValueError, EXPECTED_OF_PATHS)
    else:
        message = r"x has no samples, expected at least one sample\."
        assert_refused(lambda: FUNCTIONS[name](NETWORK, X[:0]), "none", ValueError, message)
        message = r"x is float32 \(6, 0\), so a sample has no entries: expected some\."
        assert_refused(lambda: FUNCTIONS[name](NETWORK, X[:, :0]), "empty", ValueError, message)


@CALLS
@pytest.mark.parametrize("what", WRONG)
def test_every_function_says_at_what_a_network_cannot_be_evaluated(name, what):
    network, shape = WRONG[what]
    x = torch.randn(6, *shape)
    given = x[:, None].expand(6, 2, *shape) if name in OF_PATHS else x
    rows = (12 if name in OF_PATHS else 6, *shape)
    message = (
        f"^the network cannot be evaluated at float32 {re.escape(str(rows))} \\(RuntimeError: "
    )
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](network, given)


@pytest.mark.parametrize("name", OF_PATHS)
def test_a_path_of_one_vertex_has_one_region_and_no_length(name):
    found = FUNCTIONS[name](NETWORK, PATH[:, :1])
    for numbers in found.values() if isinstance(found, dict) else [found]:
        assert numbers.tolist() == [float("regions" in name)] * 6


@UPDATES
def test_every_metric_that_moves_the_input_needs_a_dimension_of_inputs(kind):
    message = (
        r"^x is float32 \(6,\): expected samples of shape \(n, \.\.\.\), such as x\.unsqueeze\(1\)"
    )
    with pytest.raises(ValueError, match=message if kind.moves else "the network"):
        METRICS[kind]().update(NETWORK, X[:, 0], Y)


def test_what_is_right_passes():
    check_samples(NETWORK, X)
    check_samples(torch.relu, TOKENS, Y)
    check_samples(NETWORK, X, torch.zeros(6, 2), moves=True)
    check_samples(lambda x: x, X.half(), Y, moves=True)
    check_paths(NETWORK, PATH)
    check_paths(NETWORK, torch.from_numpy(np.zeros((2, 4, 3))))
