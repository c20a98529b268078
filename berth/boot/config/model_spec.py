"""The models requested in BERTH_MODELS: one ModelSpec per model. `models` reads the text."""

from dataclasses import dataclass, field
from typing import Literal

from berth.engines.base import KvDtype
from berth.plan import DialectName, EngineName, Importance, Load, Standby, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One entry of a model's engine order."""

    engine: EngineName
    dialect: DialectName | None = None  # remote and sim only; None: what the server says (sim: vllm)
    url: str | None = None  # remote only: base URL as written, without a slash at its end
    api_key: str | None = field(default=None, repr=False)  # remote only: sent as Bearer
    weights: str | None = None  # remote only: replicas with the same value here have the same weights
    remote_name: str | None = None  # remote only: the model's name there; None: the public name
    args: tuple[str, ...] = ()  # appended to the command line
    env: dict[str, str] = field(default_factory=dict)
    continues: bool | None = None  # remote only: whether it continues a given answer; None: found out
    batch: int | None = None  # remote only: inputs in one embeddings request; None: any number
    share: float = 1.0  # of the requests, if several engines serve at once


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Additions to an engine's command line and environment."""

    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """A LoRA adapter that clients request by its own name."""

    name: str  # public
    source: str  # hub id or absolute local path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One requested model. None: Berth decides."""

    name: str  # public; may hold slashes
    source: str  # hub id, absolute local path, URL, or anything for sim
    revision: str | None = None
    variant: Literal["auto"] | None = None  # auto: Berth may take another variant of the model, if only that fits
    extra_sources: tuple[str, ...] = ()  # further hub ids that the engines' args name: draft models
    adapters: tuple[AdapterSpec, ...] = ()
    adapter_slots: int = 0  # room for further ones, added while it serves
    adapter_folder: str = ""  # each folder in it is an adapter that is added while the model serves
    adapter_rank: int = 64  # the largest rank of those
    engines: tuple[EngineSpec, ...] = ()  # fallback order; empty: chosen
    auto: bool = False  # the engine that `berth bench` has found to be best comes first
    aliases: tuple[str, ...] = ()
    gpus: int | tuple[int | str, ...] | None = None  # count, or NVML indexes and UUIDs
    nodes: int = 1  # boxes that its engine runs on
    context: int | None = None  # tokens
    standby: Standby = Standby.COLD
    replicas: int = 1  # of its engine, which all serve
    replicas_at_start: int = 1  # the rest are loaded with `berth scale`
    load: Load = Load.ALWAYS
    idle_unload_s: float | None = None
    idle_stop_s: float | None = None  # with it, `idle_unload` puts to sleep what can sleep, and this unloads it
    min_residency_s: float = 30.0  # with `load: on_request`: it is not unloaded for another model before
    priority: Importance = Importance.NORMAL  # with `load: on_request`
    max_wait_s: float = 60.0  # with `load: on_request`: for models that are in use to make room
    drain_timeout_s: float = 300.0  # the same: for its own requests to end when it makes room; 0: as long as they take
    pin: bool = False  # it is neither unloaded nor put to sleep
    sleep: bool = False  # its engines are started so that they can be put to sleep
    task: Task | None = None
    concurrency: int | None = None  # simultaneous requests per engine; None: the engine's own limit
    pass_fields: tuple[str, ...] = ()  # control fields of the engines that clients may set
    kv_cache_bytes: int | None = None  # KV cache per GPU, or in RAM on the CPU
    speculation: str = "off"  # auto, off, mtp, ngram, or the hub id or path of a draft model
    kv_dtype: KvDtype = KvDtype.AUTO
    text_only: bool = False  # without what reads images, audio and video
    prefix_cache: bool | None = None  # None: the engine's default
    kv_offload_bytes: int | None = None  # RAM for KV cache that the GPUs have no room for, per engine
    options: dict[EngineName, EngineOptions] = field(default_factory=dict)  # while `engines` is empty: see chosen()

    def chosen(self, engine: EngineName) -> EngineSpec:
        """The entry for an engine that Berth chose. Entries of `engines` already include their options."""
        options = self.options.get(engine, EngineOptions())
        return EngineSpec(engine=engine, args=options.args, env=options.env)
