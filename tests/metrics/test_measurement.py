import torch
from torch.testing import assert_close

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
    assert_close(found.stderr, number((4 / 3) ** 0.5))
    assert Measurement.mean(torch.ones(1)).stderr is None
    assert Measurement.of(2, device=torch.device("cpu")).stderr is None


def test_scores_are_read_back_from_their_table():
    scores = Scores(torch.rand(3), {"_share": torch.rand(3)}, {"relu": torch.arange(3)})
    assert scores.table.shape == (3, 3)
    found = Scores.of(scores.table, scores.layout)
    assert_close(found.value, scores.value)
    assert_close(dict(found.variants), dict(scores.variants))
    assert_close(found.sites["relu"], torch.arange(3.0))
    row = Scores.of(scores.table[1], scores.layout)
    assert_close(row.value, scores.value[1])
