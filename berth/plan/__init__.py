"""The Plan: what boot decided, for control, the router and `berth exec`. Written as plan.json, and changed by
migrations alone, for replicas that rest.

It holds no secret: those are in keys.json next to it (`Keys`, mode 0600), for the router, control and `berth exec`.

replica   what is decided about one replica; its names are imported from here
revision  what serves a model, and why; the history of them is in `berth.records.revisions`
ranks     the boxes that work together, and the ranks of a replica on them
routing   the rules of BERTH_ROUTES
keys      the secrets, and the names and limits of the clients' API keys
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from berth.errors import ControlError
from berth.plan.keys import ApiKey as ApiKey
from berth.plan.keys import Keys as Keys
from berth.plan.ranks import Box as Box
from berth.plan.ranks import BoxGpu as BoxGpu
from berth.plan.ranks import Node as Node
from berth.plan.ranks import Nodes as Nodes
from berth.plan.ranks import Ranks as Ranks
from berth.plan.replica import API_PATH as API_PATH
from berth.plan.replica import UNIX_SCHEME as UNIX_SCHEME
from berth.plan.replica import DialectName as DialectName
from berth.plan.replica import Discovered as Discovered
from berth.plan.replica import DriverState as DriverState
from berth.plan.replica import EngineName as EngineName
from berth.plan.replica import Gpu as Gpu
from berth.plan.replica import GpuInventory as GpuInventory
from berth.plan.replica import Launch as Launch
from berth.plan.replica import MeasuredAs as MeasuredAs
from berth.plan.replica import MemoryEstimate as MemoryEstimate
from berth.plan.replica import Probe as Probe
from berth.plan.replica import Replica as Replica
from berth.plan.replica import Sleep as Sleep
from berth.plan.replica import SleepCall as SleepCall
from berth.plan.replica import Task as Task
from berth.plan.revision import REVISION_VERSION as REVISION_VERSION
from berth.plan.revision import Author as Author
from berth.plan.revision import Revision as Revision
from berth.plan.revision import RevisionState as RevisionState
from berth.plan.routing import RoutingRule as RoutingRule

PLAN_VERSION = 1
LOCAL_ORIGINS = "local"  # of pages on the user's own machine
_ALL_ADDRESSES = ("", "0.0.0.0", "::", "*")  # hosts to listen on

Contract = TypeVar("Contract")


class Standby(StrEnum):
    """What the engines after the first of a model's order do while the first serves."""

    COLD = "cold"  # not running; the next one is started when one has failed permanently
    WARM = "warm"  # asleep, weights in RAM; the next one is woken as soon as one fails
    HOT = "hot"  # all run and serve, GPU memory divided


