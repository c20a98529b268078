"""What control knows of its replicas, and what it may decide: data only.

All times are seconds on time.monotonic()'s clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.control.diagnosis import Failure
from berth.control.load_progress import Tracker
from berth.control.probes import Health
from berth.control.restart_policy import History
from berth.control.supervisord_client import Process
from berth.plan import ModelRoute, Replica, Restarts
from berth.state import ReplicaStatus

_S = ReplicaStatus

# there is, or was a moment ago, a process
LIVE = frozenset({_S.STARTING, _S.FALLING_ASLEEP, _S.ASLEEP, _S.WAKING, _S.READY, _S.UNHEALTHY, _S.STOPPING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The rhythm of control, in seconds."""

    busy_poll_s: float = 0.5  # of supervisord, while something starts or stops
    calm_poll_s: float = 0.9  # else: an exit is noticed within a second
    heartbeat_s: float = 2.0  # of the State
    ready_probe_s: float = 0.5
    alive_probe_s: float = 5.0
    alive_failures: int = 3  # liveness probes in a row that make a replica unhealthy
    log_poll_s: float = 0.25
    sweep_grace_s: float = 5.0  # between SIGTERM and SIGKILL for what a dead engine left behind
    release_timeout_s: float = 30.0  # for the GPUs' memory to come back
    release_poll_s: float = 0.5
    farewell_s: float = 4.0  # grace for all engines when supervisord is gone
    hurry_s: float = 0.3  # grace for what engines left behind when supervisord ends and waits for control


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that control knows about one replica."""

    replica: Replica
    status: ReplicaStatus
    since: float  # of the status
    reason: str = ""
    origin: str = ""  # why it runs at all, when it stands in for another one
    pid: int | None = None
    starts: int = 0  # since boot
    history: History = field(default_factory=History)
    next_start_at: float | None = None  # in BACKOFF
    last_lines: tuple[str, ...] = ()
    tracker: Tracker = field(default_factory=Tracker)
    moved_at: float = 0.0  # when the start last showed progress: its timeout counts from here
    health: Health = field(default_factory=Health)
    answer: str | None = None  # to the call to sleep or to wake: None: none yet, "": done, else what went wrong
    clear: bool = True  # once its process is gone: nothing is left of it, and the GPU memory is back

    @property
    def attached(self) -> bool:
        return self.replica.launch is None

    @property
    def holds_lease(self) -> bool:
        """It starts, stops, falls asleep, wakes, or something is left of it."""
        changing = self.status in (_S.STARTING, _S.FALLING_ASLEEP, _S.WAKING, _S.STOPPING, _S.UNHEALTHY)
        return not self.attached and (changing or (self.status not in LIVE and not self.clear))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything a decision is made from."""

    records: tuple[Record, ...]  # in the plan's order
    processes: Mapping[str, Process]
    failures: Mapping[str, Failure]  # what the logs say, of those replicas whose process is gone
    routes: tuple[ModelRoute, ...]
    restarts: Restarts
    timing: Timing = field(default_factory=Timing)
    shutting_down: bool = False  # supervisord stops everything: nothing is started or stopped any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A decision: this replica changes its status. STARTING means: start it; STOPPING: stop it; DOZING: put it to
    sleep; WAKING: wake it.
    """

    name: str
    to: ReplicaStatus
    reason: str = ""
    origin: str = ""
    last_lines: tuple[str, ...] = ()
    next_start_at: float | None = None
    history: History | None = None  # None: as it was
