import pickle

import pytest
import torch
from contract import Contract
from hypothesis import given
from hypothesis import strategies as st
from networks import Staircase, linear, mlp, specimen
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close
from torchmetrics import MetricCollection

from lightning_effcx.metrics.patterns import ActivationPatterns, activation_patterns

CONTRACTS = [
    Contract(ActivationPatterns, moves=False, kinked=True, averages=False, variants=True),
]


pytestmark = pytest.mark.usefixtures("_float64")


def measured(network, *batches, **options):
    metric = ActivationPatterns(**options)
    for batch in batches:
        metric.update(network, batch)
    found = metric.compute()
    return {key.removeprefix("activation_patterns"): float(value) for key, value in found.items()}


def naive(network, x):
    """Everything again from the codes, pair by pair; for networks of one kink per unit."""
    codes = activation_patterns(network, x)
    n = len(codes)
    pairs = [float((a - b).abs().sum()) for i, a in enumerate(codes) for b in codes[:i]]
    return {
        "": len({tuple(row.tolist()) for row in codes}),
        ".saturated": float(len({tuple(row.tolist()) for row in codes}) == n),
        ".dead": int((codes == 0).all(0).sum()),
        ".always_on": int((codes > 0).all(0).sum()),
        ".hamming": sum(pairs) / len(pairs),
    }


# By hand


def test_codes_count_the_kinks_below():
    x = torch.tensor([[-5.0], [0.0], [1.0], [7.0]])
    assert activation_patterns(torch.relu, x).flatten().tolist() == [0, 0, 1, 1]
    assert activation_patterns(nn.ReLU6(), x).flatten().tolist() == [0, 0, 1, 2]


def test_the_code_of_a_choice_is_its_winner():
    x = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    pooled = activation_patterns(lambda x: F.max_pool1d(x[:, None], 2)[:, 0], x)
    assert pooled.tolist() == [[1, 2]]
    assert activation_patterns(lambda x: x.amin(1, keepdim=True), x).tolist() == [[3]]


def test_units_of_all_sites_stand_side_by_side():
    network, x = mlp(4, 8, 5, 3), torch.randn(6, 4)
    first = network[0](x)
    codes = activation_patterns(network, x)
    assert_close(codes[:, :8], (first > 0).long())
    assert_close(codes[:, 8:], (network[2](first.relu()) > 0).long())


def test_steps_make_one_pattern_each():
    x = torch.tensor([[0.5], [0.6], [1.5], [2.5], [2.7]])
    found = measured(Staircase(4), x)
    # Pairs differ by the steps between them: 0 0 1 2 2.
    expected = {"": 3, ".saturated": 0, ".dead": 2, ".always_on": 0, ".hamming": 12 / 10}
    assert found == pytest.approx(expected)


def test_one_pattern_each_is_saturated_and_one_for_all_is_not():
    network = mlp(4, 64, 3)
    assert measured(network, torch.randn(9, 4))[".saturated"] == 1
    network[0].bias.data.fill_(100.0)
    expected = {"": 1, ".saturated": 0, ".dead": 0, ".always_on": 64, ".hamming": 0}
    assert measured(network, torch.randn(9, 4)) == expected
    network[0].bias.data.fill_(-100.0)
    assert measured(network, torch.randn(9, 4)) == expected | {".dead": 64, ".always_on": 0}


def test_a_saturated_hard_tanh_is_dead_below_and_on_above():
    network = nn.Sequential(
        linear(torch.zeros(3, 2), torch.tensor([-2.0, 0.0, 2.0])), nn.Hardtanh()
    )
    found = measured(network, torch.randn(5, 2))
    assert (found[".dead"], found[".always_on"]) == (1, 2)


def test_units_that_are_on_at_random_differ_in_half():
    m, n = 400, 200
    network = nn.Sequential(linear(torch.randn(m, 50)), nn.ReLU())
    # By symmetry each pair differs in a unit with chance 1/2 on average over directions; the mean
    # over pairs of n independent samples spreads by about sqrt(m / 4) / sqrt(n / 2), less here.
    found = measured(network, torch.randn(n, 50))[".hamming"]
    assert abs(found - m / 2) < 5 * (m / 4) ** 0.5 / (n / 2) ** 0.5


def test_one_sample_has_no_distance():
    assert ".hamming" not in measured(torch.relu, torch.ones(1, 3))


