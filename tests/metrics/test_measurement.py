import torch
from torch.testing import assert_close

from lightning_effcx.metrics.error_bars import BAR, share_bounds, widening
from lightning_effcx.metrics.measurement import Measurement
from lightning_effcx.metrics.scoring import Scores
from lightning_effcx.tags import Tag, of_key


def number(value: float):
    return torch.tensor(float(value))


FOUND = Measurement(
    number(1),
    number(2),
    variants={".dead": Measurement(number(3), number(4)), "_share": Measurement(number(5))},
    sites={"layers.0": number(6), "layers.1": number(7)},
)


def test_every_value_has_a_tag_and_a_key():
    expected = {
        Tag("norm"): 1,
        Tag("norm", "stderr"): 2,
        Tag("norm.dead"): 3,
        Tag("norm.dead", "stderr"): 4,
        Tag("norm_share"): 5,
        Tag("norm", "site", "layers.0"): 6,
        Tag("norm", "site", "layers.1"): 7,
    }
    assert FOUND.tagged("norm") == expected
    scalars = FOUND.scalars("norm")
    assert {of_key(key): value for key, value in scalars.items()} == expected
    assert next(iter(scalars)) == "norm"
    assert {"norm_stderr", "norm.dead_stderr", "norm/layers.1"} <= scalars.keys()


def test_a_mean_has_a_standard_error_if_there_are_two_scores():
    found = Measurement.mean(torch.tensor([1.0, 3.0, 5.0]))
    assert_close(found.value, number(3))
    assert_close(found.stderr, number((4 / 3) ** 0.5 * widening(3)))
    assert Measurement.mean(torch.ones(1)).stderr is None
    assert Measurement.of(2, device=torch.device("cpu")).stderr is None


def test_a_share_has_bounds_instead_of_a_symmetric_bar():
    found = Measurement.share(torch.tensor([1.0, 0, 0, 0]))
    low, high = share_bounds(0.25, 4)
    assert_close(found.interval, (number(low), number(high)))
    assert_close(found.stderr, number((high - low) / 2 / BAR))
    assert {str(tag) for tag in found.tagged("error")} == {
        *("effcx/error", "effcx_stderr/error", "effcx/error.low", "effcx/error.high")
    }
    assert str([*found.tagged("gap.agreement")][-1]) == "effcx/gap.agreement_high"
    assert Measurement.share(torch.ones(1)).interval is None
    assert Measurement.share(torch.zeros(100)).stderr > 0.009
    twice = Measurement.share(torch.tensor([1.0, 0, 1, 0]), samples=2)  # the same two, twice
    assert_close(twice.interval, tuple(map(number, share_bounds(0.5, 2))))


def test_any_other_interval_is_symmetric():
    found = Measurement(number(3), number(2))
    assert_close(found.interval, (number(3 - 2 * BAR), number(3 + 2 * BAR)))
    assert Measurement(number(3)).interval is None


def test_scores_are_read_back_from_their_table():
    scores = Scores(torch.rand(3), {"_share": torch.rand(3)}, {"relu": torch.arange(3)})
    assert scores.table.shape == (3, 3)
    found = Scores.of(scores.table, scores.layout)
    assert_close(found.value, scores.value)
    assert_close(dict(found.variants), dict(scores.variants))
    assert_close(found.sites["relu"], torch.arange(3.0))
    row = Scores.of(scores.table[1], scores.layout)
    assert_close(row.value, scores.value[1])
