"""The State: what control observes and has decided. Published to the routers as one small file, replaced atomically.

A router reads it several times per second, and keeps the last one when control is down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import msgspec

from berth.ipc.capture import Capture
from berth.ipc.shadow import Mirror
from berth.plan import Discovered
from berth.time_left import Usual, left_s

STATE_VERSION = 1
BERTH_STOPS = "Berth stops"  # the reason of a replica that is stopped with all others
FULL_BYTES = 256 << 10  # a run directory with less free space than this counts as full
_REPLICA_BYTES = 32 << 10  # a dozen lines of 500 characters, and the reason
_OTHER_BYTES = 16 << 10  # the fields of the State itself, and the GPUs


class ReplicaStatus(StrEnum):
    UNLOADED = "unloaded"  # by request: not running, until it is loaded by request
    STANDBY = "standby"  # cold: not running, until all replicas before it have failed
    WAITING = "waiting"  # for a lease on its GPUs, or for their memory
    STARTING = "starting"  # the process runs, and is not ready yet; of an attached server: not asked yet, or it loads
    FALLING_ASLEEP = "dozing"  # loaded; the call to sleep is pending
    ASLEEP = "asleep"  # GPU memory released, weights in host memory: it wakes within seconds
    WAKING = "waking"
    READY = "ready"
    DRAINING = "draining"  # by request: finishes its requests and gets no new ones; then it stops or falls asleep
    UNHEALTHY = "unhealthy"  # fails its probes: gets no new requests, and is restarted, unless it is attached
    BACKOFF = "backoff"  # failed; restarted at `next_start_at`
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # permanently: too many failures in the window; see `reason` and `last_lines`


class AttachedFault(StrEnum):
    """Why an attached server gets no requests: the beginning of its `reason`."""

    UNASKED = "not asked yet"
    AWAITED = "first token awaited"
    LOADING = "loading"
    NO_CONNECTION = "no connection"
    NO_ANSWER = "no answer"
    WRONG_KEY = "wrong key"
    UNKNOWN_MODEL = "unknown model"
    FAILING = "failing"


class ChangeKind(StrEnum):
    """What happens to a model, each with the time that it takes."""

    WAIT = "wait"  # for another engine on its GPUs, and until its memory is free
    LOAD = "load"
    WAKE = "wake"
    DRAIN = "drain"
    SLEEP = "sleep"
    SERVE = "serve"  # from ready until it was to leave
    UNLOAD = "unload"


class Cause(StrEnum):
    START = "start"  # of Berth, or after a failure
    REQUEST = "request"
    OPERATOR = "operator"
    IDLE = "idle"
    SWAP = "swap"  # another model gets the room
    RAM = "ram"  # it sleeps, and its RAM is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChanges:
    """How often that happened, since boot."""

    model: str
    change: ChangeKind
    why: Cause
    count: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a start."""

    phase: str  # "process", "download", "load", "compile", "graphs", "warm-up": from the engine's log
    percent: float | None = None  # 0..100 within the phase
    done_bytes: int | None = None  # of a download
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """What an engine says about its own load, in words common to all engines. None: it does not say."""

    measured_at: float = 0.0  # Unix seconds
    running: int | None = None  # requests in its batch
    waiting: int | None = None  # requests in its own queue
    kv_usage: float | None = None  # 0..1 of its KV cache
    prompt_tokens: int | None = None  # since its start, as all counts
    cached_tokens: int | None = None  # those of them that were in its KV cache already
    generation_tokens: int | None = None
    preemptions: int | None = None  # requests that lost their place in the KV cache, and are computed again
    kv_block_tokens: int | None = None
    kv_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankState:
    """One rank of an engine that runs on several boxes."""

    rank: int
    box: str  # its address
    status: str  # a ReplicaStatus; "silent": its box does not report; "": it has not
    generation: int = 0  # of its process: one start of all ranks together
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    name: str
    status: ReplicaStatus
    since: float  # Unix seconds of the last change of status
    reason: str = ""  # for this status, for the operator
    progress: Progress | None = None
    pid: int | None = None
    restarts: int = 0  # since boot
    next_start_at: float | None = None  # Unix seconds, in BACKOFF
    last_lines: tuple[str, ...] = ()  # the engine's last error lines, after a failure
    discovered: Discovered | None = None  # of an attached server that did not answer when the plan was made
    requested: Literal["", "unloaded", "asleep", "loaded"] = ""  # how it is, or is to be, by request
    load_s: float | None = None  # how long its last start took
    expected_s: float | None = None  # how long its present or next start or wake takes, by the last ones; None: unknown
    expected_phases: Mapping[str, float] = field(default_factory=dict)  # the seconds of each, while it starts
    flaps: int = 0  # how often it became ready and failed within an hour, if that is too often
    start_phases: Mapping[str, float] = field(default_factory=dict)  # seconds of each: of the last start, or wake
    leased: bool = False  # it serves no clients until the lease on its model ends
    measured_by: str = ""  # the SHA-256 of the one key that uses it then; "": none does
    kept_asleep: Mapping[int, int] = field(default_factory=dict)  # bytes by GPU, when it last slept
    cannot_sleep: str = ""  # why it is not put to sleep any more
    sleep_level: int | None = None  # asleep: 1 with its weights in RAM, 2 without them; None: it is not, or unknown
    sleep_ram_bytes: int = 0  # of the host, that its weights hold while it sleeps
    spare: bool = False  # its model is scaled to fewer replicas: it need not be ready
    no_room: str = ""  # what holds the memory that it is to be loaded into
    holders: tuple[str, ...] = ()  # the models that hold it
    obstructed: bool = False  # and does not leave by itself: requests do not wait
    preempts: bool = False  # another model has waited long enough for it to drain: its requests are given up
    memory_not_free: str = ""  # who holds GPU memory that it has to wait for, and that should be free
    adapters: tuple[str, ...] = ()  # those that were added and are loaded
    adapter_errors: Mapping[str, str] = field(default_factory=dict)  # why others are not
    continues: tuple[str, ...] | None = None  # the operations whose given answer it continues; None: it was not asked
    load: EngineLoad | None = None  # None: it does not serve, or does not say
    ranks: tuple[RankState, ...] = ()  # of an engine that runs on several boxes, as far as this one knows them
    load_failures: int = 0  # how often a serving engine did not say, though it could: since control started

    @property
    def away(self) -> bool:
        """It does not serve by request, which is no failure."""
        return self.requested in ("unloaded", "asleep")

    @property
    def begun(self) -> bool:
        """It is on its way to be ready."""
        return self.status in (ReplicaStatus.STARTING, ReplicaStatus.WAKING)

    def left_s(self, now: float) -> float | None:
        """Until it is ready, once it starts or wakes: as it took the last times. None: unknown, or longer than ever.
        `now`: Unix seconds.
        """
        if self.status is ReplicaStatus.READY:
            return None
        if not self.begun:
            return self.expected_s
        progress = self.progress or Progress(phase="")
        usual = Usual(self.expected_s, self.expected_phases)
        return left_s(usual, progress.phase, progress.percent, max(now - self.since, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedAdapter:
    """A LoRA adapter that was added while its model serves."""

    name: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A share of the conversations of a model gets another replica first. The others get it last."""

    model: str
    replica: str
    share: float  # 0..1
    salt: str  # of the hash that chooses conversations; the chosen ones stay chosen when the share grows


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    index: int
    memory_used_bytes: int
    memory_total_bytes: int
    utilization_percent: int | None = None
    power_watts: float | None = None  # None, here and below: it does not say
    temperature_celsius: int | None = None
    slowed: str = ""  # why its clocks are held down: "heat", or "power" from its supply; "": they are not
    slowed_since: float = 0.0  # Unix seconds
    ecc_errors: int = 0  # in its memory, uncorrected: since its driver was loaded
    xid: int = 0  # the last error that is none of a program's own; 0: none since control started
    xid_at: float = 0.0  # Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """What control sees of the host besides engines. None: unknown."""

    data_dir_free_bytes: int | None = None
    data_dir_total_bytes: int | None = None
    memory_left_bytes: int | None = None  # up to the limit of the container
    memory_limit_bytes: int | None = None  # None: there is no limit
    tls_ends: float | None = None  # Unix seconds: of the certificate that the router serves with
    tls_problem: str = ""  # why clients reject it
    tls_unused: str = ""  # why what the certificate's files have now is not served with
    keys_problem: str = ""  # why the last change of the API keys' file has no effect
    sleep_budget_bytes: int | None = None  # of RAM, for the weights of all that sleep; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class TracerState:
    """What the tracer has done with spans; it publishes that by itself."""

    sent: int = 0
    dropped: int = 0  # the collector did not take them, or they were overwritten before they were read


def most_bytes(replicas: int) -> int:
    """Of a State of so many replicas, as JSON."""
    return replicas * _REPLICA_BYTES + _OTHER_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    version: int = STATE_VERSION
    sequence: int  # counts the publications of one control process
    published_at: float  # Unix seconds
    control_pid: int
    replicas: tuple[ReplicaState, ...]
    gpus: tuple[GpuState, ...] = ()
    gpus_gone: Mapping[int, str] = field(default_factory=dict)  # those of the plan that do not answer, and why
    gpu_memory: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # what engines were seen to take, by GPU
    host: HostState = field(default_factory=HostState)
    pins: tuple[str, ...] = ()  # models that are neither unloaded nor put to sleep
    changes: tuple[ModelChanges, ...] = ()
    adapters: tuple[AddedAdapter, ...] = ()
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by model, where it is not the plan's
    canaries: tuple[Canary, ...] = ()
    held: tuple[str, ...] = ()  # models whose requests a migration queues: they do not time out meanwhile
    expires: Mapping[str, float] = field(default_factory=dict)  # Unix seconds at which idle models will be unloaded
    run_dir_free_bytes: int | None = None  # None: unknown
    capture: Capture | None = None  # what router workers capture now
    shadows: tuple[Mirror, ...] = ()

    @property
    def run_dir_full(self) -> bool:
        return self.run_dir_free_bytes is not None and self.run_dir_free_bytes < FULL_BYTES

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "State":
        """ValueError for bytes that are not a State of this version."""
        state = msgspec.json.decode(data, type=cls)
        if state.version != STATE_VERSION:
            raise ValueError(f"state version {state.version}, this Berth reads {STATE_VERSION}")
        return state
