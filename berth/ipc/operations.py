"""Operations: the changes that people and programs request of control while Berth serves, and its replies.

One JSON document per line over the Unix socket `control.sock`: a Request, then its Reply. `berth load ...` and the
router's /admin are its clients; there is no other way to change what runs.

An operation is kept until HISTORY newer ones have followed, also across a restart of control. The same request twice
is one operation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from berth.ipc.bench import Bench
from berth.ipc.capture import Captured, CaptureRequest
from berth.ipc.migration import Gate, Migration, Move, Options
from berth.ipc.shadow import Results, Shadow, ShadowOptions
from berth.plan import Adapter

HISTORY: Final = 50
DIGEST_LENGTH: Final = 64  # characters of a SHA-256, hexadecimal
OPERATION_BYTES: Final = 2048  # of one operation in a file, at most
COUNTS_BYTES: Final = 8192  # of what is counted and kept per model, without many adapters
DRAIN_S: Final = 300.0  # how long running requests may take to finish, unless the request says otherwise
LONGEST_DRAIN_S: Final = 86_400.0
LEASE_S: Final = 30.0  # a lease ends when it is not renewed for so long


class Action(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"
    SLEEP = "sleep"
    WAKE = "wake"
    RESTART = "restart"
    SCALE = "scale"  # to a number of replicas
    MIGRATE = "migrate"  # to another engine of the model, and back
    SHADOW = "shadow"  # a share of the requests is sent to another replica too, to compare the answers
    PIN = "pin"
    UNPIN = "unpin"
    LEASE = "lease"  # its engines run one at a time, as the holder says, and serve no clients
    RELOAD = "reload"  # of the router's workers: it names no model


LOADING: Final = frozenset(  # requests wait for their end
    {Action.LOAD, Action.WAKE, Action.RESTART, Action.SCALE}
)


class OperationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DenialCode(StrEnum):
    """Why a change is denied."""

    INVALID = "invalid_operation"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_OPERATION = "unknown_operation"
    ATTACHED = "attached"  # its servers run elsewhere
    PINNED = "pinned"
    BUSY = "busy"  # another operation of the model is running
    CANNOT_SLEEP = "cannot_sleep"
    NOT_ASLEEP = "not_asleep"
    NOT_LOADED = "not_loaded"
    SHARED_GPUS = "shared_gpus"  # another model runs on them
    NO_ROOM = "no_room"  # pinned models hold it
    OVER = "operation_over"  # it cannot be cancelled any more
    STOPPING = "berth_stops"
    ADAPTER = "adapter_denied"
    UNKNOWN_CAPTURE = "unknown_capture"
    MIGRATION = "migration_denied"
    SHADOW = "shadow_denied"
    HOLD = "hold_too_long"  # requests would have to be queued for longer than they can


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    action: Action
    model: str = ""  # a public name or alias; for restart also a replica
    drain_s: float = DRAIN_S
    count: int | None = None  # of the replicas, to scale to
    migrate: Options | None = None
    shadow: ShadowOptions | None = None
    bench: Bench | None = None  # of a lease: control starts `berth bench`, which holds it
    by: str = ""  # who requests it, for people
    dry_run: bool = False  # only say what would happen


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    id: str
    action: Action
    model: str = ""  # "": the router
    replicas: tuple[str, ...] = ()  # those that it concerns, in fallback order
    drain_s: float = DRAIN_S
    by: str = ""
    why: str = ""  # in this way, for people
    created_at: float  # Unix seconds
    finished_at: float | None = None
    state: OperationState = OperationState.RUNNING
    reason: str = ""  # for this state
    starts: Mapping[str, int] = field(default_factory=dict)  # of the replicas to be started, when it was requested
    workers: tuple[int, ...] = ()  # of the router, that are to be replaced: their pids
    begun: bool = False  # of a reload: they know, and what changes from now on is for another one
    kept: tuple[str, ...] = ()  # of a scale or lease: the replicas that are to be loaded, in fallback order
    lease_ends: float | None = None  # unless it is renewed, on time.monotonic()'s clock
    ending: OperationState | None = None  # of a lease: as which it ends, once nothing of the model runs
    restores: bool = False  # of a lease: the model is loaded again after it
    migration: Migration | None = None
    shadow: Shadow | None = None
    bench: Bench | None = None
    progress: str = ""  # of the holder of a lease, for people
    key_digest: str = ""  # of its key: the router lets it alone use the leased replica

    @property
    def running(self) -> bool:
        return self.state is OperationState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    code: DenialCode
    message: str  # why, who holds it, and the next step
    holders: tuple[str, ...] = ()  # the models that hold it


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One replica's part of an operation."""

    replica: str
    status: str  # now
    to: str  # at the end
    about_s: float | None = None  # as it took the last times; None: unknown
    why: str = ""  # it ends so, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    by: str
    since: float  # Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A replica has changed its status, or an operation its state."""

    id: int  # grows, also across restarts of control
    at: float  # Unix seconds
    subject: str  # the replica, or the operation's action
    model: str = ""
    change: str  # "ready -> draining", or the operation's state
    reason: str = ""
    operation: str = ""  # its id, if it is one's


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """A client says how long a model that is loaded on request stays without requests, in place of `idle_unload`, until
    it is unloaded. It changes neither pins nor who makes room. No operation: it is not listed.
    """

    model: str  # a public name or alias
    seconds: float | None = None  # None: for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """The holder of a lease keeps it for LEASE_S more, and says which replica is to run; or ends it."""

    operation: str  # the id of the lease
    replica: str = ""  # "": none
    ends: bool = False
    failure: str = ""  # why the holder ends it before its time
    progress: str = ""  # "": as before
    key_digest: str = ""  # SHA-256, hexadecimal, of the key with which the holder asks the router


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChange:
    """Adds or removes a LoRA adapter while its model serves, or only lists those of the model. Only the command line
    requests it: an adapter is code's equal, and its path is one of the container.
    """

    model: str  # a public name or alias
    add: Adapter | None = None
    remove: str = ""  # its name


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    name: str
    source: str
    loaded: tuple[str, ...] = ()  # the replicas that have it
    errors: Mapping[str, str] = field(default_factory=dict)  # why others do not, by replica
    problem: str = ""  # why it is not added, though it is in the model's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Exactly one of `change`, `operation`, `cancel`, `move`, `events_after`, `keep`, `renew`, `adapter` and `capture`,
    or none of them: all operations.
    """

    change: Change | None = None
    operation: str = ""  # an id
    cancel: str = ""  # an id
    move: Move | None = None  # of a migration
    events_after: int | None = None  # an id
    keep: Keep | None = None
    renew: Renewal | None = None
    adapter: AdapterChange | None = None
    capture: CaptureRequest | None = None
    who: str = ""  # asks, for the audit
    origin: str = ""  # the address that it comes from


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    denial: Denial | None = None
    operation: Operation | None = None  # the one that was requested
    steps: tuple[Step, ...] = ()  # of it, while it is not over
    operations: tuple[Operation, ...] = ()  # all, the newest last
    pins: Mapping[str, Pin] = field(default_factory=dict)  # by model
    gates: Mapping[str, tuple[Gate, ...]] = field(default_factory=dict)  # of the migrations among them that run, by id
    events: tuple[Event, ...] = ()
    adapters: tuple[AdapterStatus, ...] = ()  # of the model of an `adapter` request
    captured: Captured | None = None  # of a `capture` request
    shadow: Results | None = None  # of the operation, if it is a shadow
