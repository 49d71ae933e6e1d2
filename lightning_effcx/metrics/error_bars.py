r"""Error bars: how far a value may be from what all samples of the population would give.

Every error bar is about the population of which the measured samples are a random sample. It
includes the random numbers of the measure, such as its paths and directions. It is not about other
trainings of the network.

The bar of a mean is symmetric: `value ± 1.96 stderr` holds the mean over the population in 95 % of
all cases. With many draws `stderr` is the standard error $s / \sqrt{n}$. Of few draws the spread
$s$ is not known well. So the standard error is widened by Student's $t$: by 2 % for 64 draws, 9 %
for 16, 21 % for 8, and to more than twice its length for 3. It is widened further if the scores are
skew, by Hall's expansion: a few large scores are often missing among the draws, and then both the
mean and $s$ are too small. Of scores that are very skew the bar is still too short. The more
samples, the better it holds.

Paths that share samples are not independent. Their standard error adds the covariance of all pairs
of paths that have a sample in common. Where nearly all paths share samples, the bar is rather too
long than too short.

The bar of a share, such as an error rate, is not symmetric near 0 and 1. It has a lower and an
upper bound instead, by Wilson's formula. No mistake among $n$ samples does not mean a bar of 0.

Fafchamps, Gubert, "The Formation of Risk Sharing Networks", Journal of Development Economics 2007:
the covariance of pairs with a common member. Hall, "The Bootstrap and Edgeworth Expansion", 1992:
the coverage of a mean of skew scores. Wilson, "Probable Inference, the Law of Succession,
and Statistical Inference", JASA 1927.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

LEVEL = 0.95
"""The probability that an interval holds the value of the population."""
BAR = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""The half width of an interval, in standard errors: 1.96."""

_SKEWED = (BAR**4 + 2 * BAR**2 - 3) / 18  # Hall's expansion of the coverage, to first order
_LARGEST = 13  # Student's t of one degree of freedom is 12.7, and all others are smaller
_STEPS = 256  # of Simpson's rule; even
_HALVINGS = 60


def standard_error(scores: Tensor, samples: Tensor | None = None) -> Tensor | None:
    """Return the standard error of the mean of scores `(n,)`, widened for few and skew draws.

    Args:
        scores: The scores.
        samples: The samples that each score is about, by numbers that tell them apart, `(n, k)`.
            Scores without a common sample are independent. By default all scores are.

    Returns:
        The standard error; `None` if there are fewer than two draws, which have no spread.
    """
    if samples is None:
        samples = torch.arange(len(scores), device=scores.device)[:, None]
    n, k = samples.shape
    if len(samples) < 2:  # noqa: PLR2004 one score has no spread
        return None
    which, uses = _numbered(samples)
    used_twice = float(uses.square().sum())
    draws = k * n**2 / used_twice  # n without common samples, m / 2 for all pairs of m samples
    related = (used_twice - (k - 1) * n) / n**2  # the share of pairs of scores, (i, i) included
    if draws < 2 or related >= 1:  # noqa: PLR2004 one draw has no spread
        return None
    residuals = scores - scores.mean()
    squares = residuals.square().sum()
    sums = torch.zeros(len(uses), dtype=scores.dtype, device=scores.device)
    sums = sums.index_add(0, which, residuals.repeat_interleave(k))
    # The products of the residuals of all related pairs. A score with itself is in it k times.
    products = sums.square().sum() - (k - 1) * squares
    variance = products / (n**2 * (1 - related))
    # Scores with a common sample do not vary less than independent ones.
    stderr = variance.clamp(min=squares / (n * (n - 1))).sqrt()
    return stderr * (widening(draws) + _SKEWED * _squared_skewness(residuals) / draws)


def _squared_skewness(residuals: Tensor) -> Tensor:
    """Return the square of the skewness: 0 for a symmetric distribution, 4 for an exponential."""
    scale = residuals.square().mean().sqrt()
    scaled = residuals / torch.where(scale > 0, scale, 1.0)
    return scaled.pow(3).mean().square()


def joint_standard_error(bars: Sequence[tuple[float, float]]) -> float:
    """Return the widened standard error of a sum or a difference of independent means.

    The degrees of freedom are Welch's: the errors with few draws count most.

    Args:
        bars: The widened standard error of each mean, and its number of draws, at least 2.

    Example:
        >>> round(joint_standard_error([(0.3, 1000), (0.4, 1000)]), 2)
        0.5
    """
    variances = [(stderr / widening(draws)) ** 2 for stderr, draws in bars]
    variance = sum(variances)
    if not variance:
        return 0.0
    parts = zip(variances, bars, strict=True)
    freedom = variance**2 / sum(each**2 / (draws - 1) for each, (_, draws) in parts)
    return float(variance**0.5 * widening(freedom + 1))


def _numbered(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Number the samples by their first use, so that no sum depends on the numbers given.

    Returns:
        The new number of each use of a sample, and how often each sample is used.
    """
    _, which, uses = samples.flatten().unique(return_inverse=True, return_counts=True)
    places = torch.arange(len(which), device=which.device)
    first = torch.zeros_like(uses).scatter_reduce(0, which, places, "amin", include_self=False)
    order = first.argsort()
    return order.argsort()[which], uses[order]


@lru_cache
def widening(draws: float) -> float:
    """Return how many times longer the bar of a mean of few draws is than `BAR` standard errors.

    Example:
        >>> round(widening(3), 2), round(widening(16), 2), round(widening(1000), 2)
        (2.2, 1.09, 1.0)
    """
    return students_t(draws - 1) / BAR


def students_t(freedom: float) -> float:
    r"""Return Student's $t$: what $|T|$ does not exceed, with the probability `LEVEL`.

    With $T = \sqrt{\nu} \tan a$ the density of the angle $a$ is proportional to
    $\cos^{\nu - 1} a$. The angle is found by bisection.

    Args:
        freedom: The degrees of freedom $\nu$, at least 1.

    Example:
        >>> round(students_t(2), 3)
        4.303
    """
    half = math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)
    target = LEVEL * math.sqrt(math.pi) / 2 * math.exp(half)  # the share of the whole integral
    low, high = 0.0, math.atan(_LARGEST / math.sqrt(freedom))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _integral(middle, freedom - 1) < target:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _integral(angle: float, power: float) -> float:
    """Integrate a power of the cosine from 0 to an angle, by Simpson's rule."""
    values = [math.cos(angle * step / _STEPS) ** power for step in range(_STEPS + 1)]
    inner = 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2])
    return (values[0] + inner + values[-1]) * angle / (3 * _STEPS)


def share_bounds(share: float, samples: int) -> tuple[float, float]:
    """Return the lower and the upper bound of a share, by Wilson's formula.

    Args:
        share: The share of the samples that has a property, between 0 and 1.
        samples: The number of samples.

    Example:
        >>> low, high = share_bounds(0.01, samples=100)
        >>> round(low, 4), round(high, 4)
        (0.0018, 0.0545)
    """
    weight = BAR**2 / samples
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
