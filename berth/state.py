"""The State: what control sees and has decided, published to the routers as one small file, replaced atomically.

A router reads it a few times a second and goes on with the last one when control is gone.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

STATE_VERSION = 1


class ReplicaStatus(StrEnum):
    STANDBY = "standby"  # cold: not running; waits until no other engine of its model is left
    WAITING = "waiting"  # its turn on the GPU, or the GPU's memory, has not come
    STARTING = "starting"  # the process runs and does not answer its readiness probe yet
    FALLING_ASLEEP = "dozing"  # loaded, and being put to sleep
    ASLEEP = "asleep"  # its GPU memory is given back, its weights are in the machine's: it wakes within seconds
    WAKING = "waking"
    READY = "ready"
    UNHEALTHY = "unhealthy"  # was ready, fails its probes: no new requests, soon restarted
    BACKOFF = "backoff"  # died; starts again at `next_start_at`
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # for good: too many failures in the window; `reason` and `last_lines` say why


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a start is."""

    phase: str  # "process", "download", "load", "compile", "graphs", "warm-up": the engine's log told
    percent: float | None = None  # 0..100 within the phase


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    name: str
    status: ReplicaStatus
    since: float  # Unix seconds of the last change of status
    reason: str = ""  # why it is in this status, in words
    progress: Progress | None = None
    pid: int | None = None
    restarts: int = 0  # since boot
    next_start_at: float | None = None  # Unix seconds, in BACKOFF
    last_lines: tuple[str, ...] = ()  # the engine's last error lines, after a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    index: int
    memory_used_bytes: int
    memory_total_bytes: int
    utilization_percent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    version: int = STATE_VERSION
    sequence: int  # grows by one each publication of one control process
    published_at: float  # Unix seconds
    control_pid: int
    replicas: tuple[ReplicaState, ...]
    gpus: tuple[GpuState, ...] = ()

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "State":
        """ValueError for bytes that are not a State of this version."""
        state = msgspec.json.decode(data, type=cls)
        if state.version != STATE_VERSION:
            raise ValueError(f"state version {state.version}, this Berth reads {STATE_VERSION}")
        return state
