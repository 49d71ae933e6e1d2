from itertools import combinations

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from lightning_effcx.metrics.error_bars import (
    BAR,
    LEVEL,
    joint_standard_error,
    share_bounds,
    standard_error,
    students_t,
    widening,
)


def test_students_t_is_the_quantile_of_another_program():
    for freedom in (1, 1.3, 2, 2.7, 3, 7, 15, 63, 63.4, 1000, 1e7):
        expected = stats.t.ppf((1 + LEVEL) / 2, freedom)
        assert students_t(freedom) == pytest.approx(expected, rel=1e-6)
    assert pytest.approx(stats.norm.ppf((1 + LEVEL) / 2)) == BAR


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 1])
@pytest.mark.parametrize("samples", [2, 100, 10_000])
def test_the_bounds_of_a_share_are_those_of_another_program(share, samples):
    count = round(share * samples)
    expected = stats.binomtest(count, samples).proportion_ci(LEVEL, method="wilson")
    assert share_bounds(count / samples, samples) == pytest.approx((expected.low, expected.high))


def test_no_mistake_among_many_samples_leaves_room_for_some():
    low, high = share_bounds(0.0, samples=100)
    assert low == 0
    assert 0.03 < high < 0.04


def covered(share, samples):
    """The exact probability that the bounds hold a share."""
    counts = range(samples + 1)
    holding = [k for k in counts if (b := share_bounds(k / samples, samples))[0] <= share <= b[1]]
    return stats.binom.pmf(holding, samples, share).sum()


@pytest.mark.parametrize("samples", [16, 64, 100, 1000])
def test_the_bounds_of_a_share_hold_it_in_95_percent_of_all_cases(samples):
    shares = torch.linspace(0, 1, 201)[1:-1].tolist()
    found = torch.tensor([covered(share, samples) for share in shares])
    assert 0.945 < found.mean() < 0.96
    small = [share for share in (0.01, 0.02, 0.05, 0.1) if share * samples > 0.5]
    # It jumps, because counts are whole numbers.
    assert all(0.92 < covered(share, samples) < 0.985 for share in small)


def test_a_standard_error_of_independent_scores_is_widened_by_their_number():
    scores = torch.tensor([3.0, 1, 2, -5, 5, -3, 0, -1, -2])
    assert_close(standard_error(scores), scores.std() / 3 * widening(9))
    apart = torch.arange(18).reshape(9, 2).flip(0)
    assert_close(standard_error(scores, apart), scores.std() / 3 * widening(9))
    assert standard_error(scores[:1]) is None
    assert standard_error(scores[:0]) is None


def test_a_standard_error_of_skew_scores_is_longer():
    bar, longest = standard_error(-torch.rand(1000).log()), 0
    assert 1 / 1000**0.5 < bar < 1.1 / 1000**0.5
    for scores in (torch.eye(20)[0], 1 - torch.eye(20)[0]):  # no 20 scores are more skew
        longest = standard_error(scores) / (scores.std() / 20**0.5 * widening(20))
        assert 1.5 < longest < 2
    assert standard_error(torch.ones(5)) == 0


def test_a_joint_standard_error_has_the_degrees_of_freedom_of_another_program():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, generator=generator).double() for n in (3, 5))
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    bars = [(float(x.std() / len(x) ** 0.5 * widening(len(x))), len(x)) for x in (a, b)]
    assert joint_standard_error(bars) * BAR == pytest.approx((high - low) / 2)
    assert joint_standard_error([(0.0, 3), (0.0, 5)]) == 0


def test_scores_that_all_share_samples_have_no_standard_error():
    assert standard_error(torch.randn(3), torch.tensor([[0, 1], [0, 2], [1, 2]])) is None
    assert standard_error(torch.randn(4), torch.zeros(4, 1)) is None


def spread_and_bars(score, samples=12, draws=3000):
    """The true standard deviation of a mean over all pairs, and what the bars say it is."""
    pairs = torch.tensor([*combinations(range(samples), 2)])
    x = torch.randn(draws, samples, dtype=torch.float64)
    scores = score(x[:, pairs[:, 0]], x[:, pairs[:, 1]])
    told = torch.stack([standard_error(row, pairs) for row in scores])
    return scores.mean(1).std(), told.square().mean().sqrt() / widening(samples / 2)


def test_the_standard_error_of_pairs_with_common_samples_is_that_of_repeated_draws():
    true, told = spread_and_bars(lambda a, b: a + b)  # all of the variance is shared
    assert_close(told, true, rtol=0.1, atol=0)
    true, told = spread_and_bars(lambda a, b: (a - b).abs())
    assert 0.95 < told / true < 1.2
    true, told = spread_and_bars(lambda a, b: (a * b).sign())  # none of it is shared
    assert 0.95 < told / true < 1.6  # rather too long


def test_the_numbers_of_the_samples_do_not_matter():
    scores, pairs = torch.randn(10), torch.tensor([*combinations(range(5), 2)])
    expected = standard_error(scores, pairs)
    names = torch.tensor([70, 3, -9, 2**61, 12])
    assert_close(standard_error(scores, names[pairs]), expected, rtol=0, atol=0)
