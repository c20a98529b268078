"""Why models do not fit: the sum per GPU, the sum per model, and the smallest changes that make them fit. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from berth.boot.planner.memory import weights_per_gpu
from berth.boot.planner.placement import (
    GPU_COUNTS,
    LEAST_CONTEXTS,
    WHOLE,
    Allocation,
    Attempt,
    GpuRequest,
    best_attempt,
    budgets,
    counts,
    cpu_bytes,
    divides,
    place,
    required_bytes,
    usable,
)
from berth.host.gpus import Occupant
from berth.plan import Gpu
from berth.units import GIB, size

SMALLEST_CONTEXT = 1024
NOTABLE_BYTES = GIB  # less in use than that is the driver's own
HIGHEST_FRACTION = 0.98


def gpu_report(
    requests: Sequence[GpuRequest],
    gpus: Sequence[Gpu],
    fraction: float,
    occupants: Mapping[int, Sequence[Occupant]] | None = None,
) -> str:
    """The text of the PlacementError for requests that do not fit. `occupants`: the processes on each GPU, by its
    index.
    """
    attempt = best_attempt(requests, gpus, fraction)
    lines = ["The models do not fit on the GPUs."]
    for gpu in gpus:
        lines += _gpu_lines(gpu, attempt, fraction, (occupants or {}).get(gpu.index, ()))
    lines += [_request_line(request, attempt) for request in requests]
    lines += ["What would fit:", *(f"  - {change}" for change in changes(requests, gpus, fraction))]
    return "\n".join(lines)


def cpu_report(requests: Sequence[GpuRequest], available_bytes: int) -> str:
    """The same for models that run on the CPU."""
    lines = [f"The models do not fit into memory: {size(available_bytes)} are available (a container's limit counts)."]
    for request in requests:
        required = cpu_bytes(Allocation(request=request))
        weights = weights_per_gpu(request.info, gpus=0)
        lines.append(f"  {request.name} ({request.info.source}): {size(required)}, of these {size(weights)} weights")
    lines += ["What would fit:", "  - fewer or smaller models in BERTH_MODELS, a smaller `kv_cache`, or more memory"]
    return "\n".join(lines)


def changes(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """What an operator can change, the smallest first; with each of them everything fits."""
    found = [
        *_smaller_contexts(requests, gpus, fraction),
        *_smaller_caches(requests, gpus, fraction),
        *_other_counts(requests, gpus, fraction),
        *_higher_fraction(requests, gpus, fraction),
        *_freed_memory(requests, gpus, fraction),
    ]
    return found or [
        *_more_gpus(requests, gpus, fraction),
        *_without_one(requests, gpus, fraction),
        "a smaller or quantised model (FP8 halves the weights, 4 bits quarter them)",
    ]


def _smaller_contexts(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    found = []
    for position, request in enumerate(requests):
        allocations = place(_with(requests, position, replace(request, context=None)), gpus, fraction)
        tokens = allocations[position].context if allocations else SMALLEST_CONTEXT
        if place(_with(requests, position, replace(request, context=tokens)), gpus, fraction):
            found.append(f"{request.name}: context: {tokens}")
    return found


def _smaller_caches(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    return [
        f"{request.name}: without `kv_cache`, which Berth then chooses"
        for position, request in enumerate(requests)
        if request.kv_cache_bytes is not None
        and place(_with(requests, position, replace(request, kv_cache_bytes=None)), gpus, fraction)
    ]


def _other_counts(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """Other numbers of the available GPUs, for models whose GPUs the user chose."""
    found = []
    for position, request in enumerate(requests):
        if request.gpus is None:
            continue
        allocations = place(_with(requests, position, replace(request, gpus=None)), gpus, fraction)
        if allocations:
            found.append(f"{request.name}: gpus: {len(allocations[position].gpus)}")
    return found


def _higher_fraction(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    for percent in range(math.floor(fraction * 100) + 1, math.floor(HIGHEST_FRACTION * 100) + 1):
        if place(requests, gpus, percent / 100):
            return [f"BERTH_GPU_MEMORY_FRACTION={percent / 100:.2f}"]
    return []


def _freed_memory(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """Whether the memory that other processes hold is what is missing."""
    empty = [replace(gpu, memory_free_bytes=gpu.memory_total_bytes) for gpu in gpus]
    if not place(requests, empty, fraction):
        return []
    used = {gpu.index: gpu.memory_total_bytes - gpu.memory_free_bytes for gpu in gpus}
    notable = {index: bytes_ for index, bytes_ in used.items() if bytes_ >= NOTABLE_BYTES}
    where = ", ".join(map(str, notable))
    held = size(sum(notable.values()))
    return [f"ending the other processes that hold {held} on GPU {where} (see nvidia-smi)"] if notable else []


def _more_gpus(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """The same host with more GPUs of its largest kind."""
    whole = usable(gpus)
    largest = max(whole, key=lambda gpu: gpu.memory_total_bytes, default=None)
    if largest is None:
        return []
    freed = [
        replace(request, gpus=None) if isinstance(request.gpus, int) and request.gpus > len(whole) else request
        for request in requests
    ]
    extra: list[Gpu] = []
    for more in range(1, 2 * max(GPU_COUNTS)):
        free_bytes = largest.memory_total_bytes
        extra.append(replace(largest, index=999 + more, uuid=f"GPU-more-{more}", memory_free_bytes=free_bytes))
        if place(freed, [*gpus, *extra], fraction):
            return [f"{len(whole) + more} GPUs like {largest.name} ({size(largest.memory_total_bytes)})"]
    return []


def _without_one(requests: Sequence[GpuRequest], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    if len(requests) == 1:
        return []
    return [
        f"without {request.name}"
        for position, request in enumerate(requests)
        if place([*requests[:position], *requests[position + 1 :]], gpus, fraction)
    ]


def _with(requests: Sequence[GpuRequest], position: int, request: GpuRequest) -> list[GpuRequest]:
    return [*requests[:position], request, *requests[position + 1 :]]


def _gpu_lines(gpu: Gpu, attempt: Attempt, fraction: float, occupants: Sequence[Occupant]) -> list[str]:
    """The budget of a GPU, and the processes on it where they hold more than the driver's own memory."""
    if not usable([gpu]):
        return [f"  GPU {gpu.index} {gpu.name}: cut into MIG instances, not used"]
    total, free = gpu.memory_total_bytes, gpu.memory_free_bytes
    reserved = [
        f"{size(one.share * total // WHOLE)} by {one.request.name}"
        for one in attempt.allocations
        if gpu.index in (other.index for other in one.gpus)
    ]
    budget = budgets([gpu], fraction)[gpu.index] * total // WHOLE
    line = (
        f"  GPU {gpu.index} {gpu.name}: total {size(total)}, free {size(free)}, "
        f"may be used {size(budget)}, reserved {' + '.join(reserved) or 'nothing'}"
    )
    if total - free < NOTABLE_BYTES:
        return [line]
    who = ", ".join(map(str, occupants)) or "processes that this container does not see: run nvidia-smi on the host"
    return [line, f"    in use {size(total - free)} of {size(total)}: {who}"]