class Importance(StrEnum):
    """Of a model that is loaded on request, where others want its room. The most important first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class OpenTo(StrEnum):
    """Whom a Berth without API keys serves."""

    PRIVATE = "private"  # clients with private addresses: this machine and its networks
    ALL = "all"  # everybody who reaches the port
    NONE = "none"  # no one: it does not start without keys


class Load(StrEnum):
    ALWAYS = "always"
    ON_REQUEST = "on_request"  # by the first request


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter of a model: clients request it like a model of its own. Engines know it by the same name."""

    name: str  # public
    source: str  # hub id or absolute local path
    rank: int | None = None  # the largest of its matrices; None: unknown
    weights_bytes: int | None = None  # None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoute:
    """A public model name and the replicas that can serve it, in fallback order."""

    name: str
    aliases: tuple[str, ...] = ()
    source: str
    revision: str | None = None  # of a hub model; None: the newest
    extra_sources: tuple[str, ...] = ()  # further hub ids that the engines read: adapters, and what their args name
    task: Task
    context: int | None = None
    standby: Standby = Standby.COLD
    load: Load = Load.ALWAYS
    idle_unload_s: float | None = None  # of a model that is loaded on request
    idle_stop_s: float | None = (
        None  # until it is unloaded while it sleeps; None: it is not, and does not sleep when idle
    )
    min_residency_s: float = 30.0  # it is not unloaded for another model before
    max_wait_s: float = 60.0  # for models that are in use to make room
    drain_timeout_s: float = 300.0  # its requests have so long to end when it makes room; 0: as long as they take
    priority: Importance = Importance.NORMAL
    room: dict[int, int] = field(default_factory=dict)  # what it takes of `Plan.room`; empty: it always has room
    pin: bool = False  # from the start
    replicas: tuple[str, ...]
    at_start: int = 0  # how many of them are loaded then: the rest have a place, and wait for `berth scale`. 0: all
    adapters: tuple[Adapter, ...] = ()
    adapter_slots: int = 0  # for further ones, added while it serves
    adapter_rank: int = 0  # the largest of those
    adapter_folder: str = ""  # absolute; each folder in it is one of those. "": none
    base: str = ""  # of an adapter's route (`Plan.routes`): the model that it adapts
    added: str = ""  # of the route of an adapter that was added: its name; `name` is that of its model
    # of a request that a rule directs: the engine or replica that comes first, and whether no other may serve it
    engine: str = ""
    only: bool = False

    @property
    def loaded_at_start(self) -> tuple[str, ...]:
        return self.replicas[: self.at_start or None]

    def adapted(self, adapter: Adapter) -> "ModelRoute":
        """The route of one of its adapters."""
        return replace(self, name=adapter.name, aliases=(), source=adapter.source, adapters=(), base=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    host: str
    port: int
    workers: int
    tls_cert: str = ""  # paths of PEM files; "": plain HTTP
    tls_key: str = ""

    @property
    def most_workers(self) -> int:
        """At a time: a worker may start before the one that it replaces has ended."""
        return 2 * self.workers + 1

    def url(self) -> str:
        """What it listens on."""
        return self._url(self.host)

    def client_url(self, name: str) -> str:
        """Where clients reach it: by `name` of this host, unless it listens on one address alone."""
        return self._url(name if self.host in _ALL_ADDRESSES else self.host)

    def _url(self, name: str) -> str:
        return f"{'https' if self.tls_cert else 'http'}://{f'[{name}]' if ':' in name else name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_body_bytes: int
    first_token_timeout_s: float
    token_timeout_s: float
    queue_timeout_s: float
    queue_size: int = 256  # most queued requests of one model
    client_stall_timeout_s: float
    drain_timeout_s: float
    key_slots: int = 1  # names of clients with counters of their own: anonymous ones and later ones included


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """Crash-loop back-off: it doubles from first to longest; `failures` within `window_s` are a permanent failure."""

    backoff_first_s: float = 1.0
    backoff_longest_s: float = 300.0
    failures: int = 5
    window_s: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    format: Literal["text", "json"] = "text"
    level: str = "info"
    requests: bool = False  # the router writes a line for each request


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Which requests have spans, and where those go."""

    endpoint: str  # of OTLP over HTTP, with its path
    ratio: float = 1.0  # of the requests that have no parent, or whose parent does not decide
    follows_parent: bool = True  # a client's traceparent decides for its request


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaths:
    """Where the files of one appliance are. Two appliances have two run directories."""

    run_dir: str
    data_dir: str

    @property
    def plan(self) -> Path:
        return Path(self.run_dir, "plan.json")

    @property
    def keys(self) -> Path:
        return Path(self.run_dir, "keys.json")

    @property
    def key_counters(self) -> Path:
        return Path(self.run_dir, "key-counters")

    @property
    def shadow_counts(self) -> Path:
        return Path(self.run_dir, "shadow-counts")

    @property
    def usage_notes(self) -> Path:
        return Path(self.run_dir, "usage.json")

    @property
    def tls(self) -> Path:
        """The router's copy of the certificate and its key, as they were last tried out; mode 0600."""
        return Path(self.run_dir, "tls.pem")

    @property
    def state(self) -> Path:
        return Path(self.run_dir, "state.json")

    @property
    def control_state(self) -> Path:
        """Control's own, for the control that runs after this one."""
        return Path(self.run_dir, "control.json")

    @property
    def scoreboard(self) -> Path:
        return Path(self.run_dir, "scoreboard")

    @property
    def heartbeats(self) -> Path:
        return Path(self.run_dir, "heartbeats")

    @property
    def traffic(self) -> Path:
        return Path(self.run_dir, "traffic")

    @property
    def journal(self) -> Path:
        return Path(self.run_dir, "journal")

    @property
    def tracer(self) -> Path:
        """What the tracer says of itself."""
        return Path(self.run_dir, "tracer.json")

    @property
    def control_socket(self) -> Path:
        return Path(self.run_dir, "control.sock")

    @property
    def supervisord_conf(self) -> Path:
        return Path(self.run_dir, "supervisord.conf")

    @property
    def supervisord_pid(self) -> Path:
        return Path(self.run_dir, "supervisord.pid")

    @property
    def supervisord_socket(self) -> Path:
        return Path(self.run_dir, "supervisor.sock")

    @property
    def logs(self) -> Path:
        return Path(self.run_dir, "logs")

    @property
    def leaders(self) -> Path:
        """One file per replica with its session leader: `<replica>.json`, written by `berth exec`."""
        return Path(self.run_dir, "leaders")

    def preload_socket(self, preload: str) -> Path:
        """Where a `Preload` is asked for engines."""
        return Path(self.run_dir, f"{preload}.sock")

    def preload_state(self, preload: str) -> Path:
        """What it says of itself, as JSON."""
        return Path(self.run_dir, f"{preload}.json")

    def replica_log(self, replica: str) -> Path:
        return self.logs / f"{replica}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preload:
    """A process that has imported an engine: `berth exec` lets it fork those that would only import it once more."""

    name: str  # of its program, "vllm.preload"
    engine: EngineName
    like: str  # the replica whose environment it imports in
    replicas: tuple[str, ...]  # those that it may fork
    modules: tuple[str, ...]
    differing: tuple[str, ...]  # variables in which the replicas may differ
    adds: dict[str, str] = field(default_factory=dict)  # variables of a fork, where it has no other value
    replaced: dict[str, str] = field(default_factory=dict)  # the engine's functions: see `berth.boot.preload.server`


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """A variable, for people."""

    name: str
    value: str  # "***" for a secret, "": not set
    origin: str  # "environment", "default", or the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    version: int = PLAN_VERSION
    created: int  # Unix seconds
    paths: RunPaths
    listen: Listen
    limits: Limits
    restarts: Restarts
    logs: Logs
    inventory: GpuInventory
    models: tuple[ModelRoute, ...]
    replicas: tuple[Replica, ...]
    offline: bool = False  # nothing may be downloaded
    fetch_hosts: tuple[str, ...] | None = None  # hosts for downloads on behalf of clients; None: all public ones
    cors_origins: tuple[str, ...] = (LOCAL_ORIGINS,)  # of web pages that may use Berth; "*": all
    affinity: bool = True  # a conversation stays with one of the replicas that serve its model
    open_access: bool  # no BERTH_API_KEYS: clients need none
    metrics_key_labels: bool = True  # /metrics has the names of keys; False: their numbers
    open_to: OpenTo = OpenTo.PRIVATE  # with open access
    keys_file: str = ""  # BERTH_API_KEYS_FILE, which is read again when it changes
    trusted_proxies: tuple[str, ...] = ()  # networks of reverse proxies whose word on a client's address counts
    # By GPU, in thousandths of its memory, and under -1 in bytes of RAM: what the models that are loaded on request may
    # take together. Empty: all of them fit at the same time.
    room: dict[int, int] = field(default_factory=dict)
    tracing: Tracing | None = None  # None: there are no spans
    revisions: tuple[Revision, ...] = ()  # of each model, the one that this plan starts
    nodes: Nodes | None = None  # None: this box works alone
    boxes: tuple[Box, ...] = ()  # those of the other boxes that answered when the plan was made
    rules: tuple[RoutingRule, ...] = ()
    preloads: tuple[Preload, ...] = ()
    warnings: tuple[str, ...] = ()
    configuration: tuple[Configured, ...] = ()  # all variables, when it was made by boot

    @property
    def routes(self) -> tuple[ModelRoute, ...]:
        """All that clients can request: each model, followed by its adapters."""
        return tuple(one for route in self.models for one in (route, *map(route.adapted, route.adapters)))

    @property
    def box(self) -> Box:
        """What this box says of itself to the others."""
        return Box(
            rank=self.nodes.rank if self.nodes else 0,
            gpus=tuple(
                BoxGpu(
                    name=gpu.name, memory_total_bytes=gpu.memory_total_bytes, memory_free_bytes=gpu.memory_free_bytes
                )
                for gpu in self.inventory.gpus
            ),
            replicas={one.name: one.ranks.facts for one in self.replicas if one.ranks},
        )

    def replica(self, name: str) -> Replica:
        """KeyError for a name that is not in the plan."""
        for replica in self.replicas:
            if replica.name == name:
                return replica
        raise KeyError(name)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def from_json(cls, data: bytes) -> "Plan":
        """ValueError for bytes that are not a Plan of this version."""
        plan = msgspec.json.decode(data, type=cls)
        if plan.version != PLAN_VERSION:
            raise ValueError(f"plan version {plan.version}, this Berth reads {PLAN_VERSION}: boot again")
        return plan


def read_plan(run_dir: str) -> Plan:
    """ControlError where the run directory has no plan of this version."""
    return read_contract(RunPaths(run_dir=run_dir, data_dir="").plan, Plan.from_json)


def read_keys(run_dir: str) -> Keys:
    """ControlError where they cannot be read."""
    return read_contract(RunPaths(run_dir=run_dir, data_dir="").keys, Keys.from_json)


def read_contract(path: Path, decode: Callable[[bytes], Contract]) -> Contract:
    """One of the files that boot or control writes for other programs. ControlError where it cannot be read."""
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else error
        advice = "Start Berth, or set BERTH_RUN_DIR to where it runs"
        raise ControlError(f"{str(path)!r} cannot be read: {reason}. {advice}") from error
