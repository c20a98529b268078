"""Percentiles of few samples, with the bounds that so few allow; pure, and without a library."""

import math
from bisect import bisect_left
from collections.abc import Sequence

from berth.intervals import CONFIDENCE, tail


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
