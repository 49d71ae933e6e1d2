import pickle

import pytest
import torch
from contract import Contract, Labelled
from networks import counting_rows, linear, mlp
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset, TensorDataset
from user_training import fit, task

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import TrainingError
from lightning_effcx.metrics.error_bars import BAR, share_bounds
from lightning_effcx.metrics.shard import Shard
from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import capture_network
from lightning_effcx.network.observe import observing

OWN = Labelled(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)
CONTRACTS = [
    Contract(
        TrainingError,
        options=[{"data": OWN}, {"data": OWN, "samples": 9, "epsilon": 0.99}],
        cheap={"data": OWN},
        moves=False,
        variants=True,
    ),
]


pytestmark = pytest.mark.usefixtures("_float64")


# The error


def error_of(network, data, **options):
    metric = TrainingError(data, **options)
    metric.update(network, metric.x[:1])
    found = {key: float(value) for key, value in metric.compute().items()}
    return {key.removeprefix("training_error"): value for key, value in found.items()}


def bar(share, samples):
    low, high = share_bounds(share, samples)
    return {".low": low, ".high": high, "_stderr": (high - low) / 2 / BAR}


def test_the_error_is_the_share_of_wrong_classes():
    x = torch.eye(4)
    assert error_of(nn.Identity(), (x, torch.tensor([0, 1, 2, 2]))) == pytest.approx(
        {"": 0.25, ".interpolates": 0} | bar(0.25, 4)
    )
    assert error_of(nn.Identity(), (x, torch.arange(4))) == pytest.approx(
        {"": 0, ".interpolates": 1, ".since": 0} | bar(0, 4)
    )


def test_the_training_error_is_that_of_the_definition():
    x, y = torch.randn(50, 30), torch.randint(2, (50,)) * 2 - 1
    network = linear((torch.linalg.pinv(x) @ y.to(x))[None])
    wrong = (network(x)[:, 0].sign() != y).double().mean()
    assert error_of(network, (x, y))[""] == pytest.approx(float(wrong))
    assert 0 < wrong < 0.3


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [-1, -1, 1, 1]])
def test_a_single_output_decides_by_its_threshold(labels):
    x, y = torch.tensor([[-3.0], [0.0], [0.2], [0.7]]), torch.tensor(labels)
    for given_y in (y, y[:, None], y.to(x)):
        assert error_of(nn.Identity(), (x, given_y))[""] == 0
    assert error_of(nn.Identity(), (x, y), threshold=0.5)[""] == 0.25
    assert error_of(torch.sigmoid, (x, y))[""] == 0.5
    assert error_of(torch.sigmoid, (x, y), threshold=0.5)[""] == 0


def test_it_is_measured_in_eval_mode_whatever_the_probe():
    network = nn.Sequential(nn.Dropout(0.9), nn.Identity())
    metric = TrainingError((torch.eye(4), torch.arange(4)))
    for probe in (torch.zeros(1, 4), torch.randn(9, 4)):
        metric.update(network, probe, torch.ones(len(probe)))
        assert float(metric.compute()["training_error"]) == 0
        metric.reset()
    assert network[0].training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_brought_to_the_precision_of_the_network(dtype):
    metric = TrainingError((torch.eye(4).double(), torch.arange(4)))
    metric.update(linear(torch.eye(4, dtype=dtype)), torch.zeros(1, 4, dtype=dtype))
    assert float(metric.compute()["training_error"]) == 0


def test_no_more_than_a_chunk_is_evaluated_at_once():
    x = torch.zeros(1, 4)
    metric = TrainingError((torch.randn(10, 4), torch.arange(10) % 3), chunk=4)
    network, rows = counting_rows(x)
    metric.update(network, x)
    assert rows == [4, 4, 2]


def test_processes_split_the_samples():
    network, data = mlp(4, 8, 3), (torch.randn(10, 4), torch.arange(10) % 3)
    parts = [TrainingError(data), TrainingError(data)]
    for index, metric in enumerate(parts):
        metric.shard = Shard(index, of=2)
        metric.update(network, torch.zeros(1, 4))
    assert [len(torch.cat(metric.wrong)) for metric in parts] == [5, 5]
    parts[0].merge_state(parts[1])
    found = {key.removeprefix("training_error"): v for key, v in parts[0].compute().items()}
    assert found == pytest.approx(error_of(network, data))


