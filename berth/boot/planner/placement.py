"""Which GPUs each model gets, and how much of each GPU it may use. Pure.

Memory is allocated in thousandths of a GPU, which is what the engines' options can express, so sums are exact. A GPU's
budget is BERTH_GPU_MEMORY_FRACTION of its memory, or what is free if that is less. The rules, in this order:

1. Models tied to certain GPUs come first, then the largest; models of unknown size come last.
2. A model gets the fewest GPUs that hold its weights, its engine's overhead and one sequence of its context. Several
   GPUs for one model are of one kind, unless the user named them. A MIG instance counts as a GPU that works alone.
3. Models are spread over the GPUs. If they do not fit so, they are packed; if they still do not fit, a model without a
   stated context gets a smaller one.
4. What is left of a GPU becomes KV cache, in equal parts for the models that generate text.
5. Where that is not enough, models that are loaded on request share memory: each has to fit next to those that are
   always loaded. Those that fit next to each other, in the order of BERTH_MODELS, are planned as loaded together.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.kv_layout import KvLayout, MeasuredLayout
from berth.boot.planner.memory import (
    CacheOptions,
    card_overhead,
    estimate,
    kv_bytes_for,
    kv_layout,
    largest_context,
    weights_per_gpu,
)
from berth.engines.base import Engine
from berth.host.gpus import named
from berth.measured import Measurement, gpu_kind
from berth.plan import EngineName, Gpu, MemoryEstimate, Task
from berth.room import RAM

WHOLE = 1000  # thousandths
LONGEST_SEARCHED = 2**20  # tokens: vLLM's tables of blocks take memory for the context from which it searches
LIKE_THE_LAYOUT = 0.02  # a measured cache that differs by less from the layout confirms it
UNIFIED_SHARE = 850  # of a memory that the GPU shares with the host: with more the engine does not start on GB10
GPU_COUNTS = (1, 2, 4, 8, 16)
UNKNOWN_CONTEXT = 8192  # where neither the user nor config.json has one
LEAST_CONTEXTS = (8192, 2048)  # a model without a stated context gets at least this, in order of preference
EMBEDDING_SEQUENCES = 8  # inputs at once; a pooling model gets no more KV cache than they need
CPU_CONTEXT = 32_768  # a longer one only if stated: a CPU reads a few hundred tokens per second
CPU_SEQUENCES = 8  # requests at once, as in vLLM's command line
CPU_RESERVE_BYTES = 2 * 2**30  # for the system and the engine's own needs, before caches grow

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The requests that got GPUs, and those that did not fit."""

    allocations: tuple[Allocation, ...]
    rejected: tuple[GpuRequest, ...]
    shares: bool = False  # those that are loaded on request share memory


