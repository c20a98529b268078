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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from berth.boot.planner.fit.gpu_request import (
    CPU_CONTEXT,
    UNKNOWN_CONTEXT,
    Allocation,
    GpuRequest,
    counts,
    required_bytes,
)
from berth.boot.planner.fit.memory import kv_bytes_for
from berth.boot.planner.fit.sharing import grown, shared, taken
from berth.host.gpus import named
from berth.plan import Gpu
from berth.room import WHOLE

UNIFIED_SHARE = 850  # of a memory that the GPU shares with the host: with more the engine does not start on GB10
LEAST_CONTEXTS = (8192, 2048)  # a model without a stated context gets at least this, in order of preference
CPU_SEQUENCES = 8  # requests at once, as in vLLM's command line
CPU_RESERVE_BYTES = 2 * 2**30  # for the system and the engine's own needs, before caches grow


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
    found = shared(ordered, room) if attempt.shares else grown(ordered, room)
    by_name = {one.request.name: one for one in found}
    return tuple(by_name[request.name] for request in requests)


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
            {index: budget[index] - taken(some)[index] for index in budget} for some in (next_to, allocations)
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
