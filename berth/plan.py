"""The Plan: what boot decided, for control, the router and `berth exec`. Written once as plan.json, then only read.

It holds no secret: those are in keys.json next to it (`Keys`, mode 0600), for the router, control and `berth exec`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from berth.errors import ControlError

PLAN_VERSION = 1
UNIX_SCHEME = "unix:"
LOCAL_ORIGINS = "local"  # of pages on the user's own machine
API_PATH = "/v1"

Contract = TypeVar("Contract")


class EngineName(StrEnum):
    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"
    REMOTE = "remote"  # an attached engine: it runs elsewhere, and Berth knows its URL
    SIM = "sim"  # the built-in simulated engine, never chosen unless named


class DialectName(StrEnum):
    """How an engine spells its OpenAI API."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"
    # of attached servers only
    LLAMACPP = "llamacpp"  # llama.cpp's own server
    LLAMACPP_PYTHON = "llamacpp-python"
    MLX = "mlx"  # mlx_lm.server
    TRANSFORMERS = "transformers"  # transformers serve
    TEI = "tei"  # Hugging Face's text-embeddings-inference
    INFINITY = "infinity"  # embeddings and rerankers too
    OLLAMA = "ollama"
    OPENAI = "openai"  # any other server with OpenAI's API
    OPENAI_CLOUD = "openai-cloud"  # OpenAI's own


class Standby(StrEnum):
    """What the engines after the first of a model's order do while the first serves."""

    COLD = "cold"  # not running; the next one is started when one has failed permanently
    WARM = "warm"  # asleep, weights in RAM; the next one is woken as soon as one fails
    HOT = "hot"  # all run and serve, GPU memory divided


class OpenTo(StrEnum):
    """Whom a Berth without API keys serves."""

    PRIVATE = "private"  # clients with private addresses: this machine and its networks
    ALL = "all"  # everybody who reaches the port
    NONE = "none"  # no one: it does not start without keys


class Load(StrEnum):
    ALWAYS = "always"
    ON_REQUEST = "on_request"  # by the first request


class Task(StrEnum):
    GENERATE = "generate"
    EMBED = "embed"
    RERANK = "rerank"  # a cross-encoder: one score for two texts
    CLASSIFY = "classify"


