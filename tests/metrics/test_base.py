import pytest
import torch
from networks import mlp
from torch import nn
from torch.testing import assert_close
from torchmetrics.utilities import dim_zero_cat

from lightning_effcx.functional import boundary_distance, jacobian_norm, linear_regions
from lightning_effcx.metrics import (
    ActivationPatterns,
    BoundaryDistance,
    JacobianNorm,
    LinearRegions,
)
from lightning_effcx.metrics.draws import Draws
from lightning_effcx.metrics.scoring import Scores
from lightning_effcx.metrics.shard import Shard
from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import capture_network
from lightning_effcx.network.observe import observing
from lightning_effcx.paths import Arc, OriginLine, Segment, Translation, origins


@pytest.mark.parametrize(("index", "of"), [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_is_one_of_so_many(index, of):
    message = rf"^Shard\({index}, of={of}\): expected an index of at least 0 and less than the"
    with pytest.raises(ValueError, match=message):
        Shard(index, of)


@pytest.mark.parametrize("of", [1, 2, 3, 9])
def test_the_shards_of_a_batch_are_all_of_it_and_shard_0_is_never_empty(of):
    x = torch.arange(5)
    shards = [Shard(index, of)(x) for index in range(of)]
    assert_close(torch.cat(shards).sort().values, x)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert len(shards[0]) > 0


@pytest.mark.parametrize(
    "metric",
    [JacobianNorm(directions=8), LinearRegions(Segment(count=7, points=3), budget=5, chunk=6)],
)
def test_a_shard_measures_its_samples_or_paths_and_no_others(metric):
    network, x = mlp(4, 8, 3), torch.randn(7, 4)
    metric.update(network, x)
    scores = dim_zero_cat(metric.scores)
    metric.reset()
    metric.shard = Shard(1, of=3)
    metric.update(network, x)
    assert len(scores) == 7
    assert_close(dim_zero_cat(metric.scores), scores[1::3])


def test_a_shard_of_patterns_sees_its_samples_alone():
    network, x, rows = mlp(4, 8, 3), torch.randn(7, 4), []
    metric = ActivationPatterns(chunk=2)
    metric.shard = Shard(0, of=2)
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


def test_shards_are_not_gathered_a_second_time_by_torchmetrics():
    network, x = mlp(4, 8, 3), torch.randn(8, 4)
    gathered = []

    def gather(state, group=None):
        gathered.append(state)
        return [state, state]

    metric = JacobianNorm(distributed_available_fn=lambda: True, dist_sync_fn=gather)
    metric.shard = Shard(0, of=2)
    metric.update(network, x)
    metric.compute()
    assert not gathered
    metric.reset()
    metric.shard = Shard()
    metric.update(network, x)
    metric.compute()
    assert gathered


def test_scores_are_drawn_for_by_row():
    class Drawing(JacobianNorm):
        def score(self, network, chunk):
            assert isinstance(chunk.draws, Draws)
            assert len(chunk.draws) == len(chunk.x)
            return Scores(chunk.draws.rand())

    x = torch.randn(7, 4)
    together, apart = Drawing(), Drawing(chunk=2)
    for metric in (together, apart):
        metric.update(mlp(4, 3), x)
    assert_close(dim_zero_cat(apart.scores), dim_zero_cat(together.scores), rtol=0, atol=0)


class Masked(nn.Module):
    """A network that is another function for each mask."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(4, 16, 3)

    def forward(self, x, mask):
        return self.network(x * mask)


def masked(samples: int = 6):
    """The network as the monitor finds it, its samples, and their masks."""
    module, x = Masked(), torch.randn(samples, 4)
    mask = torch.randint(4, (samples, 4))
    call = Call.of("", (x, mask), {}, samples)
    with observing(module):
        network, x, *_ = capture_network(module, call)
    return module, network, x, mask


def test_on_a_path_a_network_is_what_it_is_for_the_sample_where_that_starts():
    module, network, x, mask = masked()
    metric = LinearRegions(Segment(count=5, points=2))
    metric.update(network, x)
    found = metric.scores
    generator = torch.Generator().manual_seed(1)  # of the first batch
    chosen = metric.paths.choose(6, None, generator)
    expected = [
        linear_regions(lambda z, i=i: module(z, mask[i].expand_as(z)), x[[i, j]][None]).double()
        for i, j in chosen.tolist()
    ]
    assert_close(torch.cat(found)[:, 0].double(), torch.cat(expected))


@pytest.mark.parametrize("chunk", [1, 2, 99])
def test_at_a_sample_a_network_is_what_it_is_for_it(chunk):
    module, network, x, mask = masked()
    pointwise, elsewhere = JacobianNorm(chunk=chunk), BoundaryDistance(chunk=chunk)
    for metric in (pointwise, elsewhere):
        metric.update(network, x)
    norms, distances = torch.cat(pointwise.scores)[:, 0], torch.cat(elsewhere.scores)[:, 0]
    for i in range(6):
        alone = lambda z, i=i: module(z, mask[i].expand_as(z))  # noqa: E731
        assert_close(norms[i : i + 1], jacobian_norm(alone, x[i : i + 1]))
        assert_close(distances[i : i + 1], boundary_distance(alone, x[i : i + 1]))


@pytest.mark.parametrize("paths", [Segment(count=4), Arc(count=4), OriginLine(4), Translation(4)])
def test_the_start_of_a_path_is_told_by_its_weights(paths):
    x = torch.randn(6, 1, 6)
    starts = origins(paths, 6, None, torch.Generator().manual_seed(3))
    drawn = paths(x, None, torch.Generator().manual_seed(3))[:, 0]
    scale = drawn.flatten(1).norm(dim=1) / x[starts].flatten(1).norm(dim=1)
    assert_close(drawn.abs(), (x[starts] * scale[:, None, None]).abs())


def test_of_large_inputs_fewer_rows_are_evaluated_at_once():
    metric = JacobianNorm(chunk=100)
    assert metric.rows_at_once(torch.zeros(5, 1000)) == 100
    assert metric.rows_at_once(torch.zeros(5, 3, 512, 512)) == 5
    assert metric.rows_at_once(torch.zeros(5, 2**25)) == 1
    assert metric.rows_at_once(torch.zeros(0, 4)) == 100