def test_measuring_twice_is_no_more_exact_than_once():
    network, data = mlp(4, 8, 3), (torch.randn(10, 4), torch.arange(10) % 3)
    metric = TrainingError(data)
    for _ in range(2):
        metric.update(network, torch.zeros(1, 4))
    found = {key.removeprefix("training_error"): v for key, v in metric.compute().items()}
    assert found == pytest.approx(error_of(network, data))


# Since when

LEARNT, FORGOTTEN = nn.Identity(), linear(-torch.eye(4).double())


def curve(metric, networks):
    found = []
    for network in networks:
        metric.update(network, torch.zeros(1, 4))
        metric.compute()
        found.append(metric.compute().get("training_error.since"))
        metric.reset()
    return [None if since is None else int(since) for since in found]


def own():
    return TrainingError((torch.eye(4), torch.arange(4)))


def test_since_is_the_measurement_since_which_it_holds_without_a_break():
    networks = [FORGOTTEN, LEARNT, LEARNT, FORGOTTEN, FORGOTTEN, LEARNT, LEARNT]
    assert curve(own(), networks) == [None, 1, 1, None, None, 5, 5]


def test_since_survives_copies_and_pickles():
    metric = own()
    curve(metric, [FORGOTTEN, LEARNT])
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert curve(copy, [LEARNT, FORGOTTEN, LEARNT]) == [1, None, 4]


def test_what_was_not_computed_is_no_measurement():
    metric = own()
    metric.reset()
    metric.update(LEARNT, torch.zeros(1, 4))
    metric.reset()
    assert curve(metric, [LEARNT]) == [0]


def test_every_forward_is_a_measurement():
    metric = own()
    found = [metric(network, torch.zeros(1, 4)) for network in (FORGOTTEN, LEARNT, LEARNT)]
    assert ["training_error.since" in values for values in found] == [False, True, True]
    assert int(found[2]["training_error.since"]) == 1


def test_a_monitor_shows_when_a_training_has_learnt_its_samples(tmp_path):
    torch.set_default_dtype(torch.float32)
    data = task()
    monitor = ComplexityMonitor([TrainingError(data, epsilon=0.2)], strict=True)
    _, module = fit(tmp_path, monitor, max_epochs=12)
    curve = [entry["values"] for entry in monitor.history]
    holds = [values["effcx/training_error.interpolates"] for values in curve]
    assert holds[-1] == 1
    last = len(holds) - 1 - holds[::-1].index(0) if 0 in holds else -1
    assert curve[-1]["effcx/training_error.since"] == last + 1 == monitor.history[last + 1]["epoch"]
    with observing(module), torch.no_grad():
        x, y = data.tensors
        wrong = (module(x).argmax(1) != y).float().mean()
    assert curve[-1]["effcx/training_error"] == pytest.approx(float(wrong))


# Which samples


class Pairs(Dataset):
    """Items as a function makes them."""

    def __init__(self, item, count=6) -> None:
        self.item, self.count = item, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i):
        return self.item(i)


def test_a_dataset_is_as_good_as_its_tensors():
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    network = mlp(4, 8, 3)
    for data in (TensorDataset(x, y), Pairs(lambda i: (x[i].numpy(), int(y[i])), 20)):
        assert error_of(network, data) == error_of(network, (x, y))
        assert error_of(network, data, samples=7) == error_of(network, (x, y), samples=7)


def test_a_part_of_the_samples_is_drawn_once_and_without_repeats():
    x, y = torch.arange(50.0)[:, None], torch.arange(50) % 2
    one, same, other = (TrainingError((x, y), samples=20, seed=seed) for seed in (0, 0, 1))
    assert len(one.x.unique()) == 20
    assert_close(one.x, same.x)
    assert not torch.equal(one.x, other.x)
    assert_close(one.y, one.x[:, 0].long() % 2)


