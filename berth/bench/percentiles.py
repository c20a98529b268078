"""Percentiles of few samples, with the bounds that so few allow; pure, and without a library."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

CONFIDENCE = 0.99
_TINY = 1e-300
_MOST_TERMS = 500


def nearest_rank(values: Sequence[float], percent: float) -> float | None:
    """None of no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def upper_bound(values: Sequence[float], percent: float, confidence: float = CONFIDENCE) -> float | None:
    """The value that the percentile does not exceed, at this confidence. None: there are too few values to say."""
    failing = bisect_left(
        range(len(values)), True, key=lambda misses: not meets(len(values), misses, percent, confidence)
    )
    return sorted(values)[-failing] if failing else None


def meets(count: int, misses: int, percent: float, confidence: float = CONFIDENCE) -> bool:
    """`misses` of `count` requests leave no doubt that the percentile is met: MLPerf's early stopping."""
    share = percent / 100
    return misses < count and tail(share, count - misses, misses + 1) <= 1 - confidence


def tail(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction."""
    if a <= 0 or x >= 1:
        return 1.0
    if x <= 0:
        return 0.0
    if x > (a + 1) / (a + b + 2):
        return 1 - tail(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = c = 1.0
    d = 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for term in range(1, _MOST_TERMS):
        for step in (
            term * (b - term) * x / ((a + 2 * term - 1) * (a + 2 * term)),
            -(a + term) * (a + b + term) * x / ((a + 2 * term) * (a + 2 * term + 1)),
        ):
            d = 1 / _not_zero(1 + step * d)
            c = _not_zero(1 + step / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


@cache
def student(share: float, freedom: int) -> float:
    """The quantile of Student's distribution: 0.975 of 9 is 2.262."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        below = 1 - tail(freedom / (freedom + middle * middle), freedom / 2, 0.5) / 2
        low, high = (middle, high) if below < share else (low, middle)
    return high


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
