"""Which engine is started when, and which loads it gets; pure.

Engines are started in the order A B B A, so that what changes with time concerns all of them alike. The first start of
each looks for the most requests at a time with which it keeps to the SLO. All engines are then measured at the same
points: one user, the limit of the first engine, and a Poisson load of LOAD of what that one did there. Each is also
measured at its own limit, from where its goodput is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from berth.bench.generator import Size
from berth.records.results import Point, Slo, Window

LOAD = 0.7
PLATEAU = 0.05  # of more throughput for twice as many requests: the engine is full
LARGEST = 1024  # requests at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How much is measured. Windows that are too small for it are invalid."""

    rounds: int = 2  # starts of each engine
    windows: int = 5  # of each point and start
    requests: int = 100  # of a window, or PER_PLACE for each that runs at a time if those are more
    per_place: int = 10
    few: int = 20  # of a window with so few requests at a time that all of `requests` would take long
    closed_s: float = 20.0
    open_s: float = 60.0
    warm_s: float = 5.0
    first_warm_s: float = 20.0  # after a start
    search_s: float = 5.0
    grace_s: float = 300.0
    quick: bool = False

    def size(self, point: Point, *, first: bool, search: bool = False) -> Size:
        least = 2 if search else self.per_place
        is_small = search or 0 < self.per_place * point.concurrency < self.requests
        requests = max(self.few if is_small else self.requests, least * point.concurrency)
        seconds = self.search_s if search else self.closed_s if point.concurrency else self.open_s
        return Size(
            warm_requests=max(2 * point.concurrency, 4),
            warm_s=self.first_warm_s if first else self.warm_s,
            requests=min(requests, self.requests) if search else requests,
            seconds=seconds,
            grace_s=self.grace_s,
        )


QUICK = Profile(
    rounds=1, windows=3, requests=40, per_place=4, few=8, closed_s=5.0, open_s=10.0, warm_s=2.0, first_warm_s=5.0,
    search_s=2.0, quick=True,
)  # fmt: skip


def order(engines: int, rounds: int) -> list[int]:
    """Engines by number, in the order of their starts."""
    forward = list(range(engines))
    return [one for number in range(rounds) for one in (reversed(forward) if number % 2 else forward)]


def next_concurrency(found: Sequence[Window], slo: Slo, most: int) -> int | None:
    """The number of requests at a time that the search tries next. None: it has ended."""
    if not found:
        return 1
    passed = [one for one in found if keeps(one, slo)]
    failed = [one.point.concurrency for one in found if not keeps(one, slo)]
    highest = max((one.point.concurrency for one in passed), default=0)
    if failed:
        lowest = min(failed)
        middle = (highest + lowest) // 2
        return middle if lowest - highest > max(1, highest // 8) and middle > highest else None
    if is_full(passed) or highest >= most:
        return None
    return min(2 * highest, most)


def limit(found: Sequence[Window], slo: Slo, most: int) -> tuple[int, str]:
    """The most requests at a time that keep to the SLO, and why the search ended there."""
    passed = sorted((one for one in found if keeps(one, slo)), key=lambda one: one.point.concurrency)
    if not passed:
        return 1, f"not even one request at a time keeps to the SLO ({found[0].attainment:.0%})"
    best = passed[-1].point.concurrency
    if len(passed) < len(found):
        return best, f"more than {best} at a time do not keep to the SLO"
    if is_full(passed):
        best = passed[-2].point.concurrency
        return best, f"more than {best} at a time bring less than {PLATEAU:.0%} more"
    return best, f"the engine takes {best} at a time" if best >= most else f"{best} at a time"


def keeps(one: Window, slo: Slo) -> bool:
    return one.attainment >= slo.percent / 100


def is_full(passed: Sequence[Window]) -> bool:
    ordered = sorted(passed, key=lambda one: one.point.concurrency)
    return len(ordered) > 1 and ordered[-1].achieved < (1 + PLATEAU) * ordered[-2].achieved


def common_points(first: Sequence[Window], concurrency: int) -> tuple[Point, ...]:
    """From the search of the first engine, the points of all."""
    at_limit = next((one for one in first if one.point.concurrency == concurrency), None)
    points = [Point(concurrency=1), Point(concurrency=concurrency)]
    if at_limit is not None and at_limit.achieved > 0:
        points.append(Point(rate=round(LOAD * at_limit.achieved, 4)))
    return tuple(dict.fromkeys(points))