def _request_line(request: GpuRequest, attempt: Attempt) -> str:
    """The sum for the GPUs that it got, else for the fewest that it can be split over."""
    allocated = [len(one.gpus) for one in attempt.allocations if one.request.name == request.name]
    count = (*allocated, *counts(request), 1)[0]
    context = request.least_context(LEAST_CONTEXTS[-1])
    required = required_bytes(request, gpus=count, preferred=LEAST_CONTEXTS[-1])
    weights = weights_per_gpu(request.info, gpus=count)
    overhead = request.largest_overhead_bytes(gpus=count)
    weights_text = size(weights) if request.info.weights_bytes is not None else "unknown"
    kv_text = f"{size(required - weights - overhead - request.asleep_bytes)} for {context} tokens"
    asleep = f" + engines asleep {size(request.asleep_bytes)}" if request.asleep_bytes else ""
    heads = request.info.heads
    uneven = "" if divides(request.info, count) else f"; its {heads} heads cannot be divided among {count} GPUs"
    return (
        f"  {request.name} ({request.info.source}) {'fits' if allocated else 'DOES NOT FIT'}: "
        f"on {count} GPU{'s' if count > 1 else ''} {size(required)} each = "
        f"weights {weights_text} + KV cache {kv_text} + overhead {size(overhead)}{asleep}{uneven}"
    )
