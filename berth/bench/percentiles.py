"""Percentiles of few samples, with the bounds that so few allow; pure, and without a library."""

import math
from collections.abc import Sequence

from berth.intervals import CONFIDENCE, tail


def nearest_rank(values: Sequence[float], percent: float) -> float | None:
    """None of no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def upper_bound(values: Sequence[float], percent: float, confidence: float = CONFIDENCE) -> float | None:
    """The value that the percentile does not exceed, at this confidence. None: there are too few values to say."""
    share, ordered = percent / 100, sorted(values)
    for misses in range(len(ordered)):
        if needed(share, misses, confidence) > len(ordered):
            return ordered[-misses] if misses else None
    return None


def meets(count: int, misses: int, percent: float, confidence: float = CONFIDENCE) -> bool:
    """`misses` of `count` requests leave no doubt that the percentile is met: MLPerf's early stopping."""
    share = percent / 100
    return misses < count and tail(share, count - misses, misses + 1) <= 1 - confidence


def needed(share: float, misses: int, confidence: float = CONFIDENCE) -> int:
    """Requests that show with so many misses that this share of all requests has none."""
    low, high = misses, max(2 * misses, 1)
    while tail(share, high - misses, misses + 1) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = tail(share, middle - misses, misses + 1) <= 1 - confidence
        low, high = (low, middle) if enough else (middle, high)
    return high
