"""What is decided about one replica: its engine, GPUs, memory, command line and probes."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from berth.plan.ranks import Ranks

UNIX_SCHEME = "unix:"
API_PATH = "/v1"


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
class SleepCall:
    """POST with JSON, any 2xx response means success."""

    path: str
    body: dict[str, str | tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """The requests that put an engine to sleep (its GPU memory is released, the weights stay in RAM) and wake it: POST
    with JSON, any 2xx response means success.
    """

    sleep_path: str
    wake_path: str
    body: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pause: SleepCall | None = None  # before it sleeps: requests that come all the same wait, and crash nothing
    resume: SleepCall | None = None  # after it is awake
    light: tuple[SleepCall, ...] = ()  # sleep without weights in RAM; (): there is none
    reload: tuple[SleepCall, ...] = ()  # the wake from that, which reads the weights again
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
    takes_otel: bool = False  # it gets the OTEL_* variables of the collector, which may be secret, but its address
    own_args: tuple[str, ...] = ()  # those of `argv` that the user has added
    own_env: tuple[str, ...] = ()  # the user's own variables; their values are in keys.json, and win over `env`

    @property
    def takes_key(self) -> bool:
        """Whether the engine can be given a key at all."""
        return bool(self.key_variable or self.key_files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """What an attached server is, as far as it says so itself and nothing else is configured; or what an engine is that
    a migration starts with another command line.
    """

    dialect: DialectName
    api_path: str
    served_name: str
    context: int | None
    concurrency: int | None
    batch: int | None
    weights: str
    vocab_size: int | None = None  # None: as before


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One engine process (or attached engine) that serves one model."""

    name: str  # "chat-vllm": [a-z0-9.-], unique; the supervisor's program is "engine:<name>"
    model: str  # the public name
    engine: EngineName
    dialect: DialectName
    version: str = ""  # of the engine; "": unknown, or attached
    checked_versions: tuple[str, ...] = ()  # those whose options Berth knows
    task: Task
    url: str  # "http://127.0.0.1:21001" without a path, or "unix:/run/berth/chat-vllm.sock"; for an attached engine
    # with its path, less "/v1"
    api_path: str = API_PATH  # where OpenAI's API is under `url`; "" for a server that has it at its root
    served_name: str  # what the engine calls the model
    gpus: tuple[int, ...] = ()  # NVML indexes; empty: CPU, or attached
    memory: MemoryEstimate | None = None
    memory_fraction: float | None = None  # of each GPU's total memory, everything included
    measured_as: MeasuredAs | None = None  # None: what it takes cannot be measured
    compared_as: MeasuredAs | None = None  # how fast it is depends on the same; None: attached
    context: int | None = None  # tokens, prompt and output together
    share: float = 1.0  # of the requests, relative to the other replicas of a model that all serve
    concurrency: int | None = None  # requests at once; more are queued in the router. None: no limit
    batch: int | None = None  # inputs in one embeddings request; None: any number
    weights: str = ""  # replicas with the same text here have the same weights; "": unknown
    pass_fields: tuple[str, ...] = ()  # control fields of the engine that clients may set
    continues: bool | None = None  # whether it continues a given answer; None: its dialect knows, or control asks it
    vocab_size: int | None = None  # token ids at or above it are rejected before they reach an engine
    launch: Launch | None = None  # None: attached, nothing to start
    ranks: Ranks | None = None  # its engine runs on several boxes; None: on this one alone
    attendant: Launch | None = None  # a program that its engine needs: it runs as long as that one
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
    def attendant_name(self) -> str:
        """Of the supervisor's program, next to the replica's own."""
        return f"{self.name}.ray"

    @property
    def follows(self) -> bool:
        """It is a rank of an engine whose head is on another box: it answers no requests."""
        return self.ranks is not None and self.ranks.rank > 0

    @property
    def kind(self) -> str:
        """What serves, for people: the engine, or the dialect of an attached server."""
        return self.dialect if self.engine is EngineName.REMOTE else self.engine

    @property
    def called(self) -> frozenset[str]:
        """The names by which a rule may mean it."""
        kinds = {self.dialect} if self.engine is EngineName.REMOTE else {self.engine, f"{self.engine}:{self.dialect}"}
        return frozenset({self.name, *map(str, kinds)})

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
            vocab_size=found.vocab_size or self.vocab_size,
        )

    @property
    def as_found(self) -> Discovered:
        """For routers that know the replica as it was."""
        return Discovered(
            dialect=self.dialect,
            api_path=self.api_path,
            served_name=self.served_name,
            context=self.context,
            concurrency=self.concurrency,
            batch=self.batch,
            weights=self.weights,
            vocab_size=self.vocab_size,
        )

    def same_weights(self, other: "Replica") -> bool:
        """`other` is another replica of the same model and is known to have the same weights."""
        different = self.name != other.name and self.model == other.model
        return different and bool(self.weights) and self.weights == other.weights
