"""What control knows about its replicas, and what it can decide: data only.

All times are seconds on time.monotonic()'s clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from berth.control.decisions.restart_policy import History
from berth.control.diagnosis import Failure
from berth.control.logs.load_progress import Tracker
from berth.control.probes import Health
from berth.control.supervisord_client import Process
from berth.ipc.operations import Operation
from berth.plan import Discovered, ModelRoute, Replica, Restarts
from berth.records.starts import How
from berth.state import EngineLoad, ReplicaStatus

_S = ReplicaStatus

# Statuses with a process, or with one that has exited since the last poll.
LIVE = frozenset(
    {_S.STARTING, _S.FALLING_ASLEEP, _S.ASLEEP, _S.WAKING, _S.READY, _S.DRAINING, _S.UNHEALTHY, _S.STOPPING}
)
# From these a replica becomes ready, or fails, without further requests.
COMING = frozenset(
    {_S.WAITING, _S.STARTING, _S.FALLING_ASLEEP, _S.WAKING, _S.BACKOFF, _S.STOPPING, _S.DRAINING, _S.UNHEALTHY}
)
GIVEN_UP = frozenset({_S.FAILED, _S.STOPPED})


class Goal(StrEnum):
    """Where a replica that drains, stops or falls asleep by request is to end."""

    UNLOADED = "unloaded"
    ASLEEP = "asleep"
    LOADED = "loaded"  # again, after a stop
    STANDBY = "standby"  # not running, behind the replica that serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Intervals and grace periods of control, in seconds."""

    busy_poll_s: float = 0.5  # of supervisord, while a replica starts or stops
    calm_poll_s: float = 0.9  # otherwise: an exit is detected within a second
    heartbeat_s: float = 2.0  # of the State
    ready_probe_s: float = 0.5
    alive_probe_s: float = 5.0
    alive_failures: int = 3  # consecutive failed liveness probes that make a replica unhealthy
    log_poll_s: float = 0.25
    start_look_s: float = 10.0  # at what the processes of starts do
    inert_start_s: float = 300.0  # without any activity: the start hangs
    tokens_poll_s: float = 10.0  # of the token counters of engines with requests
    sweep_grace_s: float = 5.0  # between SIGTERM and SIGKILL for the leftover processes of an engine
    release_timeout_s: float = 30.0  # for GPU memory to be released
    release_poll_s: float = 0.5
    proof_poll_s: float = 0.25  # of GPU memory that has to be free for a start
    short_poll_s: float = 1.0  # the same, once it is reported as not free
    orphaned_grace_s: float = 4.0  # for all engines when supervisord is gone
    box_beat_s: float = 1.0  # between two messages to the head of several boxes
    load_s: float = 5.0  # between two questions for an engine's load
    unseen_load_s: float = 10.0  # the same while it is not looked at
    adapter_poll_s: float = 2.0  # of the folders that are watched for adapters
    adapter_settles_s: float = 10.0  # until files that do not change count as incomplete
    shutdown_grace_s: float = 0.3  # for leftover processes while supervisord shuts down and waits for control


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """What an engine was seen to take of its GPUs: bytes, by index. Empty: not measured."""

    taken: Mapping[int, int] = field(default_factory=dict)  # by its last start
    residue: Mapping[int, int] = field(default_factory=dict)  # what it kept of that when it last slept
    first_residue: Mapping[int, int] = field(default_factory=dict)  # and when it first did, since that start


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that control knows about one replica."""

    replica: Replica
    status: ReplicaStatus
    since: float  # of the status
    reason: str = ""
    origin: str = ""  # why it was activated, for a standby that took over
    pid: int | None = None
    starts: int = 0  # since boot
    generation: int = 0  # of its last start, if its engine runs on several boxes
    load_s: float | None = None  # from the start until it was ready, the last time
    phases: Mapping[str, float] = field(default_factory=dict)  # seconds, of the last start or wake
    phase_since: float = 0.0
    history: History = field(default_factory=History)
    next_start_at: float | None = None  # in BACKOFF
    last_lines: tuple[str, ...] = ()
    tracker: Tracker = field(default_factory=Tracker)
    progressed_at: float = 0.0  # last progress of the start: its timeout counts from here
    active_at: float = 0.0  # when its start was last seen to do anything
    health: Health = field(default_factory=Health)
    defect: str = ""  # why it is to be stopped although its probes succeed
    sleep_result: str | None = None  # of the call to sleep or wake: None while pending, "" on success, else the error
    discovered: Discovered | None = None  # what an attached server is, where the plan does not know it
    continues: tuple[str, ...] | None = None  # what an attached server continues; None: it was not asked
    load: EngineLoad | None = None  # what it last said; None: it has not, or does not any more
    load_failures: int = 0
    goal: Goal | None = None  # of a status that was requested; an engine that is asleep with it is not woken otherwise
    drain_ends: float | None = None  # in DRAINING: its requests are cut then
    drain_sequence: int | None = None  # of the first State that shows it as draining
    adapters: tuple[str, ...] = ()  # those that were added and are loaded
    adapter_errors: Mapping[str, str] = field(default_factory=dict)  # why others are not, by name
    wakes: How | None = None  # how it will wake, once it was to fall asleep, until it is ready again; None: unknown
    instead_of_sleep: str = ""  # why it was stopped instead of being put to sleep, since its last start
    cannot_sleep: str = ""  # why the last call to sleep or to wake failed: it is not put to sleep again
    # bytes by GPU, when it fell asleep: it takes them to wake
    released: Mapping[int, int] = field(default_factory=dict)
    gpu: GpuMemory = field(default_factory=GpuMemory)
    cleaned_up: bool = True  # after the exit: no leftover processes, and the GPU memory is released

    def phases_until(self, now: float) -> Mapping[str, float]:
        """With the time of the current phase."""
        phase = self.tracker.progress.phase
        return {**self.phases, phase: round(self.phases.get(phase, 0.0) + now - self.phase_since, 2)}

    @property
    def attached(self) -> bool:
        return self.replica.attached

    def is_due(self, now: float) -> bool:
        """Its back-off is over, and it can be started again."""
        due = self.next_start_at is not None and self.next_start_at <= now
        return due and self.status is _S.BACKOFF and self.cleaned_up

    @property
    def awaits_sleep_call(self) -> bool:
        return self.status in (_S.FALLING_ASLEEP, _S.WAKING) and self.sleep_result is None

    @property
    def holds_lease(self) -> bool:
        """It starts, stops, falls asleep, wakes, or is not cleaned up yet."""
        changing = self.status in (_S.STARTING, _S.FALLING_ASLEEP, _S.WAKING, _S.STOPPING, _S.UNHEALTHY)
        return not self.attached and (changing or (self.status not in LIVE and not self.cleaned_up))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram:
    """Of the host, as far as this container may use it."""

    available_bytes: int = 0
    limit_bytes: int = 0  # all of it
    read_at: float | None = None  # None: it was not read


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEnd:
    """A rank has to stop, since others of its engine have. `goal`: it is started again without a failure of its own."""

    reason: str
    goal: Goal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything a decision depends on."""

    records: tuple[Record, ...]  # in the plan's order
    processes: Mapping[str, Process]
    failures: Mapping[str, Failure]  # diagnosed causes, for replicas whose process is gone
    routes: tuple[ModelRoute, ...]
    restarts: Restarts
    timing: Timing = field(default_factory=Timing)
    operations: tuple[Operation, ...] = ()  # those that are running
    room: Mapping[int, int] = field(default_factory=dict)  # the plan's
    gpu_bytes: Mapping[int, int] = field(default_factory=dict)  # those with memory of their own
    # bytes by GPU that the driver has for the models that share `room`: without what others hold. Empty: not read
    free_room: Mapping[int, int] = field(default_factory=dict)
    ram: Ram = field(default_factory=Ram)
    # seconds that the last starts and wakes took, by replica: of those that can sleep
    start_times: Mapping[str, Mapping[How, float]] = field(default_factory=dict)
    keep: Mapping[str, float | None] = field(default_factory=dict)  # idle_unload as clients want it, by model
    unproven: frozenset[str] = frozenset()  # replicas that wait for the proof that their GPU memory is free
    not_free: Mapping[str, str] = field(default_factory=dict)  # those for which it is not, and who holds it
    held: Mapping[str, str] = field(default_factory=dict)  # those that wait for other boxes, and why
    generations: Mapping[str, int] = field(default_factory=dict)  # of those that may start
    ends: Mapping[str, GroupEnd] = field(default_factory=dict)  # ranks that have to stop
    drained: frozenset[str] = frozenset()  # draining replicas without requests
    shutting_down: bool = False  # supervisord is stopping everything: control starts and stops nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A decision: the replica changes its status. STARTING means start it, STOPPING stop it, FALLING_ASLEEP put it to
    sleep, WAKING wake it.
    """

    name: str
    to: ReplicaStatus
    reason: str = ""
    origin: str = ""
    last_lines: tuple[str, ...] = ()
    next_start_at: float | None = None
    history: History | None = None  # None: unchanged
    goal: Goal | None = None
    drain_ends: float | None = None  # of DRAINING
    generation: int = 0  # of STARTING, on several boxes
    cannot_sleep: str = ""  # found out now
    wakes: How | None = None  # of FALLING_ASLEEP: how it is to wake
    instead_of_sleep: str = ""  # of STOPPING
