import pytest
import torch
from networks import mlp
from torch.testing import assert_close
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.draws import Draws
from lightning_effcx.metrics import ActivationPatterns, JacobianNorm, LinearRegions
from lightning_effcx.metrics.base import Share
from lightning_effcx.paths import Segment


@pytest.mark.parametrize(("index", "of"), [(2, 2), (-1, 2), (0, 0)])
def test_a_share_is_one_of_so_many(index, of):
    message = rf"^Share\({index}, of={of}\): expected an index of at least 0 and below the number"
    with pytest.raises(ValueError, match=message):
        Share(index, of)


@pytest.mark.parametrize("of", [1, 2, 3, 9])
def test_the_shares_of_a_batch_are_all_of_it_and_share_0_is_never_empty(of):
    x = torch.arange(5)
    shares = [Share(index, of)(x) for index in range(of)]
    assert_close(torch.cat(shares).sort().values, x)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares[0]) > 0


@pytest.mark.parametrize(
    "metric",
    [JacobianNorm(directions=1), LinearRegions(Segment(count=7, points=3), budget=5, chunk=6)],
)
def test_a_share_measures_its_samples_or_paths_and_no_others(metric):
    network, x = mlp(4, 8, 3), torch.randn(7, 4)
    metric.update(network, x)
    scores = dim_zero_cat(metric.scores)
    metric.reset()
    metric.share = Share(1, of=3)
    metric.update(network, x)
    assert len(scores) == 7
    assert_close(dim_zero_cat(metric.scores), scores[1::3])


def test_a_share_of_patterns_sees_its_samples_alone():
    network, x, rows = mlp(4, 8, 3), torch.randn(7, 4), []
    metric = ActivationPatterns(chunk=2)
    metric.share = Share(0, of=2)
    metric.update(lambda x: rows.append(x) or network(x), x)
    assert_close(torch.cat(rows), x[::2])


def test_what_was_computed_before_merging_is_computed_anew():
    network, x = mlp(4, 8, 3), torch.randn(8, 4)
    one, other, both = JacobianNorm(), JacobianNorm(), JacobianNorm()
    one.update(network, x[:2])
    other.update(network, x[2:])
    both.update(network, x)
    one.compute()
    one.merge_state(other)
    assert_close(one.compute(), both.compute())


def test_shares_are_not_gathered_a_second_time_by_torchmetrics():
    network, x = mlp(4, 8, 3), torch.randn(8, 4)
    gathered = []

    def gather(state, group=None):
        gathered.append(state)
        return [state, state]

    metric = JacobianNorm(distributed_available_fn=lambda: True, dist_sync_fn=gather)
    metric.share = Share(0, of=2)
    metric.update(network, x)
    metric.compute()
    assert not gathered
    metric.reset()
    metric.share = Share()
    metric.update(network, x)
    metric.compute()
    assert gathered


def test_scores_are_drawn_for_by_row():
    class Drawing(JacobianNorm):
        def score(self, network, x, y, draws):
            assert isinstance(draws, Draws)
            assert len(draws) == len(x)
            return draws.rand(), {}

    x = torch.randn(7, 4)
    together, apart = Drawing(), Drawing(chunk=2)
    for metric in (together, apart):
        metric.update(mlp(4, 3), x)
    assert_close(dim_zero_cat(apart.scores), dim_zero_cat(together.scores), rtol=0, atol=0)