def test_choices_have_patterns_alone():
    x = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 0.0]])
    found = measured(lambda x: x.amax(1, keepdim=True), x)
    assert found == {"": 2, ".saturated": 0}


# Slow oracles


@pytest.mark.parametrize("name", ["mlp", "in_place", "residual", "scripted", "tied", "prelu"])
def test_it_equals_the_count_pair_by_pair(name):
    network, x = specimen(name, samples=40)
    network.eval()
    assert measured(network, x) == pytest.approx(naive(network, x))


def test_hashes_keep_many_patterns_apart():
    network, x = Staircase(30), 31 * torch.rand(5000, 1)
    assert measured(network, x)[""] == len(activation_patterns(network, x).unique(dim=0)) == 31


def test_every_pattern_of_few_units_is_found():
    # All 2^12 corners: patterns that differ in a single code, and many that agree in sums.
    x = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 12)
    assert measured(torch.relu, x) == {
        "": 4096,
        ".saturated": 1,
        ".dead": 0,
        ".always_on": 0,
        ".hamming": pytest.approx(6 * 4096 / 4095),
    }


# Invariances


@given(st.lists(st.integers(0, 30), max_size=3), st.integers(1, 31))
def test_batches_and_chunks_do_not_matter(cuts, chunk):
    network, x = mlp(2, 4, 4, 3), torch.randn(30, 2)
    parts = [part for part in x.tensor_split(sorted(cuts)) if len(part)]
    assert measured(network, *parts, chunk=chunk) == pytest.approx(measured(network, x))


@given(st.permutations(range(30)), st.permutations(range(6)), st.floats(0.1, 9))
def test_order_and_size_do_not_matter(samples, order, size):
    network, same, x = mlp(2, 6, 4, 3), mlp(2, 6, 4, 3), torch.randn(30, 2)
    same.load_state_dict(network.state_dict())
    same[0].weight.data = size * network[0].weight[order]
    same[0].bias.data = size * network[0].bias[order]
    same[2].weight.data = network[2].weight[:, order] / size
    assert measured(same, x[samples]) == pytest.approx(measured(network, x))


# As a metric


def test_ranks_are_put_together():
    network, x = mlp(2, 4, 4, 3), torch.randn(30, 2)
    whole, ranks = ActivationPatterns(), [ActivationPatterns(), ActivationPatterns()]
    whole.update(network, x)
    for rank, part in zip(ranks, (x[:13], x[13:]), strict=True):
        rank.update(network, part)
    # What distributed synchronisation does to states that are concatenated.
    for state in ("hashes", "above"):
        setattr(ranks[0], state, torch.cat([torch.cat(getattr(r, state)) for r in ranks]))
    assert_close(ranks[0].compute(), whole.compute())


def test_it_is_reset_pickled_and_forwarded():
    network, x = mlp(2, 4, 4, 3), torch.randn(30, 2)
    metric = ActivationPatterns()
    metric.update(network, torch.randn(9, 2))
    metric.reset()
    forwarded = metric(network, x)
    metric = pickle.loads(pickle.dumps(metric))
    assert_close(metric.compute(), forwarded)


def test_memory_grows_by_one_number_per_sample():
    network, metric = mlp(2, 400, 3), ActivationPatterns()
    for _ in range(3):
        metric.update(network, torch.randn(10, 2))
    assert sum(t.numel() for t in (*metric.hashes, *metric.above)) == 30 + 400


def test_its_states_are_its_own():
    network, x = mlp(2, 4, 3), torch.randn(9, 2)
    metrics = MetricCollection({"a": ActivationPatterns(), "b": ActivationPatterns()})
    metrics.update(network, x)
    assert len(metrics.compute_groups) == 2


# Errors


def test_networks_without_kinks_are_refused():
    x = torch.randn(6, 4)
    with pytest.raises(ValueError, match=r"no unit of this network has a kink.*being 1 \(tanh\):"):
        activation_patterns(mlp(4, 3, 2, activation=nn.Tanh), x)
    with pytest.raises(ValueError, match="being none: measure trajectory_length or jacobian_norm"):
        ActivationPatterns().update(nn.Linear(4, 3), x)


def test_chunks_have_rows():
    with pytest.raises(ValueError, match="chunk=0: expected at least 1 row"):
        ActivationPatterns(chunk=0)
