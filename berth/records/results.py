"""Results of `berth bench`: written by it, read by people and by boot for `engines: auto`.

One JSON file each in the data directory, with a number. Nothing in them is needed to serve: what cannot be read counts
as not there, and the files of a newer Berth are not touched. They hold no prompt and no answer.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from berth.plan import MeasuredAs
from berth.processes import replace_file

RESULTS_VERSION: Final = 1
METHOD: Final = 2  # results of another method are not comparable
KEPT: Final = 20
LARGEST_FILE: Final = 16 << 20


class Outcome(StrEnum):
    """Of an engine, compared with the first one."""

    FASTER = "faster"
    SLOWER = "slower"
    TIE = "tie"
    UNDECIDED = "undecided"


class Likeness(StrEnum):
    """How an engine's answers compare with those of the first one."""

    SAME = "same"  # as far as one engine is the same from run to run
    CLOSE = "close"  # as with another quantization
    DIFFERENT = "different"
    UNKNOWN = "unknown"  # it gives no log probabilities of prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request must keep to, and which share of all."""

    ttft_s: float = 1.0
    tpot_s: float = 0.05
    percent: float = 95.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A load: so many requests at a time, or so many a second."""

    concurrency: int = 0
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.concurrency} at a time" if self.concurrency else f"{self.rate:.3g} req/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """In seconds. `most`: what it does not exceed, at 99 % confidence; None: too few requests to say."""

    value: float
    most: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was measured at one point."""

    point: Point
    seed: int
    role: str = "point"  # or "search": it found the points
    seconds: float
    requests: int
    failures: int
    offered: float  # requests a second, as scheduled
    achieved: float  # as finished
    goodput: float  # those that kept to the SLO
    attainment: float  # their share
    tokens_per_s: float
    ttft: Mapping[str, Quantile]  # from the scheduled time: p50, p95, p99
    ttft_sent: Mapping[str, Quantile]  # from the time at which it was sent
    tpot: Mapping[str, Quantile]
    e2e: Mapping[str, Quantile]
    gap_p99_s: float | None
    frames_per_token: float
    prompt_tokens: int  # as the engine counts them
    output_tokens: int
    exact_share: float  # of the answers that have the length that was asked for
    cached_share: float
    lateness_p99_s: float  # sent after it was scheduled
    unsent: int
    client_cpu: float  # of one
    energy_j: float | None = None  # of all GPUs
    power_w: float | None = None
    clock_mhz: float | None = None  # the median
    throttled_share: float | None = None
    memory_bytes: int | None = None  # the most, on all GPUs
    broken: tuple[str, ...] = ()  # the rules that it breaks, and how

    @property
    def valid(self) -> bool:
        return not self.broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    number: int  # in the order in which the engines were started
    cold_s: float  # from nothing to ready
    phases: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int | None = None  # after it, on all GPUs
    idle_w: float | None = None
    warm_requests: int = 0
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    likeness: Likeness
    positions: int = 0  # tokens of the first engine's answers that it has scored
    same_top: float | None = None  # share at which it would have had the same one
    mean_kl: float | None = None
    max_kl: float | None = None
    diverged: float | None = None  # share of prompts that go another way, beyond ties
    floor_same_top: float | None = None  # the first engine, compared with itself
    schemas: tuple[int, int] = (0, 0)  # valid, asked
    tools: tuple[int, int] = (0, 0)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """In seconds, with its interval of 95 %."""

    mean: float
    low: float
    high: float

    @property
    def measurable(self) -> bool:
        return not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCost:
    """How much longer a request takes through the router than straight to the engine: Berth's own cost."""

    pairs: int = 0  # of the same request
    ttft: Difference | None = None
    tpot: Difference | None = None
    e2e: Difference | None = None
    problem: str = ""  # why it was not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    replica: str
    engine: str
    version: str
    argv: tuple[str, ...] = ()
    kv_tokens: int | None = None
    compared_as: MeasuredAs | None = None
    quality: Quality | None = None
    starts: tuple[Start, ...] = ()
    own_cost: OwnCost | None = None
    limit: str = ""  # why the search for its goodput ended
    problem: str = ""  # why it was not measured

    def windows(self) -> Iterator[Window]:
        return (window for start in self.starts for window in start.windows if window.role == "point")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Of `replica` with the first one."""

    replica: str
    metric: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    windows: int = 0
    noise: float = 0.0
    outcome: Outcome = Outcome.UNDECIDED
    more_windows: int = 0  # that would decide it
    ratios: tuple[float, ...] = ()  # of the pairs of windows


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    version: int = RESULTS_VERSION
    method: int = METHOD
    id: int = 0
    berth: str
    created: float  # Unix seconds
    seconds: float
    model: str
    source: str
    revision: str | None = None
    context: int | None = None
    gpus: tuple[str, ...] = ()  # names
    driver: str = ""
    cpu: str = ""
    workload: str
    seed: int
    slo: Slo = field(default_factory=Slo)
    quick: bool = False
    engines: tuple[EngineResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    chosen: str = ""  # the replica that `engines: auto` takes; "": none
    reasons: tuple[str, ...] = ()  # why it is, or why none is
    broken: tuple[str, ...] = ()  # rules that the whole run breaks
    operation: str = ""  # the lease under which it was measured
    notes: tuple[str, ...] = ()  # what is not alike, and breaks none
    gpu_hour_cost: float | None = None

    @property
    def valid(self) -> bool:
        """All that it says about speed can be relied on."""
        return not self.broken and all(window.valid for one in self.engines for window in one.windows())


def folder(data_dir: str) -> Path:
    return Path(data_dir, "berth", "bench")


def path(data_dir: str, number: int) -> Path:
    return folder(data_dir) / f"{number}.json"


def numbers(data_dir: str) -> list[int]:
    """Of the results that there are."""
    found = folder(data_dir).glob("*.json") if folder(data_dir).is_dir() else ()
    return sorted(int(one.stem) for one in found if one.stem.isdecimal())


def read(data_dir: str, number: int) -> BenchResult | None:
    """None for one that is not there, cannot be read, or is of another version."""
    try:
        with path(data_dir, number).open("rb") as opened:
            result = msgspec.json.decode(opened.read(LARGEST_FILE), type=BenchResult)
    except (OSError, ValueError, RecursionError):
        return None
    return result if (result.version, result.id) == (RESULTS_VERSION, number) else None


def all_of(data_dir: str) -> list[BenchResult]:
    """The newest last."""
    return [one for number in numbers(data_dir) if (one := read(data_dir, number)) is not None]


def keep(data_dir: str, result: BenchResult, page: Callable[[BenchResult], str]) -> BenchResult:
    """With its number. OSError where it cannot be written."""
    known = numbers(data_dir)
    number = max(known, default=0) + 1
    numbered = replace(result, id=number)
    folder(data_dir).mkdir(parents=True, exist_ok=True)
    replace_file(path(data_dir, number).with_suffix(".html"), page(numbered).encode())
    replace_file(path(data_dir, number), msgspec.json.encode(numbered))
    for old in known[: max(0, len(known) + 1 - KEPT)]:
        remove(data_dir, old)
    return numbered


def remove(data_dir: str, number: int) -> bool:
    known = path(data_dir, number).is_file()
    for suffix in (".html", ".json"):
        path(data_dir, number).with_suffix(suffix).unlink(missing_ok=True)
    return known
