"""Migrations: what was requested, how far one is, and what was counted. Part of the operations' contract.

A migration replaces the replica that serves a model by another one of the same model, the candidate. Times are seconds
on time.monotonic()'s clock, which all programs of the machine share.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from berth.ipc.shadow import Shadow
from berth.plan import Author

STEPS: Final = (1.0, 5.0, 25.0, 100.0)  # percent of the conversations
STEP_S: Final = 300.0
STEP_REQUESTS: Final = 100
KEEP_S: Final = 900.0
HOLD_S: Final = 300.0
TRIAL_S: Final = 60.0


class How(StrEnum):
    AUTO = "auto"
    BOTH = "both"  # the two run at the same time
    SWAP = "swap"  # one after the other: requests are queued meanwhile


class Phase(StrEnum):
    HOLDING = "holding"  # swap: the replica that serves finishes its requests, and stops
    STARTING = "starting"  # the candidate
    CHECKING = "checking"  # the candidate is warmed up and checked; it gets no requests
    SHADOWING = "shadowing"  # a share of the requests is sent to it too: its answers are compared, and reach no client
    CANARY = "canary"  # it gets a share of the conversations
    TRIAL = "trial"  # swap: it answers all requests; nothing is written yet
    PROMOTING = "promoting"  # the revision is written
    SETTLING = "settling"  # it serves; the one before is kept
    RETIRING = "retiring"  # the one before finishes its requests, and stops
    DONE = "done"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


class MoveKind(StrEnum):
    """What an operator may do with a running migration."""

    PAUSE = "pause"  # it stays at its step
    RESUME = "resume"
    PROMOTE = "promote"  # now, whatever has not been counted yet
    ABORT = "abort"  # roll back


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    migration: str  # the operation's id
    kind: MoveKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of a migration that is requested."""

    # An engine, a dialect or a replica of the model. "": the revision before (a rollback), unless `set` or `source` say
    # what is to change of the engine that serves.
    to: str = ""
    revision: int = 0  # of a rollback: to this one; 0: the one before
    how: How = How.AUTO
    steps: tuple[float, ...] = STEPS
    step_s: float = STEP_S
    step_requests: int = STEP_REQUESTS
    keep_s: float = KEEP_S
    hold_s: float = HOLD_S  # the longest time for which requests may be queued
    trial_s: float = TRIAL_S  # swap: the candidate answers all for so long before it is promoted; 0: at once
    first_token_s: float = 1.0  # a response that takes longer is slow
    token_s: float = 0.05  # and one whose tokens take longer on average
    set: tuple[str, ...] = ()  # what changes of the model: "args=--max-num-seqs 64", "context=32768"
    source: str = ""  # of the model: another checkpoint, or SOURCE@REVISION

    @property
    def changes(self) -> bool:
        """It changes the entry of the model, not only which of its engines serves."""
        return bool(self.set or self.source)

    @property
    def rolls_back(self) -> bool:
        return not (self.to or self.changes)

    shadow: float = 0.0  # the share of the conversations that is compared before the canary; 0: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of one side since the canary began."""

    attempts: int = 0
    failures: int = 0  # also of those that another replica answered
    unfit: int = 0  # answers that did not match the requested format
    probes: int = 0  # of the attempts, those that Berth made itself
    timed: int = 0  # answers with a known time
    slow: int = 0  # of them
    answers: int = 0  # with a known length
    empty: int = 0  # of them
    tokens: int = 0
    tokens_squared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a candidate has to pass, and whether it has so far."""

    name: str
    passed: bool
    numbers: str  # for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    options: Options
    how: How
    candidate: str
    stable: str
    before: tuple[str, ...]  # the model's replicas in fallback order, until it is promoted
    after: tuple[str, ...]  # and then
    revision: int
    by: Author = Author.MIGRATE
    phase: Phase
    since: float  # of the phase, or of its step
    hold_since: float = 0.0  # swap: since when requests are queued
    hold_s: float = 0.0  # swap: for how long, as predicted
    step: int = 0
    paused: str = ""  # why it stays at its step
    reason: str = ""  # why it is rolled back
    check: str = ""  # what the check found, for people
    own: Counts = field(default_factory=Counts)
    other: Counts = field(default_factory=Counts)  # of the stable replica
    seen: tuple[int, ...] = ()  # the counters of the routers that are in `own` and `other` already
    changes: tuple[str, ...] = ()  # of the revision, to what BERTH_MODELS says
    revised: bool = False  # it brings other command lines than those that the plan has
    dressed: bool = False  # the plan has those now
    rolling: bool = False  # in place, while other replicas of the model serve: no request is queued
    shadow: Shadow | None = None  # while it is compared, and afterwards what was found
    sleeps: bool = False  # swap: the stable replica falls asleep, and does not stop before the migration is over

    @property
    def share(self) -> float:
        """Of the conversations that the candidate gets now, 0..1."""
        if self.phase is Phase.CANARY:
            return self.options.steps[self.step] / 100
        all_of_them = (Phase.TRIAL, Phase.PROMOTING, Phase.SETTLING, Phase.RETIRING, Phase.DONE)
        return 1.0 if self.phase in all_of_them else 0.0

    @property
    def in_place(self) -> bool:
        """The same replica, with another command line: one after the other."""
        return self.candidate == self.stable

    @property
    def promoted(self) -> bool:
        return self.phase in (Phase.SETTLING, Phase.RETIRING, Phase.DONE)
