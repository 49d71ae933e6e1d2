import math
import pickle

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import linear, mlp
from processes import together
from torch import nn
from torch.testing import assert_close
from torch.utils.data import Dataset, TensorDataset
from torchmetrics import MetricCollection
from trainings import fit, task

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.calls import Call
from lightning_effcx.capture import captured
from lightning_effcx.functional import observed_emc
from lightning_effcx.metrics import EffectiveModelComplexity, TrainingError
from lightning_effcx.metrics.base import Share
from lightning_effcx.observe import observing

pytestmark = pytest.mark.usefixtures("_float64")

GRID = (10, 20, 25, 28, 30, 32, 36, 40, 50)


def least_squares(x, y):
    """The minimum-norm solution, as a network with one output."""
    return linear((torch.linalg.pinv(x) @ y.to(x))[None])


def constant(x, y):
    """The majority, the first of equals, whatever the input."""
    return lambda x, y=y: torch.full((len(x), 1), float(y.mode().values))


def table(x, y):
    """Looks every input up among those that it was trained on."""
    return lambda z: y[torch.cdist(z, x).argmin(1)][:, None].to(z)


def trainings(procedure, grid, repeats, seed=0):
    """Sizes and errors of a procedure on Gaussian inputs of 30 dimensions with random labels ±1."""
    generator = torch.Generator().manual_seed(seed)
    sizes, errors = [], []
    for n in grid:
        for _ in range(repeats):
            x = torch.randn(n, 30, generator=generator)
            y = torch.randint(2, (n,), generator=generator) * 2 - 1
            sizes.append(n)
            outputs = procedure(x, y)(x)[:, 0]
            errors.append(float(((outputs > 0) != (y > 0)).double().mean()))
    return sizes, errors


def told(n, errors, **options):
    metric = EffectiveModelComplexity(**options)
    metric.update(n, errors)
    return {key: float(value) for key, value in metric.compute().items()}


# Closed forms


def test_least_squares_fit_as_many_random_labels_as_there_are_dimensions():
    # Above d = 30 some samples are on the wrong side: 5 % at 40 and 11 % at 50, where the mean of
    # 200 errors spreads by 0.3 %.
    sizes, errors = trainings(least_squares, GRID, repeats=200)
    exact = observed_emc(sizes, errors, epsilon=0)
    assert (exact.emc, exact.lower, exact.upper, exact.censored) == (30, 28, 32, False)
    loose = observed_emc(sizes, errors)
    assert (loose.emc, loose.lower, loose.upper, loose.censored) == (40, 36, 50, False)
    expected = torch.tensor([0, 0, 0, 0, 0, 0.005, 0.024, 0.053, 0.109])
    assert_close(loose.errors, expected, rtol=0, atol=0.01)
    assert loose.stderrs.max() < 0.004
    assert told(sizes, errors, epsilon=1e-9)["emc"] == 30


def test_a_lookup_table_fits_all_that_it_was_tried_with():
    found = observed_emc(*trainings(table, (1, 10, 100), repeats=2))
    assert (found.emc, found.lower, found.upper, found.censored) == (100, 10, None, True)


def test_a_constant_fits_one_sample():
    # Of two samples with random labels, one is wrong in half the cases: 1/4 on average.
    found = observed_emc(*trainings(constant, (1, 2, 4, 9), repeats=300))
    assert (found.emc, found.lower, found.upper, found.censored) == (1, 0, 2, False)
    assert abs(found.errors[1] - 1 / 4) < 5 * found.stderrs[1]


def test_more_features_never_lower_it():
    nested = [
        observed_emc(*trainings(lambda x, y, d=d: cut(x, y, d), GRID, repeats=20), epsilon=0).emc
        for d in (10, 20, 30)
    ]
    assert nested == [10, 20, 30]


def cut(x, y, d):
    """Least squares that sees the first inputs alone."""
    weight = torch.zeros(1, 30)
    weight[:, :d] = torch.linalg.pinv(x[:, :d]) @ y.to(x)
    return linear(weight)


def test_the_training_error_is_that_of_the_definition():
    x, y = torch.randn(50, 30), torch.randint(2, (50,)) * 2 - 1
    network = least_squares(x, y)
    wrong = (network(x)[:, 0].sign() != y).double().mean()
    assert error_of(network, (x, y))[""] == pytest.approx(float(wrong))
    assert 0 < wrong < 0.3


# By hand


def test_a_size_that_fails_does_not_rule_out_a_larger_one():
    assert observed_emc([10, 20, 30, 40], [0.0, 0.4, 0.05, 0.3]).emc == 30


def test_it_is_0_where_no_size_is_fitted():
    found = observed_emc([10, 20], [0.4, 0.2])
    assert (found.emc, found.lower, found.upper, found.censored) == (0, 0, 10, False)
    assert told([10, 20], [0.4, 0.2]) == {
        "emc": 0,
        "emc_lower": 0,
        "emc_upper": 10,
        "emc_censored": 0,
    }


