"""P50, P95 and P99 of the last minutes: of the time to the first token, the gap between tokens, and the whole request.

Each replica has a sketch of each quantity: numbers in buckets whose bounds grow by 12 %. A quantile is the middle of
its bucket, by ratio: at most 6 % from the exact one, between 0.5 ms and 13 minutes. What is outside counts as the
bound. Sketches are merged by addition: over workers in the shared counters, over the replicas of a model here. They
only grow; the difference between now and the oldest of the sums that a worker keeps is the window. A worker that has
just started knows only what has come since then.

What counts are responses that a replica has served to the end, by the replica that did, without errors and broken
streams. The gap is the mean of one response: the time after its first token, for each further token, by the engine's
own count, or by frames where an engine reports none. Nothing is counted per token.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from berth.plan import Plan
from berth.router.telemetry.shared_counters import Family, Layout
from berth.state import Canary

QUANTITIES: Final = ("first_token", "token_gap", "total")
QUANTILES: Final = (0.5, 0.95, 0.99)
GROWTH: Final = 1.12
LEAST_S: Final = 0.0005
BOUNDS: Final = tuple(LEAST_S * GROWTH**step for step in range(127))
WIDTH: Final = len(BOUNDS) + 1  # the last one: above all bounds
ERROR: Final = math.sqrt(GROWTH) - 1
WINDOW_S: Final = 300.0
SAMPLE_S: Final = 15.0
SKETCHES: Final = "berth_replica_sketch_seconds"

Counts = Sequence[float]


def sketches(plan: Plan) -> Family:
    """In the order of the replicas, one for each quantity."""
    series = tuple((replica.name, quantity) for replica in plan.replicas for quantity in QUANTITIES)
    text = "Times of the responses, by replica and quantity."
    return Family(
        name=SKETCHES, help=text, kind="sketch", labels=("replica", "quantity"), series=series, buckets=BOUNDS
    )


class Window:
    """What a worker keeps of the sums over all workers."""

    def __init__(self, plan: Plan, layout: Layout) -> None:
        self._replicas = {route.name: route.replicas for route in plan.models}
        slots = [slot for (family, *_), slot in layout.slots.items() if family == SKETCHES]
        first = min(slots, default=0)
        self.span = slice(first, max(slots) + WIDTH if slots else 0)  # of the sketches in a row of the counters
        self._places = {
            (name, quantity): layout.slots[SKETCHES, name, quantity] - first
            for names in self._replicas.values()
            for name in names
            for quantity in QUANTITIES
        }
        self._kept: deque[Counts] = deque(maxlen=round(WINDOW_S / SAMPLE_S))
        self.due = -math.inf  # when `keep` wants to be called again

    def keep(self, sums: Counts, now: float) -> None:
        """`sums`: over all workers, of `span`."""
        self._kept.append(sums)
        self.due = now + SAMPLE_S

    def latest(self, sums: Counts) -> "Latest":
        before = self._kept[0] if self._kept else sums
        return Latest(self._replicas, self._places, [max(0.0, a - b) for a, b in zip(sums, before, strict=True)])


class Latest:
    """The responses of the window."""

    def __init__(
        self, replicas: dict[str, tuple[str, ...]], places: dict[tuple[str, str], int], counts: Counts
    ) -> None:
        self.replicas = replicas  # by model
        self._places = places
        self._counts = counts

    def of(self, replicas: Iterable[str], quantity: str) -> Counts:
        """Of these replicas together."""
        found = [self._places[name, quantity] for name in replicas]
        return [sum(numbers) for numbers in zip(*(self._counts[at : at + WIDTH] for at in found), strict=True)]

    def document(self, replicas: Iterable[str]) -> dict[str, Any]:
        """As in /status: quantities without a response are None."""
        names = tuple(replicas)
        document: dict[str, Any] = {"window_s": WINDOW_S}
        for quantity in QUANTITIES:
            counts = self.of(names, quantity)
            values = {f"p{round(share * 100)}": quantile(counts, share) for share in QUANTILES}
            document[f"{quantity}_s"] = {**values, "responses": int(sum(counts))} if any(counts) else None
        return document


def quantile(counts: Counts, share: float) -> float | None:
    """None without any."""
    total = sum(counts)
    if total <= 0:
        return None
    wanted = math.ceil(share * total)
    place = next(number for number, below in enumerate(accumulate(counts)) if below >= wanted)
    if place == 0:
        return LEAST_S
    return round(BOUNDS[place - 1] * math.sqrt(GROWTH) if place < len(BOUNDS) else BOUNDS[-1], 6)


def sides(canary: Canary, replicas: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """During a migration: the candidate, and the replicas that it is compared with."""
    return {"candidate": (canary.replica,), "stable": tuple(name for name in replicas if name != canary.replica)}


def quantile_metrics(plan: Plan, latest: Latest, canaries: Sequence[Canary] = ()) -> Iterator[Metric]:
    """Of the last minutes. What had no response has no sample."""
    text = "Percentiles of the last five minutes, at most 6 % off: "
    labels = ("quantity", "percentile")  # "quantile" is reserved for summaries
    by_model = GaugeMetricFamily("berth_request_percentile_seconds", f"{text}by model.", labels=("model", *labels))
    engines = {one.name: one.engine.value for one in plan.replicas}
    by_replica = GaugeMetricFamily(
        "berth_replica_percentile_seconds", f"{text}by replica.", labels=("replica", "engine", *labels)
    )
    by_side = GaugeMetricFamily(
        "berth_side_percentile_seconds", f"{text}by side of a migration.", labels=("model", "side", *labels)
    )
    for metric, parts in (
        (by_model, [((model,), names) for model, names in latest.replicas.items()]),
        (by_replica, [((name, engine), (name,)) for name, engine in engines.items()]),
        (
            by_side,
            [
                ((one.model, side), names)
                for one in canaries
                for side, names in sides(one, latest.replicas[one.model]).items()
            ],
        ),
    ):
        for values, names in parts:
            for quantity in QUANTITIES:
                counts = latest.of(names, quantity)
                for share in QUANTILES:
                    if (found := quantile(counts, share)) is not None:
                        metric.add_metric((*values, quantity, f"p{round(share * 100)}"), found)
        yield metric
