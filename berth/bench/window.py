"""What the requests of one window say, and which rules they break; pure.

Times are seconds on the event loop's clock. A request counts by its scheduled time: what it waits in the client before
it is sent is a part of its latency.
"""

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median

from berth.bench.percentiles import nearest_rank, upper_bound
from berth.intervals import student
from berth.records.results import Point, Quantile, Slo, Window

PERCENTS = (50, 95, 99)
MOST_CACHED = 0.01
LEAST_EXACT = 0.999
MOST_LATE_S = 0.005  # or MOST_LATE of the time to the first token
MOST_LATE = 0.02
MOST_UNSENT = 0.01
MOST_CPU = 0.8
MOST_FAILED = 0.05
MOST_THROTTLED = 0.01
LEAST_FILLED = 0.8  # of the usual requests in progress, when a window begins
LEAST_USUAL = 4  # requests: fewer may be none by chance
MOST_UNSERVED = 0.05  # of an open loop's requests, beyond chance
GROUPS = 8  # of requests in turn, whose medians show whether times change
LEAST_IN_GROUP = 3
MOST_DRIFT = 0.25  # of the mean, from the first group to the last


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """One request, filled in as it goes."""

    scheduled: float
    asked_prompt: int
    asked_tokens: int
    sent: float | None = None  # None: it was not
    frames: "array[float]" = field(default_factory=lambda: array("d"))  # when each with tokens came
    ended: float = 0.0
    prompt_tokens: int = 0  # as the engine counts, as all that follow
    cached_tokens: int = 0
    tokens: int = 0
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error and bool(self.frames) and self.tokens > 0

    @property
    def ttft(self) -> float:
        return self.frames[0] - self.scheduled

    @property
    def tpot(self) -> float:
        return (self.frames[-1] - self.frames[0]) / max(1, self.tokens - 1)

    def keeps(self, slo: Slo) -> bool:
        return self.ok and self.ttft <= slo.ttft_s and self.tpot <= slo.tpot_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What the GPUs and the client did meanwhile. None: not known."""

    client_cpu: float = 0.0
    energy_j: float | None = None
    power_w: float | None = None
    clock_mhz: float | None = None
    throttled_share: float | None = None
    memory_bytes: int | None = None
    foreign: str = ""  # what else used the GPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the window was to be."""

    point: Point
    seed: int
    slo: Slo
    requests: int  # at least
    shares: bool = False  # prompts have a common beginning on purpose
    role: str = "point"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All requests of a run. It continues after the window until the last of its requests has ended: none of them finds
    an engine that empties.
    """

    measured: tuple[Sample, ...]
    others: tuple[Sample, ...]  # before and after
    begin: float  # when the first was scheduled
    end: float  # when the first after the window was
    in_flight: int  # requests of the warm-up when the window began


def window(run: Run, asked: Asked, box: Box) -> Window:
    samples, seconds = run.measured, max(run.end - run.begin, 1e-9)
    good = [one for one in samples if one.ok]
    served = [one for one in (*samples, *run.others) if one.ok]
    achieved = sum(run.begin <= one.ended < run.end for one in served) / seconds
    attainment = sum(one.keeps(asked.slo) for one in samples) / len(samples) if samples else 0.0
    late = [one.sent - one.scheduled for one in samples if one.sent is not None]
    output, prompts = (sum(getattr(one, name) for one in good) for name in ("tokens", "prompt_tokens"))
    found = Window(
        point=asked.point,
        seed=asked.seed,
        role=asked.role,
        seconds=seconds,
        requests=len(samples),
        failures=len(samples) - len(good),
        offered=len(samples) / seconds,
        achieved=achieved,
        goodput=achieved * attainment,
        attainment=attainment,
        tokens_per_s=sum(tokens_within(one, run.begin, run.end) for one in served) / seconds,
        ttft=_quantiles([one.ttft for one in good]),
        ttft_sent=_quantiles([one.frames[0] - one.sent for one in good if one.sent is not None]),
        tpot=_quantiles([one.tpot for one in good if one.tokens > 1]),
        e2e=_quantiles([one.ended - one.scheduled for one in good]),
        gap_p99_s=nearest_rank([two - one for sample in good for one, two in itertools.pairwise(sample.frames)], 99),
        frames_per_token=sum(len(one.frames) for one in good) / output if output else 0.0,
        prompt_tokens=prompts,
        output_tokens=output,
        exact_share=sum(one.tokens == one.asked_tokens for one in good) / len(good) if good else 0.0,
        cached_share=sum(one.cached_tokens for one in good) / prompts if prompts else 0.0,
        lateness_p99_s=nearest_rank(late, 99) or 0.0,
        unsent=len(samples) - len(late),
        client_cpu=box.client_cpu,
        energy_j=box.energy_j,
        power_w=box.power_w,
        clock_mhz=box.clock_mhz,
        throttled_share=box.throttled_share,
        memory_bytes=box.memory_bytes,
    )
    return replace(found, broken=tuple(broken_rules(found, run, asked, box)))


def broken_rules(found: Window, run: Run, asked: Asked, box: Box) -> Iterator[str]:
    """The rules that a window breaks, with its figures."""
    yield from rules_of_answers(found, run.measured, asked)
    usual = asked.point.concurrency or usual_in_flight(run) / 2
    if box.foreign:
        yield f"F1: {box.foreign}"
    if usual >= LEAST_USUAL and run.in_flight + 1 < LEAST_FILLED * usual:  # the first of the window takes a place
        yield f"F8: the warm-up had drained: {run.in_flight} requests in progress, at least {usual:.0f} are usual"
    unserved = (found.offered - found.achieved) * found.seconds if asked.point.rate else 0.0
    if unserved > max(MOST_UNSERVED * found.requests, 3 * math.sqrt(found.requests)):
        yield f"F8: requests came faster than they ended: {found.offered:.3g} and {found.achieved:.3g} a second"
    for what, change in drifts(run.measured):
        moved = f"{'rose' if change > 0 else 'fell'} by {abs(change):.0%} of its mean"
        yield f"F8: not settled: {what} {moved} within the window"
    if found.requests < asked.requests:
        yield f"F9: {found.requests} requests, {asked.requests} are needed"
    if found.throttled_share is not None and found.throttled_share > MOST_THROTTLED:
        yield f"F11: the GPU was throttled for {found.throttled_share:.0%} of the time"
    if found.client_cpu > MOST_CPU:
        yield f"F12: the client used {found.client_cpu:.0%} of a CPU"


def rules_of_answers(found: Window, samples: Sequence[Sample], asked: Asked) -> Iterator[str]:
    wrong = sum(one.ok and one.prompt_tokens != one.asked_prompt for one in samples)
    if wrong:
        yield f"F4: {wrong} prompts have another number of tokens for the engine"
    if found.exact_share < LEAST_EXACT and found.failures < found.requests:
        yield f"F5: {found.exact_share:.1%} of the answers have the length that was asked for"
    if found.cached_share > MOST_CACHED and not asked.shares:
        yield f"F7: {found.cached_share:.0%} of the prompt tokens came from a warm cache"
    first = found.ttft.get("p50")
    allowed_s = max(MOST_LATE_S, MOST_LATE * first.value if first else 0.0)
    if found.lateness_p99_s > allowed_s:
        late, allowed = f"{found.lateness_p99_s * 1e3:.0f} ms", f"{allowed_s * 1e3:.0f} ms"
        yield f"F12: the client was the limit: it sent up to {late} late (p99; allowed are {allowed})"
    if found.unsent > MOST_UNSENT * found.requests:
        yield f"F12: the client was the limit: {found.unsent} requests were not sent"
    if found.failures > MOST_FAILED * found.requests:
        errors = sorted({one.error for one in samples if one.error})
        yield f"F12: {found.failures} of {found.requests} requests failed: {'; '.join(errors)[:300]}"


def drifts(samples: Sequence[Sample]) -> Iterator[tuple[str, float]]:
    """What becomes longer or shorter: first tokens while an engine compiles or its queue grows, whole answers while
    more and more of them are computed at a time.
    """
    begun = [one for one in samples if one.frames]
    for what, values in (
        ("the time to the first token", [one.ttft for one in begun]),
        ("the time of an answer", [one.ended - one.scheduled for one in begun if one.ended]),
    ):
        if (change := drift(values)) is not None:
            yield what, change


def drift(values: Sequence[float]) -> float | None:
    """The change from the first values to the last, as a share of their mean. None: there is none that is certain."""
    size = len(values) // GROUPS
    if size < LEAST_IN_GROUP:
        return None
    medians = [median(values[group * size : (group + 1) * size]) for group in range(GROUPS)]
    middle, mean = (GROUPS - 1) / 2, fmean(medians)
    spread = sum((group - middle) ** 2 for group in range(GROUPS))
    slope = sum((group - middle) * one for group, one in enumerate(medians)) / spread
    left = sum((one - mean - slope * (group - middle)) ** 2 for group, one in enumerate(medians))
    error = math.sqrt(left / (GROUPS - 2) / spread)
    change = slope * (GROUPS - 1) / mean if mean else 0.0
    return change if abs(change) > MOST_DRIFT and abs(slope) > student(0.998, GROUPS - 2) * error else None


def tokens_within(one: Sample, begin: float, end: float) -> float:
    """Its tokens that came in the window; frames have equally many."""
    frames = bisect_right(one.frames, end) - bisect_left(one.frames, begin)
    return one.tokens * frames / len(one.frames)


def _quantiles(values: Sequence[float]) -> Mapping[str, Quantile]:
    found = {f"p{percent}": (nearest_rank(values, percent), upper_bound(values, percent)) for percent in PERCENTS}
    return {name: Quantile(value=value, most=most) for name, (value, most) in found.items() if value is not None}


def usual_in_flight(run: Run) -> float:
    """In an open loop, by Little's law. 0: there is no usual number, because requests come faster than they end."""
    good = [one.ended - one.scheduled for one in run.measured if one.ok]
    usual = len(run.measured) / max(run.end - run.begin, 1e-9) * fmean(good) if good else 0.0
    at_the_end = sum(one.ended >= run.end for one in run.measured)
    return 0.0 if at_the_end > 1.5 * usual else usual
