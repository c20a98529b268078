"""Shadows: a share of a model's requests is sent to another of its replicas too, and the answers are compared.

Nothing of that reaches a client. What is kept are counts: router workers add to them in a mapped file
(berth.ipc.shadow_counts), control reads them. A count is a number of CELLS; times are seconds on time.monotonic()'s
clock, except where it says otherwise.

Each request of the model that is accepted while a shadow is on is one of `requests`. Then it is one of four things:
not chosen, skipped for a reason, one of the results, or on its way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

SHARE: Final = 0.05
FOR_S: Final = 600.0
LONGEST_S: Final = 7 * 86_400.0


class ShadowPhase(StrEnum):
    STARTING = "starting"  # the candidate: it is at rest, and Berth starts it for this
    MIRRORING = "mirroring"  # requests are sent to it
    ENDING = "ending"  # no more are; what Berth has started stops
    OVER = "over"


class Result(StrEnum):
    """What a comparison found: the first of these that is true."""

    ERROR = "error"  # the candidate failed
    STRUCTURE = "structure"  # it breaks a schema or the form of tool calls, or is empty, and the client's answer is not
    SAMPLED = "sampled"  # the request samples: its text is not to be the same
    SAME = "same"
    TIE_BREAK = "tie_break"  # the texts part where an engine was undecided, by its log probabilities
    DIVERGED = "diverged"


class Skip(StrEnum):
    """Why a chosen request was not compared."""

    KIND = "kind"  # neither a chat nor a completion
    CHOICES = "choices"  # more than one answer
    MEDIA = "media"
    NO_STORE = "no_store"  # its client sent `cache-control: no-store`
    TOO_LARGE = "too_large"  # the request or an answer
    NO_MEMORY = "no_memory"  # other answers that wait to be compared have it
    FAILED = "failed"  # the client got an error
    CUT = "cut"  # the client left
    CONTINUED = "continued"  # two replicas wrote the client's answer
    SAME_REPLICA = "same_replica"  # the candidate wrote it
    NOT_READY = "not_ready"  # the candidate
    BUSY = "busy"  # requests wait for the model, or an engine of it is busy
    NO_PLACE = "no_place"  # the candidate's last free places are kept for clients
    QUEUE_FULL = "queue_full"  # too many shadows wait already
    UNSUPPORTED = "unsupported"  # the candidate's engine cannot serve such a request
    DRAINING = "draining"  # the router worker ends
    WORKER_LOST = "worker_lost"  # it died
    OVER = "over"  # the shadow ended first


# How a candidate fails, as attempts of clients' requests do.
FAILURES: Final = (
    *("connect", "broken", "timeout", "engine", "overloaded", "loading", "config", "client", "cut", "unfit"),
)
# Shares: so many of so many are as they should be.
RATES: Final = {
    "text": "answers with the same text",
    "beginning": "answers whose first 16 tokens are the same",
    "tokens": "tokens that are the same, up to the first other one",
    "finish": "answers with the same finish reason",
    "schema": "answers that keep to the schema of their request",
    "tools": "answers with the same tool calls",
}
# Means over pairs, with their squares. The first three are logarithms of the candidate's over the client's.
MEANS: Final = {
    "length": "length, in tokens",
    "first_token": "time to the first token",
    "duration": "time of the whole answer",
    "logprobs": "difference of the log probabilities of the same tokens",
}

CELLS: Final = (
    "requests",
    "not_chosen",
    *(f"skipped {one}" for one in Skip),
    *(f"result {one}" for one in Result),
    *(f"failed {one}" for one in FAILURES),
    *(f"{part} {one}" for one in RATES for part in ("of", "same")),
    *(f"{part} {one}" for one in MEANS for part in ("count", "sum", "squares")),
)
PLACES: Final[Mapping[str, int]] = {name: place for place, name in enumerate(CELLS)}
WIDTH: Final = len(CELLS)

Counts = tuple[float, ...]  # of CELLS; (): all are 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOptions:
    """Of a shadow that is requested."""

    to: str = ""  # an engine, a dialect or a replica of the model
    share: float = SHARE  # of the conversations, above 0, up to 1
    for_s: float = FOR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Of an operation. `before` are the counts at its beginning, `now` the last that were read."""

    options: ShadowOptions
    candidate: str
    starts: bool = False  # Berth starts the candidate for it, and stops it afterwards
    phase: ShadowPhase
    since: float  # of the phase
    before: Counts = ()
    now: Counts = ()
    reason: str = ""  # why it ends, if not because its time is over
    failed: bool = False  # it could not begin, or not continue

    @property
    def is_on(self) -> bool:
        return self.phase is ShadowPhase.MIRRORING

    @property
    def counts(self) -> Counts:
        return less(self.now, self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """What the routers have to know of a shadow."""

    id: str  # chooses the conversations: the operation's
    model: str
    replica: str
    share: float
    ready: bool = False  # the replica takes requests
    ends: float = 0.0  # Unix seconds
    before: Counts = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    same: int
    of: int
    share: float | None = None  # None: of none
    low: float = 0.0  # its 99 % interval
    high: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Of `length`, `first_token` and `duration` the geometric mean of the candidate's over the client's."""

    pairs: int
    mean: float | None = None  # None: of fewer than two pairs
    low: float | None = None  # its 99 % interval
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Of a shadow, for people and programs."""

    model: str
    replica: str
    phase: str
    share: float
    left_s: float = 0.0
    requests: int = 0
    not_chosen: int = 0
    waiting: int = 0  # chosen, and not compared yet
    pairs: int = 0  # compared, or the candidate failed
    error: int = 0
    structure: int = 0
    sampled: int = 0
    same: int = 0
    tie_break: int = 0
    diverged: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)  # by every reason there is
    failures: Mapping[str, int] = field(default_factory=dict)  # by their kind; of `error`
    failure_rate: Rate | None = None  # failures of all pairs
    rates: Mapping[str, Rate] = field(default_factory=dict)
    means: Mapping[str, Mean] = field(default_factory=dict)


def less(counts: Sequence[float], before: Sequence[float]) -> Counts:
    """What has been counted since."""
    if len(counts) != len(before):
        return tuple(counts)
    return tuple(one - other for one, other in zip(counts, before, strict=True))


def on_its_way(counts: Sequence[float]) -> float:
    """The requests that are chosen, and neither skipped nor compared yet."""
    gone = PLACES["not_chosen"], PLACES[f"failed {FAILURES[0]}"]  # skips and results lie between
    return counts[PLACES["requests"]] - sum(counts[gone[0] : gone[1]])
