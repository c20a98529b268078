"""Which figures are shown of each load: the table, the JSON and the plot take them from here. Pure.

Every figure is the median over the rounds. A ratio or a difference is the median of the rounds' own, because what slows
a whole round down slows all routers down in it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from etc.tools.rivals.figures import median, median_ratio, p50, p99, ratio
from etc.tools.rivals.loads import REQUESTS, STREAMS
from etc.tools.rivals.measure import Measurement
from etc.tools.rivals.table import number, rounded, times

DIRECT = "direct"  # no router at all
BASELINE = "vllm-router"  # what ratios are to

Figure = Callable[[Measurement], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured with one load: router -> one measurement of each round."""

    measurements: Mapping[str, Sequence[Measurement]]

    def rounds(self, router: str, figure: Figure) -> list[float]:
        return [figure(one) for one in self.measurements.get(router, ())]

    def median(self, router: str, figure: Figure) -> float:
        return median(self.rounds(router, figure))

    def ratio(self, router: str, figure: Figure, base: str = BASELINE) -> float:
        return median_ratio(self.rounds(router, figure), self.rounds(base, figure))

    def ratios(self, router: str, figure: Figure, base: str = BASELINE) -> list[float]:
        """Each round's own, those that are numbers."""
        pairs = zip(self.rounds(router, figure), self.rounds(base, figure), strict=False)
        return [found for found in (ratio(value, less) for value, less in pairs) if not math.isnan(found)]

    def added(self, router: str, figure: Figure, base: str = DIRECT) -> float:
        pairs = zip(self.rounds(router, figure), self.rounds(base, figure), strict=False)
        return median(value - less for value, less in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    key: str  # in the JSON
    title: str
    value: Callable[[Figures, str], float]
    show: Callable[[float], str] = rounded


def cpu_us(one: Measurement) -> float:
    """Of everything that belongs to the router."""
    return one.whole_cost_us if one.usage.whole else math.nan


def pss_mb(one: Measurement) -> float:
    """Of the largest process: the one that does the work, where there are several."""
    return max(one.pss_bytes) / 1e6 if one.pss_bytes else math.nan


def first_p50_ms(one: Measurement) -> float:
    return p50(one.result.first)


def first_p99_ms(one: Measurement) -> float:
    return p99(one.result.first)


def gap_p50_ms(one: Measurement) -> float:
    return p50(one.result.gap)


def gap_p99_ms(one: Measurement) -> float:
    return p99(one.result.gap)


def failures(one: Measurement) -> float:
    """Answers that failed, and those that were cut because they took too long."""
    return sum(one.result.failures.values()) + one.result.unfinished


def _median_of(key: str, title: str, figure: Figure, show: Callable[[float], str] = rounded) -> Column:
    return Column(key=key, title=title, value=lambda figures, router: figures.median(router, figure), show=show)


_CPU = _median_of("cpu_us", "CPU us", cpu_us)
_CPU_RATIO = Column(
    key="cpu_ratio",
    title=f"/ {BASELINE}",
    value=lambda figures, router: figures.ratio(router, cpu_us),
    show=times,
)
_LEAST = Column(
    key="cpu_ratio_least",
    title="least",
    value=lambda figures, router: min(figures.ratios(router, cpu_us), default=math.nan),
    show=times,
)
_MOST = Column(
    key="cpu_ratio_most",
    title="most",
    value=lambda figures, router: max(figures.ratios(router, cpu_us), default=math.nan),
    show=times,
)
_PER_S = _median_of("per_s", "per s", lambda one: one.units_per_s, number)
_FIRST = (_median_of("p50_ms", "p50 ms", first_p50_ms), _median_of("p99_ms", "p99 ms", first_p99_ms))
_FIRST_ADDED = Column(
    key="added_p50_ms",
    title="added",
    value=lambda figures, router: figures.added(router, first_p50_ms) if router != DIRECT else math.nan,
)
_GAPS = (_median_of("gap_p50_ms", "gap p50", gap_p50_ms), _median_of("gap_p99_ms", "gap p99", gap_p99_ms))
_REST = (
    _median_of("pss_mb", "PSS MB", pss_mb),
    _median_of("failures", "failed", failures, number),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    REQUESTS: (_CPU, _CPU_RATIO, _LEAST, _MOST, _PER_S, *_FIRST, *_REST),
    STREAMS: (_CPU, _CPU_RATIO, _LEAST, _MOST, _PER_S, _FIRST[0], _FIRST_ADDED, _FIRST[1], *_GAPS, *_REST),
}