def usable(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """A GPU with MIG on cannot be used as a whole; its instances are GPUs of their own."""
    return tuple(gpu for gpu in gpus if not gpu.mig and gpu.memory_total_bytes > 0)


def budgets(gpus: Iterable[Gpu], fraction: float) -> dict[int, int]:
    """Thousandths of each GPU that may be allocated, by its index."""

    def allowed(gpu: Gpu) -> int:
        share = int(fraction * WHOLE + 1e-6)
        return min(share, UNIFIED_SHARE) if gpu.unified else share

    return {gpu.index: min(allowed(gpu), gpu.memory_free_bytes * WHOLE // gpu.memory_total_bytes) for gpu in gpus}


def place(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> tuple[Allocation, ...] | None:
    """An allocation for every request, in their order; None where they do not all fit. What is left of each GPU is
    divided among the models that grow.
    """
    attempt = best_attempt(requests, gpus, fraction)
    if attempt.rejected:
        return None
    room = budgets(usable(gpus), fraction)
    by_name = {one.request.name: one for one in attempt.allocations}
    ordered = [by_name[request.name] for request in requests]
    found = _shared(ordered, room) if attempt.shares else _grown(ordered, room)
    by_name = {one.request.name: one for one in found}
    return tuple(by_name[request.name] for request in requests)


def _shared(allocations: Sequence[Allocation], room: Mapping[int, int]) -> list[Allocation]:
    """What is left is divided among the models that are always loaded and one that is loaded on request; then each
    group of those that fit together gets what the others leave.
    """
    always = [one for one in allocations if not one.request.on_request]
    on_request: dict[str, list[Allocation]] = {}
    for one in allocations:
        if one.request.on_request:
            on_request.setdefault(one.request.model, []).append(one)
    left = dict(room)
    for index in left:
        left[index] -= max((_taken(own)[index] for own in on_request.values()), default=0)
    growing = {gpu.index for own in on_request.values() for one in own if _grows(one.request) for gpu in one.gpus}
    always = _grown(always, left, others=growing)
    taken = _taken(always)
    left = {index: limit - taken[index] for index, limit in room.items()}
    groups: list[list[Allocation]] = []
    for own in on_request.values():
        fitting = (group for group in groups if all(n <= left[index] for index, n in _taken([*group, *own]).items()))
        group = next(fitting, None)
        if group is None:
            groups.append(list(own))
        else:
            group += own
    return [*always, *(one for group in groups for one in _grown(group, left))]


def _grown(
    allocations: Sequence[Allocation], room: Mapping[int, int], others: Collection[int] = ()
) -> list[Allocation]:
    """With what is left of each GPU, in equal parts for those that grow. On the GPUs `others` another one grows too."""
    taken, growing = _taken(allocations), Counter(others)
    growing.update(gpu.index for one in allocations if _grows(one.request) for gpu in one.gpus)
    return [
        replace(one, share=one.share + min((room[n] - taken[n]) // growing[n] for n in one.taken))
        if _grows(one.request)
        else one
        for one in allocations
    ]


def _taken(allocations: Iterable[Allocation]) -> Counter[int]:
    return sum((Counter(one.taken) for one in allocations), Counter[int]())


def place_on_cpu(requests: Sequence[GpuRequest], available_bytes: int) -> tuple[Allocation, ...] | None:
    """All of them at once in the host's memory; None where they do not fit. What is left besides a reserve becomes KV
    cache, in equal parts, up to what the requests of one engine can use.
    """
    needed = sum(cpu_bytes(one) for one in requests)
    if needed > available_bytes:  # then those that are loaded on request share the memory
        on_request = Counter[str]()
        for one in requests:
            on_request[one.model] += cpu_bytes(one) if one.on_request else 0
        needed += max(on_request.values(), default=0) - on_request.total()
    if needed > available_bytes:
        return None
    spare = max(available_bytes - needed - CPU_RESERVE_BYTES, 0) // max(len(requests), 1)
    return tuple(Allocation(request=one, cpu_kv_bytes=cpu_kv_bytes(one, spare_bytes=spare)) for one in requests)


def cpu_kv_bytes(request: GpuRequest, *, spare_bytes: int) -> int:
    """As stated; else one request of the context, or of the least that is useful, and what is spare up to
    CPU_SEQUENCES requests.
    """
    if request.kv_cache_bytes is not None:
        return request.kv_cache_bytes
    layouts = [request.layout(engine, gpus=0, card=None) for engine in request.engines]
    limit = request.info.max_position or UNKNOWN_CONTEXT
    least = max(kv_bytes_for(layout, request.context or min(limit, LEAST_CONTEXTS[-1])) for layout in layouts)
    each = max(kv_bytes_for(layout, request.context or min(limit, CPU_CONTEXT)) for layout in layouts)
    return max(least, min(each * CPU_SEQUENCES, least + spare_bytes))


def cpu_bytes(request: GpuRequest) -> int:
    """The least RAM for the engine that needs most."""
    allocation = Allocation(request=request, cpu_kv_bytes=cpu_kv_bytes(request, spare_bytes=0))
    estimates = (allocation.memory(engine) for engine in request.engines)
    return max((one.total_bytes for one in estimates if one), default=0)


def best_attempt(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> Attempt:
    """The first attempt in which all requests fit; else the one in which the most do."""
    attempts, whole = [], usable(gpus)
    sharing = (False, True) if any(request.on_request for request in requests) else (False,)
    for preferred, shares, spread in itertools.product(LEAST_CONTEXTS, sharing, (True, False)):
        attempt = _attempt(requests, whole, budgets(whole, fraction), preferred, spread=spread, shares=shares)
        if not attempt.rejected:
            return attempt
        attempts.append(attempt)
    return max(reversed(attempts), key=lambda attempt: len(attempt.allocations))  # the last of equals needs least


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


def _attempt(
    requests: Sequence[GpuRequest],
    gpus: Sequence[Gpu],
    budget: Mapping[int, int],
    preferred: int,
    *,
    spread: bool,
    shares: bool,
) -> Attempt:
    def precedence(request: GpuRequest) -> tuple[bool, bool, bool, int]:
        fewest = min(counts(request), default=1)
        size = required_bytes(request, gpus=fewest, preferred=preferred) * fewest
        later = shares and request.on_request
        return later, not isinstance(request.gpus, tuple), request.info.weights_bytes is None, -size

    allocations: list[Allocation] = []
    rejected = []
    for request in sorted(requests, key=precedence):
        is_sharing = shares and request.on_request
        next_to = [
            one
            for one in allocations
            if not (is_sharing and one.request.on_request and one.request.model != request.model)
        ]
        free, left = (
            {index: budget[index] - _taken(some)[index] for index in budget} for some in (next_to, allocations)
        )
        found = _allocated(request, gpus, budget, free, preferred, left=left, spread=spread)
        if found is None:
            rejected.append(request)
        else:
            allocations.append(found)
    return Attempt(allocations=tuple(allocations), rejected=tuple(rejected), shares=shares)


def _allocated(
    request: GpuRequest,
    gpus: Sequence[Gpu],
    budget: Mapping[int, int],
    free: Mapping[int, int],
    preferred: int,
    *,
    left: Mapping[int, int],
    spread: bool,
) -> Allocation | None:
    """The fewest GPUs that suffice; among those the emptiest (`spread`) or the fullest. `left`: what all others leave,
    and so less than what is free where memory is shared.
    """

    def rank(gpu: Gpu) -> tuple[int, int]:
        free_memory = left[gpu.index] * gpu.memory_total_bytes
        return -free_memory if spread else free_memory, gpu.index

    for count in counts(request):
        able = [gpu for gpu in gpus if count == 1 or gpu.part_of is None]  # a process uses one MIG instance
        choices = []
        for kind in gpu_kinds(request, able):
            card = min(kind, key=lambda gpu: gpu.memory_total_bytes)
            required = required_bytes(request, gpus=count, preferred=preferred, card=card)
            share = max(-(-required * WHOLE // gpu.memory_total_bytes) for gpu in kind)
            if request.info.weights_bytes is None:  # then it gets its GPUs to itself
                share = max(share, *(budget[gpu.index] for gpu in kind))
            chosen = sorted((gpu for gpu in kind if share <= free[gpu.index]), key=rank)[:count]
            if len(chosen) == count:
                choices.append((rank(chosen[0]), share, tuple(sorted(chosen, key=lambda gpu: gpu.index))))
        if choices:
            _rank, share, best = min(choices, key=lambda choice: choice[0])
            return Allocation(request=request, gpus=best, share=share, least_context=request.least_context(preferred))
    return None


def gpu_kinds(request: GpuRequest, gpus: Sequence[Gpu]) -> list[list[Gpu]]:
    """GPUs that may work together: those that the user named, else all of one kind."""
    if isinstance(request.gpus, tuple):
        chosen = [gpu for name in request.gpus if (gpu := named(gpus, name))]
        return [chosen] if chosen else []
    kinds: dict[tuple[str, int], list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu.name, gpu.memory_total_bytes), []).append(gpu)
    return list(kinds.values())


def _grows(request: GpuRequest) -> bool:
    """Whether the model generates text with a cache of no stated size."""
    return request.kv_cache_bytes is None and request.info.task == Task.GENERATE
