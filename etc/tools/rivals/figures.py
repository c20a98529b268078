"""The arithmetic of the benchmark. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed. There must be one."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """Of those that are numbers; between the two in the middle. Not a number where there are none."""
    ordered = sorted(value for value in values if not math.isnan(value))
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def ratio(value: float, base: float) -> float:
    """Not a number where there is nothing to divide, or by."""
    return value / base if base else math.nan


def median_ratio(values: Sequence[float], bases: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what slows down a whole round slows down both."""
    return median(ratio(value, base) for value, base in zip(values, bases, strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a time was distributed, in milliseconds."""

    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self | None:
        """None where nothing was measured."""
        ordered = sorted(seconds)
        if not ordered:
            return None
        return cls(
            p50=1e3 * percentile(ordered, 0.5),
            p99=1e3 * percentile(ordered, 0.99),
            most=1e3 * percentile(ordered, 1.0),
        )


def p50(spread: Spread | None) -> float:
    return spread.p50 if spread else math.nan


def p99(spread: Spread | None) -> float:
    return spread.p99 if spread else math.nan
