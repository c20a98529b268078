"""Why models do not fit: the sum per GPU, the sum per model, and the smallest change that would do. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from berth.boot.planner.memory import weights_per_gpu
from berth.boot.planner.placement import (
    GPU_COUNTS,
    WANTED_CONTEXTS,
    WHOLE,
    Attempt,
    Demand,
    budgets,
    counts,
    cpu_bytes,
    divides,
    least_context,
    needed_bytes,
    on_cpu,
    place,
    seat,
    usable,
)
from berth.host.gpus import Occupant
from berth.plan import Gpu

GIB = 2**30
LEAST_CONTEXT = 1024
NOTABLE_BYTES = GIB  # less in use than that is the driver's own, and no process's
HIGHEST_FRACTION = 0.98


def gpu_shortfall(
    demands: Sequence[Demand],
    gpus: Sequence[Gpu],
    fraction: float,
    occupants: Mapping[int, Sequence[Occupant]] | None = None,
) -> str:
    """The text of the PlacementError for demands that `place` finds no room for. `occupants`: who holds memory of which
    GPU, by its index.
    """
    attempt = seat(demands, gpus, fraction)
    left_out = {demand.name for demand in attempt.left_out}
    lines = ["The models do not fit on the GPUs."]
    for gpu in gpus:
        lines += [_gpu_line(gpu, attempt, fraction), *_occupied(gpu, (occupants or {}).get(gpu.index, ()))]
    lines += [_demand_line(demand, _shown_count(demand, attempt), demand.name in left_out) for demand in demands]
    lines += ["What would fit:", *(f"  - {change}" for change in changes(demands, gpus, fraction))]
    return "\n".join(lines)


def cpu_shortfall(demands: Sequence[Demand], available_bytes: int) -> str:
    """The same for models that run on the CPU."""
    lines = [f"The models do not fit into memory: {_gib(available_bytes)} are available (a container's limit counts)."]
    for demand in demands:
        taken = cpu_bytes(on_cpu(demand))
        weights = weights_per_gpu(demand.info, gpus=0)
        lines.append(f"  {demand.name} ({demand.info.source}): {_gib(taken)}, of these {_gib(weights)} weights")
    lines += ["What would fit:", "  - fewer or smaller models in BERTH_MODELS, a smaller `kv_cache`, or more memory"]
    return "\n".join(lines)


def changes(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """What an operator can change, the smallest first; each was tried and makes everything fit."""
    found = [
        *_smaller_contexts(demands, gpus, fraction),
        *_smaller_caches(demands, gpus, fraction),
        *_other_counts(demands, gpus, fraction),
        *_higher_fraction(demands, gpus, fraction),
        *_freed_memory(demands, gpus, fraction),
    ]
    return found or [
        *_more_gpus(demands, gpus, fraction),
        *_without_one(demands, gpus, fraction),
        "a smaller or quantised model (FP8 halves the weights, 4 bits quarter them)",
    ]


def _smaller_contexts(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    found = []
    for position, demand in enumerate(demands):
        placed = place(_with(demands, position, replace(demand, context=None)), gpus, fraction)
        tokens = placed[position].context if placed else LEAST_CONTEXT
        if place(_with(demands, position, replace(demand, context=tokens)), gpus, fraction):
            found.append(f"{demand.name}: context: {tokens}")
    return found


def _smaller_caches(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    return [
        f"{demand.name}: without `kv_cache`, which Berth then chooses"
        for position, demand in enumerate(demands)
        if demand.kv_cache_bytes is not None
        and place(_with(demands, position, replace(demand, kv_cache_bytes=None)), gpus, fraction)
    ]


def _other_counts(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """Other numbers of the GPUs that are there, for models whose GPUs the user chose."""
    found = []
    for position, demand in enumerate(demands):
        if demand.gpus is None:
            continue
        freed = replace(demand, gpus=None)
        placed = place(_with(demands, position, freed), gpus, fraction)
        if placed:
            found.append(f"{demand.name}: gpus: {len(placed[position].gpus)}")
    return found


def _higher_fraction(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    step = math.floor(fraction * 100) + 1
    while step <= HIGHEST_FRACTION * 100:
        if place(demands, gpus, step / 100):
            return [f"BERTH_GPU_MEMORY_FRACTION={step / 100:.2f}"]
        step += 1
    return []


def _freed_memory(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """Whether the memory that other processes hold is what is missing."""
    empty = [replace(gpu, memory_free_bytes=gpu.memory_total_bytes) for gpu in gpus]
    if not place(demands, empty, fraction):
        return []
    taken = [gpu for gpu in gpus if gpu.memory_total_bytes - gpu.memory_free_bytes >= NOTABLE_BYTES]
    held = sum(gpu.memory_total_bytes - gpu.memory_free_bytes for gpu in taken)
    where = ", ".join(str(gpu.index) for gpu in taken)
    return [f"ending the other processes that hold {_gib(held)} on GPU {where} (see nvidia-smi)"] if taken else []


def _more_gpus(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    """The same machine with more GPUs of its largest kind."""
    largest = max(usable(gpus), key=lambda gpu: gpu.memory_total_bytes, default=None)
    if largest is None:
        return []
    free = [replace(demand, gpus=None) if _asks_for_more(demand, gpus) else demand for demand in demands]
    for more in range(1, 2 * max(GPU_COUNTS)):
        extra = [
            replace(
                largest, index=1000 + number, uuid=f"GPU-more-{number}", memory_free_bytes=largest.memory_total_bytes
            )
            for number in range(more)
        ]
        if place(free, [*gpus, *extra], fraction):
            return [f"{len(usable(gpus)) + more} GPUs like {largest.name} ({_gib(largest.memory_total_bytes)})"]
    return []


def _asks_for_more(demand: Demand, gpus: Sequence[Gpu]) -> bool:
    return isinstance(demand.gpus, int) and demand.gpus > len(usable(gpus))


def _without_one(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> list[str]:
    if len(demands) == 1:
        return []
    return [
        f"without {demand.name}"
        for position, demand in enumerate(demands)
        if place([*demands[:position], *demands[position + 1 :]], gpus, fraction)
    ]


def _with(demands: Sequence[Demand], position: int, demand: Demand) -> list[Demand]:
    return [*demands[:position], demand, *demands[position + 1 :]]


def _shown_count(demand: Demand, attempt: Attempt) -> int:
    """The number of GPUs to show the sum for: what it got, else the most it could use."""
    seats = [seat for seat in attempt.seats if seat.demand.name == demand.name]
    if seats:
        return len(seats[0].gpus)
    return counts(demand)[0] if counts(demand) else 1


def _gpu_line(gpu: Gpu, attempt: Attempt, fraction: float) -> str:
    if not usable([gpu]):
        return f"  GPU {gpu.index} {gpu.name}: cut into MIG instances, left out"
    reserved = [
        f"{_gib(seat.share * gpu.memory_total_bytes // WHOLE)} by {seat.demand.name}"
        for seat in attempt.seats
        if gpu.index in (one.index for one in seat.gpus)
    ]
    budget = budgets([gpu], fraction)[gpu.index] * gpu.memory_total_bytes // WHOLE
    return (
        f"  GPU {gpu.index} {gpu.name}: total {_gib(gpu.memory_total_bytes)}, free {_gib(gpu.memory_free_bytes)}, "
        f"may be used {_gib(budget)}, reserved {' + '.join(reserved) or 'nothing'}"
    )


def _occupied(gpu: Gpu, occupants: Sequence[Occupant]) -> list[str]:
    """Who fills it, where that is more than the driver's own share."""
    used = gpu.memory_total_bytes - gpu.memory_free_bytes
    if used < NOTABLE_BYTES:
        return []
    who = ", ".join(map(str, occupants)) or "processes that this container does not see: run nvidia-smi on the host"
    return [f"    in use {_gib(used)} of {_gib(gpu.memory_total_bytes)}: {who}"]


def _demand_line(demand: Demand, count: int, left_out: bool) -> str:
    context = least_context(demand, WANTED_CONTEXTS[-1])
    needed = needed_bytes(demand, gpus=count, wanted=WANTED_CONTEXTS[-1])
    weights = weights_per_gpu(demand.info, gpus=count)
    overhead = max(need.overhead_bytes(count) for need in demand.engines)
    weights_text = _gib(weights) if demand.info.weights_bytes is not None else "unknown"
    kv_text = f"{_gib(needed - weights - overhead - demand.sleepers_bytes)} for {context} tokens"
    asleep = f" + engines asleep {_gib(demand.sleepers_bytes)}" if demand.sleepers_bytes else ""
    uneven = "" if divides(demand.info, count) else f"; its {demand.info.heads} heads cannot be shared by {count} GPUs"
    return (
        f"  {demand.name} ({demand.info.source}) {'DOES NOT FIT' if left_out else 'fits'}: "
        f"on {count} GPU{'s' if count > 1 else ''} {_gib(needed)} each = "
        f"weights {weights_text} + KV cache {kv_text} + overhead {_gib(overhead)}{asleep}{uneven}"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