@pytest.mark.parametrize("error", [[0.1], [0.1] * 3, torch.full((7,), 0.1, dtype=torch.float32)])
def test_an_error_of_a_tenth_is_at_most_a_tenth(error):
    assert observed_emc([10] * len(error), error).emc == 10
    assert told([10] * len(error), error)["emc"] == 10
    assert observed_emc([10] * len(error), error, epsilon=0.0999).emc == 0


def test_repeats_are_averaged_and_their_standard_error_is_that_of_the_mean():
    errors = torch.tensor([0.0, 0.1, 0.14])
    found = observed_emc([8, 5, 8, 5, 5], [0.3, *errors[:1], 0.5, *errors[1:]])
    assert found.sizes.tolist() == [5, 8]
    assert found.repeats.tolist() == [3, 2]
    assert_close(found.errors, torch.tensor([errors.mean(), 0.4]))
    assert_close(found.stderrs, torch.tensor([errors.std() / 3**0.5, 0.1]))
    assert observed_emc([5], [0.0]).stderrs.isnan().all()


@given(st.permutations(range(8)))
def test_the_order_of_the_trainings_does_not_matter(order):
    n = torch.tensor([4, 4, 8, 8, 16, 16, 32, 32])
    error = torch.tensor([0, 0, 0.05, 0.1, 0.1, 0.1, 0.3, 0.2])
    found, expected = observed_emc(n[order], error[order]), observed_emc(n, error)
    assert (found.emc, found.lower, found.upper) == (expected.emc, expected.lower, expected.upper)
    assert_close(found.stderrs, expected.stderrs)


# Told to a metric


def test_the_metric_computes_the_complexity_its_neighbours_and_the_error_there():
    metric = EffectiveModelComplexity(epsilon=0.2)
    for n, error in ((10, 0.0), (20, 0.1), (20, 0.2), (40, 0.5)):
        metric.update(n, error)
    found = {key: float(value) for key, value in metric.compute().items()}
    assert found == pytest.approx(
        {
            "emc": 20,
            "emc_lower": 10,
            "emc_upper": 40,
            "emc_censored": 0,
            "emc/train_error": 0.15,
            "emc/train_error_stderr": 0.05,
        }
    )


def test_where_it_is_censored_no_upper_bound_is_known():
    found = told(torch.tensor([10, 20]), torch.tensor([0.0, 0.05]))
    assert (found["emc"], found["emc_lower"], found["emc_censored"]) == (20, 10, 1)
    assert found["emc_upper"] == math.inf
    assert "emc/train_error_stderr" not in found  # of one training


def observe_own_share():
    import torch.distributed as dist  # noqa: PLC0415 in the processes

    metric = EffectiveModelComplexity()
    mine = [([10, 20], [0.0, 0.0]), ([20, 40, 40], [0.1, 0.3, 0.5])][dist.get_rank()]
    metric.update(*mine)
    return {key: float(value) for key, value in metric.compute().items()}


def test_processes_put_together_what_each_observed():
    expected = told([10, 20, 20, 40, 40], [0.0, 0.0, 0.1, 0.3, 0.5])
    for found in together(observe_own_share):
        assert found == pytest.approx(expected)


def test_the_metric_is_reset_pickled_merged_and_forwarded():
    metric = EffectiveModelComplexity()
    metric.update(99, 0.0)
    metric.reset()
    assert float(metric(10, 0.0)["emc"]) == 10
    copy = pickle.loads(pickle.dumps(metric))
    other = EffectiveModelComplexity()
    other.update(20, 0.5)
    copy.merge_state(other)
    assert float(copy.compute()["emc_upper"]) == 20


def test_a_collection_does_not_merge_it_with_one_that_was_told_the_same():
    pair = MetricCollection(
        {"one": EffectiveModelComplexity(), "two": EffectiveModelComplexity(epsilon=0.5)},
        prefix="of_",
    )
    for _ in range(2):
        pair.update(10, 0.3)
    assert len(pair.compute_groups) == 2


def test_the_metric_can_be_plotted():
    metric = EffectiveModelComplexity()
    metric.update([10, 20], [0.0, 0.5])
    for figure, _ in (metric.plot(), metric.plot([metric.compute(), metric.compute()])):
        assert isinstance(figure, plt.Figure)
        plt.close(figure)


# Training error


def error_of(network, data, **options):
    metric = TrainingError(data, **options)
    metric.update(network, metric.x[:1])
    found = {key: float(value) for key, value in metric.compute().items()}
    return {key.removeprefix("training_error"): value for key, value in found.items()}


