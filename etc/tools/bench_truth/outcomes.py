"""How often comparisons of simulated engines say what is known to be true.

Windows are those of a full run: as many starts, windows, requests and seconds. Each is a closed loop on the batch of
the simulated engine, in virtual time, judged by `berth.bench.window` and compared by `berth.bench.compare`. The steps
of the engines vary, their starts differ, and both engines get the same lengths in the same order.

`Pool` makes windows once and draws comparisons from them, for a test of seconds: an engine that is slower in all that
it does has the same windows on a slower clock. `fresh` makes all windows anew.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from berth.bench import compare
from berth.bench.plan_points import Profile
from berth.bench.window import Asked, Box, Run, Sample, window
from berth.bench.workload import Workload, next_lengths
from berth.records.results import Comparison, EngineResult, Outcome, Point, Quantile, Slo, Start, Window
from berth.sim.load.batch import Batch, LoadModel, Running

PROFILE = Profile()
PLACES = 4
POINT = Point(concurrency=PLACES)
WORKLOAD = Workload(name="64/32", prompt_tokens=64, output_tokens=32)
MODEL = LoadModel(itl_s=0.01, itl_per_running_s=0.0001, prefill_rate=20_000, jitter=0.2)
AFTER_S = 2.0  # longer than any answer takes
SLO = Slo(ttft_s=10.0, tpot_s=1.0)  # all keep to it: goodput is what the engine can do


@dataclass(frozen=True, kw_only=True)
class Engines:
    """What is known: how many times as long the second engine takes, and how far starts of one engine differ."""

    slower: float = 1.0
    starts: float = 0.0  # sigma of the logarithm of their speed

    def truth(self, metric: str) -> float:
        return self.slower if metric.startswith(("ttft", "tpot")) else 1 / self.slower


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of the comparisons of one metric."""

    metric: str
    outcomes: Mapping[Outcome, int]
    covered: int  # intervals that hold the truth
    example: Comparison


class Load:
    """Of one start of an engine: window after window, in a closed loop."""

    def __init__(self, model: LoadModel) -> None:
        self._batch = Batch(model)
        self._now = 0.0

    def window(self, number: int) -> Window:
        size = PROFILE.size(POINT, first=False)
        warm = self._now + size.warm_s
        samples = self._samples(number, warm + size.seconds + AFTER_S)
        begin = next(one.scheduled for one in samples if one.scheduled >= warm)
        end = next(one.scheduled for one in samples if one.scheduled >= begin + size.seconds)
        run = Run(
            measured=tuple(one for one in samples if begin <= one.scheduled < end),
            others=tuple(one for one in samples if not begin <= one.scheduled < end),
            begin=begin,
            end=end,
            in_flight=PLACES - 1,
        )
        return window(run, Asked(point=POINT, seed=number, slo=SLO, requests=size.requests), Box())

    def _samples(self, number: int, until: float) -> list[Sample]:
        """All requests up to this time, and the engine is empty."""
        source = random.Random(f"lengths {number}")  # noqa: S311 - a workload
        samples, in_progress = list[Sample](), dict[Running, Sample]()
        while self._now < until:
            while len(in_progress) < PLACES:
                prompt, tokens = next_lengths(WORKLOAD, source)
                sample = Sample(scheduled=self._now, sent=self._now, asked_prompt=prompt, asked_tokens=tokens)
                in_progress[self._batch.add(range(prompt), tokens)] = sample
                samples.append(sample)
            self._now += self._batch.begin() or 0.0
            for one in tuple(self._batch.end()):
                sample = in_progress[one]
                sample.frames.append(self._now)
                if one.tokens == one.tokens_due:
                    sample.ended, sample.prompt_tokens, sample.tokens = self._now, len(one.prompt), one.tokens
                    del in_progress[one]
        for one in in_progress:
            self._batch.remove(one)
        return samples


def on_slower_clock(one: Window, times: float) -> Window:
    """The same window on an engine that takes so many times as long for all that it does."""

    def scaled(found: Mapping[str, Quantile]) -> dict[str, Quantile]:
        return {name: replace(quantile, value=quantile.value * times) for name, quantile in found.items()}

    return replace(
        one,
        ttft=scaled(one.ttft),
        tpot=scaled(one.tpot),
        tokens_per_s=one.tokens_per_s / times,
        goodput=one.goodput / times,
    )


class Pool:
    """Of each window of a start so many versions, which differ by chance alone."""

    def __init__(self, versions: int) -> None:
        loads = [Load(replace(MODEL, seed=version)) for version in range(versions)]
        self._windows = [[load.window(number) for number in range(PROFILE.windows)] for load in loads]

    def start(self, factor: float, taken: Sequence[int]) -> tuple[Window, ...]:
        """`taken`: the version of each window."""
        return tuple(on_slower_clock(self._windows[version][number], factor) for number, version in enumerate(taken))

    def trials(self, engines: Engines, count: int) -> Iterator[tuple[Comparison, ...]]:
        source = random.Random(f"{engines}")  # noqa: S311 - a simulation
        for _ in range(count):
            versions = [source.sample(range(len(self._windows)), 2 * PROFILE.rounds) for _ in range(PROFILE.windows)]
            starts = [
                self.start(factor, taken)
                for factor, taken in zip(factors(engines, source), zip(*versions, strict=True), strict=True)
            ]
            yield compared(starts)


def fresh(engines: Engines, count: int) -> Iterator[tuple[Comparison, ...]]:
    """Every window is made anew, by engines that are slower by their own."""
    source = random.Random(f"{engines}")  # noqa: S311 - a simulation
    for _ in range(count):
        starts = []
        for factor in factors(engines, source):
            model = replace(
                MODEL,
                itl_s=MODEL.itl_s * factor,
                itl_per_running_s=MODEL.itl_per_running_s * factor,
                prefill_rate=MODEL.prefill_rate / factor,
                seed=source.randrange(1 << 32),
            )
            load = Load(model)
            starts.append([load.window(number) for number in range(PROFILE.windows)])
        yield compared(starts)


def factors(engines: Engines, source: random.Random) -> list[float]:
    """How many times as long each start takes: first those of the first engine."""
    return [
        times * source.lognormvariate(0, engines.starts)
        for times in (1.0, engines.slower)
        for _ in range(PROFILE.rounds)
    ]


def compared(starts: Sequence[Sequence[Window]]) -> tuple[Comparison, ...]:
    rounds = PROFILE.rounds
    engines = [
        EngineResult(
            replica=name,
            engine=name,
            version="1",
            starts=tuple(Start(number=1, cold_s=1.0, windows=tuple(one)) for one in own),
        )
        for name, own in (("first", starts[:rounds]), ("second", starts[rounds:]))
    ]
    invalid = [rule for one in starts for found in one for rule in found.broken]
    if invalid:
        raise AssertionError(invalid)
    return compare.compare(engines, compare.metrics((POINT,), dict.fromkeys(("first", "second"), POINT)))


def tallies(engines: Engines, trials: Iterator[tuple[Comparison, ...]]) -> list[Tally]:
    """One for each metric."""
    found = list(trials)
    tallied = []
    for of_metric in zip(*found, strict=True):
        truth, outcomes = engines.truth(of_metric[0].metric), [one.outcome for one in of_metric]
        covered = sum((one.low or 0) <= truth <= (one.high or 0) for one in of_metric)
        tallied.append(
            Tally(
                metric=of_metric[0].metric,
                outcomes={one: outcomes.count(one) for one in Outcome},
                covered=covered,
                example=of_metric[0],
            )
        )
    return tallied