def test_reading_a_dataset_draws_nothing_from_the_training():
    state = torch.get_rng_state()
    TrainingError(Pairs(lambda i: (torch.zeros(2) * torch.rand(2), 0)))
    assert torch.equal(torch.get_rng_state(), state)


# Errors


def test_epsilon_is_an_error():
    with pytest.raises(ValueError, match="epsilon=1: expected an error of at least 0 and below 1"):
        TrainingError((torch.eye(2), torch.arange(2)), epsilon=1)


def test_samples_are_those_that_the_network_takes():
    metric = TrainingError((torch.randn(6, 2, 2), torch.arange(6) % 3))
    message = r"a training sample has the shape \(2, 2\), but the network's input has \(4,\): give"
    with pytest.raises(ValueError, match=message):
        metric.update(mlp(4, 3), torch.zeros(1, 4))


def test_labels_are_classes_of_the_network():
    x = torch.randn(6, 4)
    message = "the labels lie between 0 and 5, but the network has 3 outputs: expected 0 to 2"
    with pytest.raises(ValueError, match=message):
        error_of(mlp(4, 3), (x, torch.arange(6)))
    message = "the labels lie between 0 and 5, but the network has 1 outputs: expected 0 and 1, or"
    with pytest.raises(ValueError, match=message):
        error_of(mlp(4, 1), (x, torch.arange(6)))
    for y in (torch.randn(6), torch.zeros(6, 2)):
        message = r"the labels are float64 \(6.*: expected a class for each sample, as a "
        with pytest.raises(ValueError, match=message):
            TrainingError((x, y))


def test_outputs_are_finite():
    message = "the network's outputs are not finite for 4 of 4 training samples"
    with pytest.raises(ValueError, match=message):
        error_of(lambda x: x / 0, (torch.eye(4), torch.arange(4)))


def test_networks_that_hold_something_for_each_sample_are_refused():
    module = nn.Bilinear(4, 4, 3)
    call = Call.of("", (torch.randn(6, 4), torch.randint(3, (6, 4))), {}, 6)
    module.forward = lambda x, mask: x * mask
    with observing(module):
        network, x, *_ = capture_network(module, call)
    metric = TrainingError((torch.randn(5, 4), torch.arange(5) % 3))
    with pytest.raises(ValueError, match="holds arguments fixed for each sample of its batch, an"):
        metric.update(network, x)


def test_datasets_are_read_by_index_and_the_same_each_time():
    with pytest.raises(TypeError, match=r"data=.* has no length: expected tensors \(x, y\), or a"):
        TrainingError(iter([]))
    with pytest.raises(TypeError, match=r"data is a DataLoader, which has no items: expected tens"):
        TrainingError(DataLoader(Pairs(lambda i: (torch.zeros(4), 0))))
    x, y = torch.zeros(3, 4), torch.zeros(3)
    for data, last in (((x, y, y), "float64"), ((x, y.numpy()), "ndarray")):
        with pytest.raises(TypeError, match=rf"data is \[.*, {last}.*\]: expected two tensors \(x"):
            TrainingError(data)
    with pytest.raises(ValueError, match="data has no samples: expected at least one"):
        TrainingError((torch.zeros(0, 4), torch.zeros(0)))
    with pytest.raises(ValueError, match="there are 3 inputs and 2 labels: expected one label for"):
        TrainingError((torch.zeros(3, 4), torch.zeros(2)))
    with pytest.raises(ValueError, match="samples=0: expected at least 1, or None for all"):
        TrainingError((torch.zeros(3, 4), torch.zeros(3)), samples=0)
    with pytest.raises(ValueError, match="another sample each time: give it without augmentation"):
        TrainingError(Pairs(lambda i: (torch.rand(4), 0)))
    with pytest.raises(ValueError, match=r"items are \{'x': int\}: expected pairs \(x, y\)"):
        TrainingError(Pairs(lambda i: {"x": i}))
    for item in (lambda i: (torch.zeros(i + 1), 0), lambda i: ("image", 0), lambda i: (None, 0)):
        with pytest.raises(ValueError, match=r"such as \[.*\], cannot be joined to tensors \("):
            TrainingError(Pairs(item))
