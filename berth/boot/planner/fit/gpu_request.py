"""What one model needs of the GPUs, or of the RAM, and what it gets: GpuRequest and Allocation. Pure."""

from dataclasses import dataclass, replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.fit.kv_layout import KvLayout, MeasuredLayout
from berth.boot.planner.fit.memory import (
    CacheOptions,
    card_overhead,
    estimate,
    kv_bytes_for,
    kv_layout,
    largest_context,
    weights_per_gpu,
)
from berth.engines.base import Engine
from berth.plan import EngineName, Gpu, MemoryEstimate, Task
from berth.records.measured import Measurement, gpu_kind
from berth.room import RAM, WHOLE

LONGEST_SEARCHED = 2**20  # tokens: vLLM's tables of blocks take memory for the context from which it searches
LIKE_THE_LAYOUT = 0.02  # a measured cache that differs by less from the layout confirms it
GPU_COUNTS = (1, 2, 4, 8, 16)
UNKNOWN_CONTEXT = 8192  # where neither the user nor config.json has one
EMBEDDING_SEQUENCES = 8  # inputs at once; a pooling model gets no more KV cache than they need
CPU_CONTEXT = 32_768  # a longer one only if stated: a CPU reads a few hundred tokens per second

Entry = tuple[str, int]  # a model's name and the position in its engine order


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequest:
    """Memory for engines of one model. They run one at a time on the same GPUs, so the largest overhead counts."""

    name: str  # "chat", or "chat (2: sglang)" where several engines of the model run at once
    info: ModelInfo
    engines: tuple[Engine, ...]
    entries: tuple[Entry, ...] = ()  # one per engine
    cpu: bool = False  # RAM, no GPU
    gpus: int | tuple[int | str, ...] | None = None
    context: int | None = None
    kv_cache_bytes: int | None = None  # per GPU
    extra_bytes: int = 0  # per GPU: what each engine holds for the model besides its own overhead
    asleep_bytes: int = 0  # per GPU: what the sleeping engines keep while one works
    cache: tuple[CacheOptions, ...] = ()  # of each engine; without, their defaults
    on_request: bool = False  # it may share memory with others that are loaded on request
    pin: bool = False
    sleeps: bool = False  # its engines may be put to sleep for others
    measured: tuple[Measurement, ...] = ()  # of these engines, on any GPUs

    @property
    def model(self) -> str:
        return self.entries[0][0] if self.entries else self.name

    def measurement(self, engine: Engine, *, gpus: int, card: Gpu | None) -> Measurement | None:
        """Of an earlier start on as many GPUs of this kind."""
        kind = gpu_kind([card]) if card else ""
        same = (
            one for one in self.measured if (one.of.engine, one.of.gpus, one.of.gpu_kind) == (engine.name, gpus, kind)
        )
        return next(same, None)

    def weights_bytes(self, engine: Engine, *, gpus: int, card: Gpu | None) -> int:
        """Per GPU."""
        found = self.measurement(engine, gpus=gpus, card=card)
        return found.weights_bytes if found else weights_per_gpu(self.info, gpus=gpus)

    def overhead_bytes(self, engine: Engine, *, gpus: int, card: Gpu | None) -> int:
        """Per GPU, besides weights and KV cache. vLLM measures its largest batch at the start; what SGLang takes then
        is less than what it takes later.
        """
        estimated = self.estimated_overhead_bytes(engine, gpus=gpus, card=card)
        found = self.measurement(engine, gpus=gpus, card=card)
        if found is None:
            return estimated
        return found.overhead_bytes if engine.name is EngineName.VLLM else max(found.overhead_bytes, estimated)

    def estimated_overhead_bytes(self, engine: Engine, *, gpus: int, card: Gpu | None) -> int:
        """As the engine says, less on a small card, and more for large batches of MXFP4."""
        base = engine.overhead_bytes(gpus=gpus) + self.extra_bytes
        if engine.name is not EngineName.VLLM or not card:
            return base
        batch = self.options(engine).batch_on(card)
        return base + card_overhead(self.info, card_bytes=card.memory_total_bytes, batch_tokens=batch)

    def options(self, engine: Engine) -> CacheOptions:
        """As the user's arguments for the engine say."""
        given = (options for one, options in zip(self.engines, self.cache, strict=False) if one is engine)
        return next(given, CacheOptions())

    def fixed_bytes(self, *, gpus: int, card: Gpu | None) -> int:
        """Weights and overhead of the engine that needs most."""
        return max(
            self.weights_bytes(engine, gpus=gpus, card=card) + self.overhead_bytes(engine, gpus=gpus, card=card)
            for engine in self.engines
        )

    def layout(self, engine: Engine, *, gpus: int, card: Gpu | None) -> KvLayout | None:
        """The KV cache of one engine; None: an encoder, which has none."""
        layout = kv_layout(self.info, engine=engine.name, gpus=gpus, options=self.options(engine), card=card)
        found = self.measurement(engine, gpus=gpus, card=card)
        if layout is None or found is None:
            return layout
        factor = found.kv_bytes * found.context / found.kv_tokens / layout.request_bytes(found.context)
        return layout if abs(factor - 1) < LIKE_THE_LAYOUT else MeasuredLayout(layout=layout, factor=factor)

    def least_context(self, preferred: int) -> int:
        """Tokens that must fit; `preferred` counts for a model without a stated context."""
        return self.context or min(self.info.max_position or UNKNOWN_CONTEXT, preferred)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """A request with its GPUs and its share of each of them; without GPUs it runs on the CPU."""

    request: GpuRequest
    gpus: tuple[Gpu, ...] = ()
    share: int = 0  # thousandths of each GPU's memory, everything included
    least_context: int = 0  # tokens that must fit; 0 on the CPU
    cpu_kv_bytes: int = 0  # of the host's memory; 0 on GPUs

    @property
    def memory_fraction(self) -> float | None:
        """Of each GPU's memory, for the engine that works. None: the CPU."""
        if not self.gpus:
            return None
        asleep = -(-self.request.asleep_bytes * WHOLE // self._smallest_gpu_bytes())
        return (self.share - asleep) / WHOLE

    @property
    def context(self) -> int:
        """As stated; else the longest that fits with every engine."""
        info, count = self.request.info, len(self.gpus)
        if self.request.context is not None or (self.gpus and info.weights_bytes is None):
            return self.request.context or self.least_context
        largest = min(
            largest_context(
                info,
                self.request.layout(engine, gpus=count, card=self.card),
                kv_bytes=self.kv_bytes(engine),
                default=UNKNOWN_CONTEXT,
            )
            for engine in self.request.engines
        )
        return max(largest, self.least_context) if self.gpus else min(largest, CPU_CONTEXT)

    def memory(self, engine: Engine) -> MemoryEstimate | None:
        """Per GPU, for one engine of the request. None: the model's size is unknown."""
        info, count = self.request.info, len(self.gpus)
        if info.weights_bytes is None:
            return None
        planned = estimate(
            info,
            self.request.layout(engine, gpus=count, card=self.card),
            gpus=count,
            kv_bytes=self.kv_bytes(engine),
            overhead_bytes=self.request.overhead_bytes(engine, gpus=count, card=self.card),
            context=self.context,
            default_context=UNKNOWN_CONTEXT,
        )
        found = self.request.measurement(engine, gpus=count, card=self.card)
        if found is None:
            return planned
        return replace(
            planned,
            weights_bytes=found.weights_bytes,
            measured=found.at,
            estimated_weights_bytes=planned.weights_bytes,
            estimated_overhead_bytes=self.request.estimated_overhead_bytes(engine, gpus=count, card=self.card),
        )

    @property
    def taken(self) -> dict[int, int]:
        """Thousandths of each GPU; without GPUs bytes of RAM."""
        if self.gpus:
            return {gpu.index: self.share for gpu in self.gpus}
        return {RAM: max((one.total_bytes for one in map(self.memory, self.request.engines) if one), default=0)}

    def context_is_a_guess(self, engine: Engine) -> bool:
        """Whether an engine that finds the longest context itself should do so, as a figure might stop its start. There
        are three cases: 1. the context is stated, or an earlier start was measured: no 2. the size of weights or cache
        is unknown: yes 3. a GPU decides about the context, by an overhead that is only estimated: yes, except for
        models whose longest context is not what the engine would begin with.
        """
        request, info, count = self.request, self.request.info, len(self.gpus)
        if request.context is not None or request.measurement(engine, gpus=count, card=self.card) is not None:
            return False
        unknown = info.guessed_weights or info.weights_bytes is None or not info.cache_layers
        if unknown or not self.gpus:
            return unknown and not info.encoder_only
        limit = info.max_position or 0
        return self.context < limit <= LONGEST_SEARCHED and not info.long_rope

    @property
    def card(self) -> Gpu | None:
        """The smallest of its GPUs."""
        return min(self.gpus, key=lambda gpu: gpu.memory_total_bytes, default=None)

    def kv_bytes(self, engine: Engine) -> int:
        """KV cache per GPU: what the share leaves besides weights and overhead. An encoder has none."""
        request, count = self.request, len(self.gpus)
        if not self.gpus:
            return self.cpu_kv_bytes
        if request.info.encoder_only:
            return 0
        if request.kv_cache_bytes is not None:
            return _required_kv_bytes(request, gpus=count, card=self.card, context=self.least_context)
        used = request.weights_bytes(engine, gpus=count, card=self.card)
        used += request.overhead_bytes(engine, gpus=count, card=self.card)
        return max(self.share * self._smallest_gpu_bytes() // WHOLE - used - request.asleep_bytes, 0)

    def _smallest_gpu_bytes(self) -> int:
        return min(gpu.memory_total_bytes for gpu in self.gpus)


def required_bytes(request: GpuRequest, *, gpus: int, preferred: int, card: Gpu | None = None) -> int:
    """What the engine that needs most takes on each of `gpus` GPUs like `card` (None: of any kind)."""
    kv_bytes = _required_kv_bytes(request, gpus=gpus, card=card, context=request.least_context(preferred))
    return request.fixed_bytes(gpus=gpus, card=card) + kv_bytes + request.asleep_bytes


def _required_kv_bytes(request: GpuRequest, *, gpus: int, card: Gpu | None, context: int) -> int:
    layouts = [request.layout(engine, gpus=gpus, card=card) for engine in request.engines]
    required = max(kv_bytes_for(layout, context) for layout in layouts)
    if request.kv_cache_bytes is not None:
        return max(request.kv_cache_bytes, required)
    return required if request.info.task == Task.GENERATE else required * EMBEDDING_SEQUENCES


def counts(request: GpuRequest) -> tuple[int, ...]:
    """Numbers of GPUs that this model can be split over, fewest first."""
    if isinstance(request.gpus, tuple):
        return (len(request.gpus),)
    if request.gpus is not None:
        return (request.gpus,)
    if request.info.encoder_only:
        return GPU_COUNTS[:1]
    return tuple(count for count in GPU_COUNTS if divides(request.info, count))


def divides(info: ModelInfo, count: int) -> bool:
    """Whether the attention heads divide evenly; KV heads are copied where there are more GPUs."""
    kv_heads = info.kv_heads or 1
    return (info.heads or count) % count == 0 and (kv_heads % count == 0 or count % kv_heads == 0)
