"""Intervals of shares and means, and the distributions behind them; pure, and without a library."""

import math
from collections.abc import Callable
from functools import cache
from typing import Final

CONFIDENCE: Final = 0.99
_TINY = 1e-300
_MOST_TERMS = 500
_STEPS: Final = 60  # of a bisection


def share_interval(count: float, of: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Of the share that shows as `count` of `of`: Clopper and Pearson's, which is never too short."""
    beyond = (1 - confidence) / 2
    low = _first(lambda share: tail(share, count, of - count + 1) > beyond) if count else 0.0
    high = _first(lambda share: tail(share, count + 1, of - count) > 1 - beyond) if count < of else 1.0
    return low, high


def mean_interval(
    count: float, total: float, squares: float, confidence: float = CONFIDENCE
) -> tuple[float, float, float] | None:
    """The mean of so many values with this sum and sum of squares, and its interval by Student. None of fewer than two
    values.
    """
    if count < 2:
        return None
    mean = total / count
    variance = max(0.0, squares - total * mean) / (count - 1)
    half = student((1 + confidence) / 2, int(count) - 1) * math.sqrt(variance / count)
    return mean, mean - half, mean + half


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


def _first(is_over: Callable[[float], bool]) -> float:
    """The smallest share for which that is true; it is for all larger ones."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_over(middle) else (middle, high)
    return high


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
