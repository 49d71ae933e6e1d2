import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lightning_effcx.paths import (
    Arc,
    Ellipse,
    OriginLine,
    Paths,
    Segment,
    Translation,
    arc,
    ellipse,
    origin_line,
    pairs,
    segment,
    translation,
)

pytestmark = pytest.mark.usefixtures("_float64")
SHAPES = st.sampled_from([(3,), (2, 4), (1, 3, 5)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SHAPES, st.integers(2, 9))
def test_segments_are_straight_and_end_at_both_samples(shape, points):
    a, b = torch.randn(2, 4, *shape)
    path = segment(a, b, points=points)
    assert path.shape == (4, points, *shape)
    assert_close(path[:, 0], a)
    assert_close(path[:, -1], b)
    steps = path.diff(dim=1)
    assert_close(steps, ((b - a) / (points - 1))[:, None].expand_as(steps))


@given(SHAPES)
def test_arcs_reach_b_after_a_quarter_and_are_back_after_a_whole_turn(shape):
    a, b = torch.randn(2, 4, *shape)
    assert_close(arc(a, b, points=3, turn=0.25)[:, -1], b)
    assert_close(arc(a, b, points=3, turn=0.25)[:, 1], (a + b) / math.sqrt(2))
    assert_close(arc(a, b, points=3, turn=0.5)[:, -1], -a)
    assert_close(arc(a, b, points=5, turn=1.0)[:, [0, 2, 4]], torch.stack([a, -a, a], 1))


@given(SHAPES, st.integers(0, 4))
def test_origin_lines_are_straight_through_the_origin_and_the_sample(shape, decades):
    x = torch.randn(4, *shape)
    path = origin_line(x, decades=decades)
    assert path.shape == (4, 2 * decades + 2, *shape)
    assert_close(path[:, decades + 1], x)
    assert_close(path, -path.flip(1))
    assert_close(path[:, -1], 10.0**decades * x)
    share = path.flatten(2) @ x.flatten(1)[..., None] / x.flatten(1).square().sum(1)[:, None, None]
    assert_close(path.flatten(2), share * x.flatten(1)[:, None])
    assert (share.diff(dim=1) > 0).all()


@given(SHAPES)
def test_ellipses_pass_through_their_three_samples_and_close(shape):
    a, b, c = torch.randn(3, 4, *shape)
    path = ellipse(a, b, c, points=7)
    assert_close(path[:, 1], a)
    assert_close(path[:, 3], b)
    assert_close(path[:, 5], c)
    assert_close(path[:, 0], path[:, -1])


def test_translations_shift_images_once_around():
    x = torch.randn(3, 2, 4, 5)
    path = translation(x)
    assert path.shape == (3, 6, 2, 4, 5)
    for shift in range(6):
        assert_close(path[:, shift], x.roll(shift, -1))


def test_translations_are_straight_between_whole_shifts():
    x = torch.randn(2, 4, 5)
    path = translation(x, steps=4)
    assert path.shape == (2, 21, 4, 5)
    assert_close(path[:, ::4], translation(x))
    assert_close(path[:, 5], 0.75 * x.roll(1, -1) + 0.25 * x.roll(2, -1))


@given(st.lists(st.integers(0, 2), min_size=4, max_size=12), st.booleans(), st.integers(1, 80))
def test_pairs_are_different_and_of_the_classes_asked_for(classes, same, count):
    y = torch.tensor(classes)
    everything = {*listed(y, same=same)}
    if not everything:
        with pytest.raises(ValueError, match=r"are of .*class.*: use more samples"):
            pairs(y, count, same=same)
        return
    found = [tuple(pair) for pair in pairs(y, count, same=same, generator=generator()).tolist()]
    assert len(found) == len(set(found)) == min(count, len(everything))
    assert set(found) <= everything


def test_pairs_are_drawn_by_the_generator_alone():
    y = torch.zeros(20, dtype=torch.long)
    state = torch.get_rng_state()
    first, again, other = (pairs(y, 9, same=True, generator=generator(s)) for s in (0, 0, 1))
    assert_close(first, again)
    assert not torch.equal(first, other)
    assert_close(torch.get_rng_state(), state)


def listed(y, *, same):
    """All pairs of samples of the same class, or of different classes."""
    return [(i, j) for i in range(len(y)) for j in range(i + 1, len(y)) if (y[i] == y[j]) == same]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("count", [2, 12])  # of many pairs, which are drawn, and of few
def test_all_pairs_are_drawn_equally_often_and_in_every_order(same, count):
    y, draws, source = torch.tensor([0, 2, 2, 1, 0, 2, 2, 1, 2]), 4000, generator(3)
    known = {pair: number for number, pair in enumerate(listed(y, same=same))}
    drawn = [pairs(y, count, same=same, generator=source).tolist() for _ in range(draws)]
    found = torch.tensor([[known[tuple(pair)] for pair in each] for each in drawn])
    for column in found.T:  # the first pair, the second pair, ...
        expected = draws / len(known)
        squares = (column.bincount(minlength=len(known)) - expected).square().sum() / expected
        freedom = len(known) - 1  # chi-square has this mean and twice this variance
        assert abs(squares - freedom) < 4 * (2 * freedom) ** 0.5


def test_pairs_of_many_samples_are_drawn_without_listing_them():
    n = 200_000  # of which there are 20,000 million pairs
    y = torch.arange(n) % 3
    for same in (True, False):
        found = pairs(y, 5000, same=same, generator=generator())
        assert len(found.unique(dim=0)) == 5000
        assert (found[:, 0] < found[:, 1]).all()
        assert ((y[found[:, 0]] == y[found[:, 1]]) == same).all()
        assert found.float().mean() == pytest.approx(n / 2, rel=0.02)


DRAWN = [
    Segment(count=3),
    Segment("same", 3),
    Arc("different", 3),
    Ellipse(3),
    Translation(3),
    OriginLine(3),
]


@pytest.mark.parametrize("paths", DRAWN, ids=lambda paths: paths.name)
def test_paths_of_a_metric_repeat_with_their_generator(paths):
    x, y = torch.randn(10, 2, 6), torch.arange(10) % 3
    assert isinstance(paths, Paths)
    path = paths(x, y, generator())
    assert len(path) == 3
    assert path.shape[2:] == x.shape[1:]
    assert_close(paths(x, y, generator()), path)


@pytest.mark.parametrize("paths", [*DRAWN, Segment(count=32), Ellipse(16)], ids=str)
def test_paths_have_no_sample_in_common_as_long_as_there_are_enough(paths):
    x, y = torch.randn(100, 2, 6), torch.arange(100) % 3
    chosen = paths.choose(100, y, generator())
    assert len(chosen) == paths.count
    assert len(chosen.unique()) == chosen.numel()
    assert_close(paths.through(x, chosen), paths(x, y, generator()))


def test_of_few_samples_paths_share_some():
    for paths, most in ((Segment(count=12), 12), (Segment(count=99), 28), (Ellipse(12), 12)):
        chosen = paths.choose(8, None, generator())
        assert len(chosen) == most
        assert all(len(set(group)) == len(group) for group in chosen.tolist())
        apart = 8 // chosen.shape[1]
        assert len(chosen[:apart].unique()) == apart * chosen.shape[1]
    assert len(Segment(count=12).choose(8, None, generator()).unique(dim=0)) == 12


def test_names_of_paths_say_what_they_join():
    assert [paths.name for paths in DRAWN] == [
        "segment",
        "segment_same",
        "arc_different",
        "ellipse",
        "translation",
        "origin_line",
    ]


@pytest.mark.parametrize("between", ["same", "different"])
def test_segments_join_samples_of_the_classes_asked_for(between):
    y = torch.arange(12) % 3
    x = y[:, None].to(torch.float64)
    path = Segment(between, count=10, points=2)(x, y, generator())
    assert ((path[:, 0] == path[:, 1]) == (between == "same")).all()


def test_paths_keep_the_precision_of_the_samples():
    x = torch.randn(5, 3, 4, dtype=torch.bfloat16)
    for paths in (
        Segment(count=2),
        Arc(count=2),
        Ellipse(count=2),
        Translation(count=2),
        OriginLine(),
    ):
        assert paths(x, None, generator()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [Segment, Arc, Ellipse, Translation, OriginLine])
def test_a_path_needs_a_count(kind):
    with pytest.raises(ValueError, match="count=0: expected at least 1"):
        kind(count=0)


def test_a_path_needs_vertices():
    with pytest.raises(ValueError, match="points=1: expected at least 2"):
        Segment(points=1)
    with pytest.raises(ValueError, match="points=3: expected at least 4"):
        Ellipse(points=3)
    with pytest.raises(ValueError, match="steps=0: expected at least 1"):
        Translation(steps=0)
    with pytest.raises(ValueError, match="decades=-1: expected at least 0"):
        OriginLine(decades=-1)


def test_paths_say_what_samples_they_need():
    x = torch.randn(2, 3)
    with pytest.raises(
        ValueError, match=r"three samples, but there are 2: use more samples, or Segment\(\)\.$"
    ):
        Ellipse()(x, None, generator())
    with pytest.raises(ValueError, match=r"moves images .* got \(2, 3\): use Segment"):
        Translation()(x, None, generator())
    with pytest.raises(ValueError, match="a pair takes two samples, but there is 1: use more"):
        Segment()(x[:1], None, generator())
    with pytest.raises(ValueError, match="no two of the 2 samples are of the same class"):
        Segment("same")(x, torch.arange(2), generator())
    with pytest.raises(ValueError, match="no two of the 2 samples are of different classes"):
        Segment("different")(x, torch.zeros(2, dtype=torch.long), generator())
