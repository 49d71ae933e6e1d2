"""Exact regions of a segment by a sweep over layers in fractions, where nothing is rounded."""

from bisect import bisect_right
from fractions import Fraction


def count_regions(start, end, layers):
    """Count the regions of the segment between two lists of numbers.

    Each layer maps all values to units and, with the units, to the values of the next layer. Both
    maps are affine between the kinks of the units, which are at zero.
    """
    points = {Fraction(0): [Fraction(v) for v in start], Fraction(1): [Fraction(v) for v in end]}
    knots = set()
    for units, following in layers:
        where = sorted(points)
        z = [units(points[t]) for t in where]
        crossings = set()
        for r in range(len(where) - 1):
            for a, b in zip(z[r], z[r + 1], strict=True):
                if a * b < 0:
                    crossings.add(where[r] + a / (a - b) * (where[r + 1] - where[r]))
        for before, here, after, t in zip(z, z[1:], z[2:], where[1:], strict=False):
            passes = [
                b == 0 and (a > 0) != (c > 0) for a, b, c in zip(before, here, after, strict=True)
            ]
            if any(passes):
                knots.add(t)
        knots |= crossings
        points |= {t: _between(points, where, t) for t in crossings}
        points = {t: following(v, units(v)) for t, v in points.items()}
    return 1 + len(knots)


def _between(points, where, t):
    right = bisect_right(where, t)
    a, b = where[right - 1], where[right]
    share = (t - a) / (b - a)
    return [v + share * (w - v) for v, w in zip(points[a], points[b], strict=True)]