def test_the_error_is_the_share_of_wrong_classes():
    x = torch.eye(4)
    assert error_of(nn.Identity(), (x, torch.tensor([0, 1, 2, 2]))) == pytest.approx(
        {"": 0.25, "_stderr": (0.25 * 0.75 / 4) ** 0.5, "/interpolates": 0}
    )
    assert error_of(nn.Identity(), (x, torch.arange(4))) == {
        "": 0,
        "_stderr": 0,
        "/interpolates": 1,
        "/since": 0,
    }


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
    rows = []
    metric = TrainingError((torch.randn(10, 4), torch.arange(10) % 3), chunk=4)
    metric.update(lambda x: rows.append(len(x)) or x, torch.zeros(1, 4))
    assert rows == [4, 4, 2]


def test_processes_share_the_samples():
    network, data = mlp(4, 8, 3), (torch.randn(10, 4), torch.arange(10) % 3)
    parts = [TrainingError(data), TrainingError(data)]
    for index, metric in enumerate(parts):
        metric.share = Share(index, of=2)
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
        found.append(metric.compute().get("training_error/since"))
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
    assert ["training_error/since" in values for values in found] == [False, True, True]
    assert int(found[2]["training_error/since"]) == 1


def test_a_monitor_shows_when_a_training_has_learnt_its_samples(tmp_path):
    torch.set_default_dtype(torch.float32)
    data = task()
    monitor = ComplexityMonitor([TrainingError(data, epsilon=0.2)], strict=True)
    _, module = fit(tmp_path, monitor, max_epochs=12)
    curve = [entry["values"] for entry in monitor.history]
    holds = [values["effcx/training_error/interpolates"] for values in curve]
    assert holds[-1] == 1
    last = len(holds) - 1 - holds[::-1].index(0) if 0 in holds else -1
    assert curve[-1]["effcx/training_error/since"] == last + 1 == monitor.history[last + 1]["epoch"]
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


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, math.nan])
def test_epsilon_is_an_error(epsilon):
    message = rf"epsilon={epsilon}: expected an error of at least 0 and below 1"
    with pytest.raises(ValueError, match=message):
        observed_emc([1], [0.0], epsilon=epsilon)
    with pytest.raises(ValueError, match=message):
        EffectiveModelComplexity(epsilon=epsilon)
    with pytest.raises(ValueError, match=message):
        TrainingError((torch.eye(2), torch.arange(2)), epsilon=epsilon)


def test_trainings_are_pairs_of_a_size_and_a_share():
    metric = EffectiveModelComplexity()
    with pytest.raises(ValueError, match="there are 2 sizes and 1 errors: expected one error for"):
        metric.update([1, 2], [0.0])
    for n in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"n={n:g}: expected a whole number of at least 1"):
            metric.update(n, 0.0)
    for error in (-0.1, 5.0, math.nan):
        with pytest.raises(ValueError, match=rf"train_error={error:g}: expected a share of sample"):
            metric.update(1, error)
    with pytest.raises(ValueError, match="no training was observed: expected at least one pair"):
        observed_emc([], [])


def test_samples_are_those_that_the_network_takes():
    metric = TrainingError((torch.randn(6, 2, 2), torch.arange(6) % 3))
    message = r"a training sample has the shape \(2, 2\), but the network's input \(4,\): give the"
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
        message = r"the labels are float64 \(6.*: expected the whole number of a class for each"
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
        network, x, _ = captured(module, call)
    metric = TrainingError((torch.randn(5, 4), torch.arange(5) % 3))
    with pytest.raises(ValueError, match="holds something fixed for each sample of its batch, whi"):
        metric.update(network, x)


def test_datasets_are_read_by_index_and_the_same_each_time():
    with pytest.raises(TypeError, match=r"data=.* has no length: expected tensors \(x, y\), or a"):
        TrainingError(iter([]))
    with pytest.raises(ValueError, match="data has no samples: expected at least one"):
        TrainingError((torch.zeros(0, 4), torch.zeros(0)))
    with pytest.raises(ValueError, match="there are 3 inputs and 2 labels: expected one for each"):
        TrainingError((torch.zeros(3, 4), torch.zeros(2)))
    with pytest.raises(ValueError, match="samples=0: expected at least 1, or None for all"):
        TrainingError((torch.zeros(3, 4), torch.zeros(3)), samples=0)
    with pytest.raises(ValueError, match="something else each time: give it without augmentation"):
        TrainingError(Pairs(lambda i: (torch.rand(4), 0)))
    with pytest.raises(ValueError, match=r"items are \{'x': int\}: expected pairs \(x, y\)"):
        TrainingError(Pairs(lambda i: {"x": i}))
    for item in (lambda i: (torch.zeros(i + 1), 0), lambda i: ("image", 0), lambda i: (None, 0)):
        with pytest.raises(ValueError, match=r"such as \[.*\], do not make tensors \(n, ...\)"):
            TrainingError(Pairs(item))
