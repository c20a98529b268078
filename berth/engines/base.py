"""The interface of an engine, and the order from which it makes its command line."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias

from berth.plan import Adapter, DialectName, EngineName, Gpu, Launch, MemoryEstimate, Probe, Ranks, Sleep, Task

CALL_NAME = "find_weather"  # the made-up call of `ModelFacts.call`, with {"city": "Paris", "days": 3}


ParserKind: TypeAlias = Literal["tool", "reasoning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownParser:
    """What a catalogue says: the parser of one engine. None: the engine has none for the model."""

    engine: EngineName
    kind: ParserKind
    name: str | None
    origin: str  # for people


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model before it is loaded."""

    model_type: str = ""
    source: str = ""  # hub id or path
    template: str = ""  # the Jinja text
    call: str = ""  # what the template makes of a call of `CALL_NAME`; "" where it is unknown
    response_template: bool = False  # the checkpoint describes its own output format
    known: tuple[KnownParser, ...] = ()  # from a catalogue


class KvDtype(StrEnum):
    """The data type of the KV cache."""

    AUTO = "auto"  # what the checkpoint asks for, else that of the weights
    SIXTEEN_BITS = "16bit"
    FP8 = "fp8"


class Drafter(StrEnum):
    """What predicts the tokens that the model then checks."""

    NGRAM = "ngram"  # the prompt's own text
    MTP = "mtp"  # layers of the checkpoint
    # A checkpoint of its own:
    EAGLE = "eagle"
    EAGLE3 = "eagle3"
    DFLASH = "dflash"
    ASSISTANT = "assistant"  # Gemma 4's, which reads the model's own cache
    MODEL = "model"  # a small model of the same vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How further tokens are predicted."""

    drafter: Drafter
    tokens: int  # predicted at once
    source: str = ""  # hub id or path of a drafter with a checkpoint of its own
    origin: str = ""  # what decided: "speculation: mtp", for people


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """A model's settings that every engine spells differently. The defaults leave the engine as it is."""

    speculation: Speculation | None = None
    kv_dtype: KvDtype = KvDtype.AUTO
    checkpoint_kv_dtype: str | None = None  # which the checkpoint asks for; None: that of its weights
    text_only: bool = False
    prefix_cache: bool | None = None  # None: the engine's default
    kv_offload_bytes: int = 0  # RAM for KV cache that the GPUs have no room for, of all GPUs of the replica together


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """Everything that an engine needs to make its command line."""

    replica: str
    served_name: str
    source: str  # hub id or absolute local path
    revision: str | None = None
    task: Task = Task.GENERATE
    host: str = "127.0.0.1"
    port: int = 0
    socket: str = ""  # the path of a Unix socket to listen at, instead of host and port
    gpus: tuple[Gpu, ...] = ()  # empty: run on the CPU
    ranks: Ranks | None = None  # it runs on several boxes; None: on this one alone
    memory: MemoryEstimate | None = None
    memory_fraction: float | None = None  # of each GPU's total memory, everything included
    context: int | None = None
    context_is_a_guess: bool = False  # an engine that finds the longest one that fits does so
    dtype: str | None = None  # from config.json: "bfloat16", "float16", "float32"
    model: ModelFacts = field(default_factory=ModelFacts)  # to find the tool and reasoning parser
    dialect: DialectName | None = None  # sim only: whose API it speaks
    home: str  # the engine's environment: <home>/bin/python exists
    version: str = ""  # the engine's; its caches are valid for one version
    python: str  # Berth's own interpreter
    run_dir: str
    data_dir: str
    offline: bool = False  # nothing may be downloaded; engines never download models
    fetch_hosts: tuple[str, ...] | None = None  # hosts for downloads on behalf of clients; None: all public ones
    sleeps: bool = False  # it sleeps while another engine of its model serves
    adapters: tuple[Adapter, ...] = ()
    traces_endpoint: str = ""  # where its spans go; "": it has none
    spare_adapters: tuple[Adapter, ...] = ()  # room for further ones, added while it serves: their ranks count
    options: ModelOptions = field(default_factory=ModelOptions)
    extra_args: tuple[str, ...] = ()  # the user's, appended last so that they take precedence


class Engine(Protocol):
    """How one kind of engine is started and probed."""

    name: EngineName
    dialect: DialectName
    ready: Probe
    alive: Probe
    sleep: Sleep | None  # None: it cannot be put to sleep
    takes_socket: bool  # whether it can listen at a Unix socket
    traces_flags: tuple[str, ...]  # with one of these a user decides where its spans go; (): it has none
    start_timeout_s: float
    stop_timeout_s: float

    def launch(self, order: LaunchOrder) -> Launch:
        """argv, environment, files and links of the replica. Pure."""
        ...

    def overhead_bytes(self, *, gpus: int) -> int:
        """Memory per GPU besides weights and KV cache: context, graphs, activations."""
        ...

    def concurrency(self, order: LaunchOrder) -> int | None:
        """Requests that it processes at once; more would be queued in it. None: unknown, it decides at its start."""
        ...