class DriverState(StrEnum):
    OK = "ok"
    NO_DRIVER = "no_driver"  # no NVML: a host without GPUs, or a container without --gpus
    NO_GPUS = "no_gpus"  # the driver answers and lists no device
    FAILED = "failed"  # the driver is there and answers with an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    index: int  # NVML's, which is PCI bus order; of a MIG instance: see `instance_index`
    uuid: str
    name: str
    memory_total_bytes: int
    memory_free_bytes: int  # at boot
    compute_capability: str  # "9.0"
    unified: bool = False  # it has no memory of its own and uses the host's
    mig: bool = False  # MIG is on: the whole GPU cannot be used, and it has no instance
    part_of: int | None = None  # of a MIG instance: the index of its GPU

    @property
    def capability(self) -> tuple[int, int]:
        """To be compared: (8, 9) of "8.9". An unknown one is assumed to be new enough."""
        major, _dot, minor = self.compute_capability.partition(".")
        return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (99, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInventory:
    state: DriverState
    reason: str = ""  # why there are no GPUs, for people
    driver_version: str = ""
    cuda_version: str = ""  # the newest CUDA that the driver runs, "13.0"
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """What one replica takes on each of its GPUs, in bytes."""

    weights_bytes: int
    kv_bytes_per_token: int  # of the layers whose cache grows with a request
    kv_bytes_per_request: int = 0  # besides: sliding windows and recurrent states
    kv_tokens: int = 0  # that the cache holds in requests of the full context; 0: unknown
    kv_bytes: int
    overhead_bytes: int  # CUDA context, graphs, activations: the engine's figure
    largest_context: int  # tokens that would fit with these GPUs
    measured: int = 0  # Unix seconds of the start that weights, cache and overhead are taken from; 0: all estimated
    estimated_weights_bytes: int = 0  # where measured: what would be planned without
    estimated_overhead_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAs:
    """What the memory that a replica takes depends on. A measurement counts for plans in which all of it is equal."""

    engine: EngineName
    version: str
    gpu_kind: str
    gpus: int
    model: str  # source and commit
    arguments: str  # a digest of what the user says about the model


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """An HTTP request that checks whether an engine is ready or alive: any 2xx response means yes."""

    path: str
    method: Literal["GET", "POST"] = "GET"
    timeout_s: float = 5.0
    otherwise: tuple[str, ...] = ()  # the paths to try in turn where a server does not have `path`


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """The requests that put an engine to sleep (its GPU memory is released, the weights stay in RAM) and wake it: POST
    with JSON, any 2xx response means success.
    """

    sleep_path: str
    wake_path: str
    body: dict[str, tuple[str, ...]] = field(default_factory=dict)
    state_path: str = ""  # GET, returns {"is_sleeping": ...}; "": the engine has no such route, and control remembers
    sleep_timeout_s: float = 300.0  # it allocates pinned memory for all its weights
    wake_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How `berth exec` starts an engine. `env` is added to the environment, which keeps no BERTH_* variable."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()  # variables the engine must not see
    files: dict[str, str] = field(default_factory=dict)  # absolute path -> text, written before the start
    key_files: dict[str, str] = field(default_factory=dict)  # the same with "{key}" for the replica's key, mode 0600
    key_variable: str = ""  # the variable through which the engine gets the replica's key; "": none
    links: dict[str, str] = field(default_factory=dict)  # absolute path -> target, made before the start
    folders: tuple[str, ...] = ()  # absolute paths of caches, made at boot
    notes: tuple[str, ...] = ()  # what was chosen for the model, and why: shown by `berth plan`
    own_env: tuple[str, ...] = ()  # the user's own variables; their values are in keys.json, and win over `env`

    @property
    def takes_key(self) -> bool:
        """Whether the engine can be given a key at all."""
        return bool(self.key_variable or self.key_files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """What an attached server is, as far as it says so itself and nothing else is configured."""

    dialect: DialectName
    api_path: str
    served_name: str
    context: int | None
    concurrency: int | None
    batch: int | None
    weights: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One engine process (or attached engine) that serves one model."""

    name: str  # "chat-vllm": [a-z0-9.-], unique; the supervisor's program is "engine:<name>"
    model: str  # the public name
    engine: EngineName
    dialect: DialectName
    task: Task
    url: str  # "http://127.0.0.1:21001" without a path, or "unix:/run/berth/chat-vllm.sock"; for an attached engine
    # with its path, less "/v1"
    api_path: str = API_PATH  # where OpenAI's API is under `url`; "" for a server that has it at its root
    served_name: str  # what the engine calls the model
    gpus: tuple[int, ...] = ()  # NVML indexes; empty: CPU, or attached
    memory: MemoryEstimate | None = None
    memory_fraction: float | None = None  # of each GPU's total memory, everything included
    measured_as: MeasuredAs | None = None  # None: what it takes cannot be measured
    context: int | None = None  # tokens, prompt and output together
    share: float = 1.0  # of the requests, relative to the other replicas of a model that all serve
    concurrency: int | None = None  # requests at once; more are queued in the router. None: no limit
    batch: int | None = None  # inputs in one embeddings request; None: any number
    weights: str = ""  # replicas with the same text here have the same weights; "": unknown
    pass_fields: tuple[str, ...] = ()  # control fields of the engine that clients may set
    continues: bool | None = None  # whether it continues a given answer; None: its dialect knows, or control asks it
    vocab_size: int | None = None  # token ids at or above it are rejected before they reach an engine
    launch: Launch | None = None  # None: attached, nothing to start
    detects: bool = False  # attached, and its dialect is not configured
    unreached: bool = False  # attached, and it did not answer when the plan was made: control asks it what it is
    ready: Probe
    alive: Probe
    sleep: Sleep | None = None  # None: it cannot be put to sleep
    start_timeout_s: float = 1800.0
    stop_timeout_s: float = 30.0
    reason: str = ""  # why this engine, for people
    origins: dict[str, str] = field(default_factory=dict)  # what decided about "context", "weights", ...: for people

    @property
    def attached(self) -> bool:
        """It runs elsewhere: Berth can neither start nor stop it."""
        return self.launch is None

    @property
    def kind(self) -> str:
        """What serves, for people: the engine, or the dialect of an attached server."""
        return self.dialect if self.engine is EngineName.REMOTE else self.engine

    @property
    def socket_path(self) -> str:
        """The Unix socket at which it listens; "" where it has a port."""
        return self.url.removeprefix(UNIX_SCHEME) if self.url.startswith(UNIX_SCHEME) else ""

    def path(self, path: str) -> str:
        """Where the replica has what is at `path` in OpenAI's API. A path outside of /v1 is the engine's own."""
        return self.api_path + path.removeprefix(API_PATH) if path.startswith(f"{API_PATH}/") else path

    def as_discovered(self, found: Discovered) -> "Replica":
        return replace(
            self,
            dialect=found.dialect,
            api_path=found.api_path,
            served_name=found.served_name,
            context=found.context,
            concurrency=found.concurrency,
            batch=found.batch,
            weights=found.weights,
        )

    def same_weights(self, other: "Replica") -> bool:
        """`other` is another replica of the same model and is known to have the same weights."""
        different = self.name != other.name and self.model == other.model
        return different and bool(self.weights) and self.weights == other.weights


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
    min_residency_s: float = 30.0  # it is not unloaded for another model before
    max_wait_s: float = 60.0  # for models that are in use to make room
    room: dict[int, int] = field(default_factory=dict)  # what it takes of `Plan.room`; empty: it always has room
    pin: bool = False  # from the start
    replicas: tuple[str, ...]
    adapters: tuple[Adapter, ...] = ()
    base: str = ""  # of an adapter's route (`Plan.routes`): the model that it adapts

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

    def url(self, host: str = "") -> str:
        """Where clients reach it, under another name of this host if one is given."""
        name = host or self.host
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

    def replica_log(self, replica: str) -> Path:
        return self.logs / f"{replica}.log"


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
    open_to: OpenTo = OpenTo.PRIVATE  # with open access
    trusted_proxies: tuple[str, ...] = ()  # networks of reverse proxies whose word on a client's address counts
    # By GPU, in thousandths of its memory, and under -1 in bytes of RAM: what the models that are loaded on request may
    # take together. Empty: all of them fit at the same time.
    room: dict[int, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def routes(self) -> tuple[ModelRoute, ...]:
        """All that clients can request: each model, followed by its adapters."""
        return tuple(one for route in self.models for one in (route, *map(route.adapted, route.adapters)))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The secrets that programs after boot need; keys.json, mode 0600. API keys only as SHA-256 hex digests."""

    api_key_digests: tuple[str, ...] = ()
    admin_key_digest: str = ""
    upstream_keys: dict[str, str] = field(default_factory=dict)  # replica name -> Bearer key
    engine_env: dict[str, dict[str, str]] = field(default_factory=dict)  # replica name -> the user's own variables
    hub_token: str = ""  # for what downloads, and nothing else

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Keys":
        return msgspec.json.decode(data, type=cls)

    def masked(self, text: str) -> str:
        """The text of an engine without the keys that the engine knows."""
        for secret in (*self.upstream_keys.values(), self.hub_token):
            if secret:
                text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"Keys(api_keys={len(self.api_key_digests)}, upstream_keys={len(self.upstream_keys)})"


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
