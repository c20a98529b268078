"""Why models do not fit: the sum per GPU, the sum per model, and the smallest changes that make them fit. Pure."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from berth.boot.planner.fit.gpu_request import GPU_COUNTS, Allocation, GpuRequest, counts, divides, required_bytes
from berth.boot.planner.fit.memory import weights_per_gpu
from berth.boot.planner.fit.placement import LEAST_CONTEXTS, Attempt, best_attempt, budgets, cpu_bytes, place, usable
from berth.engines.vllm import BATCH_TOKENS
from berth.host.gpus import Occupant
from berth.plan import Gpu
from berth.room import WHOLE
from berth.units import GIB, size

SMALLEST_CONTEXT = 1024
NOTABLE_BYTES = GIB  # less in use than that is the driver's own
HIGHEST_FRACTION = 0.98
MOST_ON_REQUEST = 4  # models that are tried in combinations


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
    card = max(usable(gpus), key=lambda gpu: gpu.memory_total_bytes, default=None)
    lines += [_request_line(request, attempt, card) for request in requests]
    suggested = Changes(requests=requests, gpus=gpus, fraction=fraction).all()
    lines += ["What would fit:", *(f"  - {change}" for change in suggested)]
    return "\n".join(lines)


def cpu_report(requests: Sequence[GpuRequest], available_bytes: int) -> str:
    """The same for models that run on the CPU."""
    lines = [f"The models do not fit into memory: {size(available_bytes)} are available (a container's limit counts)."]
    for request in requests:
        required = cpu_bytes(request)
        weights = weights_per_gpu(request.info, gpus=0)
        lines.append(f"  {request.name} ({request.info.source}): {size(required)}, of these {size(weights)} weights")
    lines += ["What would fit:", "  - fewer or smaller models in BERTH_MODELS, a smaller `kv_cache`, or more memory"]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an operator can change so that everything fits; each method returns the changes of one kind that do."""

    requests: Sequence[GpuRequest]
    gpus: Sequence[Gpu]
    fraction: float

    def all(self) -> list[str]:
        """The smallest first."""
        found = [
            *self.smaller_contexts(),
            *self.smaller_caches(),
            *self.smaller_batches(),
            *self.other_counts(),
            *self.loads_on_request(),
            *self.higher_fraction(),
            *self.freed_memory(),
        ]
        return found or [
            *self.more_gpus(),
            *self.fewer_models(),
            "a smaller or quantised model (FP8 halves the weights, 4 bits quarter them)",
        ]

    def smaller_contexts(self) -> list[str]:
        found = []
        for position, request in enumerate(self.requests):
            allocations = self._placed(position, replace(request, context=None))
            tokens = allocations[position].context if allocations else SMALLEST_CONTEXT
            if self._placed(position, replace(request, context=tokens)):
                found.append(f"{request.name}: context: {tokens}")
        return found

    def smaller_caches(self) -> list[str]:
        return [
            f"{request.name}: without `kv_cache`, which Berth then chooses"
            for position, request in enumerate(self.requests)
            if request.kv_cache_bytes is not None and self._placed(position, replace(request, kv_cache_bytes=None))
        ]

    def smaller_batches(self) -> list[str]:
        """Of models whose overhead depends on the size of vLLM's batches."""
        found = []
        for position, request in enumerate(self.requests):
            small = tuple(replace(one, batch_tokens=one.batch_tokens or BATCH_TOKENS) for one in request.cache)
            changes = request.info.quantization == "mxfp4" and small != request.cache
            if changes and self._placed(position, replace(request, cache=small)):
                found.append(f"{request.name}: vllm: {{args: [--max-num-batched-tokens={BATCH_TOKENS}]}}")
        return found

    def other_counts(self) -> list[str]:
        """Other numbers of the available GPUs, for models whose GPUs the user chose."""
        found = []
        for position, request in enumerate(self.requests):
            if request.gpus is None:
                continue
            allocations = self._placed(position, replace(request, gpus=None))
            if allocations:
                found.append(f"{request.name}: gpus: {len(allocations[position].gpus)}")
        return found

    def loads_on_request(self) -> list[str]:
        """The fewest models that share memory if they are loaded on request."""
        names = dict.fromkeys(one.model for one in self.requests if not (one.on_request or one.pin))
        shared = any(one.on_request for one in self.requests)
        for count in range(1 if shared else 2, min(len(names), MOST_ON_REQUEST) + 1):
            for chosen in itertools.combinations(names, count):
                changed = [replace(one, on_request=True) if one.model in chosen else one for one in self.requests]
                if place(changed, self.gpus, self.fraction):
                    return [f"{', '.join(chosen)}: load: on_request, so that they are loaded in turn, by requests"]
        return []

    def higher_fraction(self) -> list[str]:
        for percent in range(math.floor(self.fraction * 100) + 1, math.floor(HIGHEST_FRACTION * 100) + 1):
            if place(self.requests, self.gpus, percent / 100):
                return [f"BERTH_GPU_MEMORY_FRACTION={percent / 100:.2f}"]
        return []

    def freed_memory(self) -> list[str]:
        """Whether the memory that other processes hold is what is missing."""
        empty = [replace(gpu, memory_free_bytes=gpu.memory_total_bytes) for gpu in self.gpus]
        if not place(self.requests, empty, self.fraction):
            return []
        used = {gpu.index: gpu.memory_total_bytes - gpu.memory_free_bytes for gpu in self.gpus}
        notable = {index: bytes_ for index, bytes_ in used.items() if bytes_ >= NOTABLE_BYTES}
        where = ", ".join(map(str, notable))
        held = size(sum(notable.values()))
        return [f"ending the other processes that hold {held} on GPU {where} (see nvidia-smi)"] if notable else []

    def more_gpus(self) -> list[str]:
        """The same host with more GPUs of its largest kind."""
        whole = usable(self.gpus)
        largest = max(whole, key=lambda gpu: gpu.memory_total_bytes, default=None)
        if largest is None:
            return []
        freed = [
            replace(request, gpus=None) if isinstance(request.gpus, int) and request.gpus > len(whole) else request
            for request in self.requests
        ]
        extra: list[Gpu] = []
        for more in range(1, 2 * max(GPU_COUNTS)):
            free_bytes = largest.memory_total_bytes
            extra.append(replace(largest, index=-more, uuid=f"GPU-more-{more}", memory_free_bytes=free_bytes))
            if place(freed, [*self.gpus, *extra], self.fraction):
                return [f"{len(whole) + more} GPUs like {largest.name} ({size(largest.memory_total_bytes)})"]
        return []

    def fewer_models(self) -> list[str]:
        if len(self.requests) == 1:
            return []
        return [
            f"without {request.name}"
            for position, request in enumerate(self.requests)
            if place([*self.requests[:position], *self.requests[position + 1 :]], self.gpus, self.fraction)
        ]

    def _placed(self, position: int, request: GpuRequest) -> tuple[Allocation, ...] | None:
        """The allocations with this request in place of another."""
        requests = [*self.requests[:position], request, *self.requests[position + 1 :]]
        return place(requests, self.gpus, self.fraction)


def _gpu_lines(gpu: Gpu, attempt: Attempt, fraction: float, occupants: Sequence[Occupant]) -> list[str]:
    """The budget of a GPU, and the processes on it where they hold more than the driver's own memory."""
    if not usable([gpu]):
        return [f"  GPU {gpu.index} {gpu.name}: MIG is on, without an instance: not used"]
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


def _request_line(request: GpuRequest, attempt: Attempt, largest: Gpu | None) -> str:
    """The sum for the GPUs that it got, else for the fewest like the largest that it can be split over."""
    allocated = [len(one.gpus) for one in attempt.allocations if one.request.name == request.name]
    count = (*allocated, *counts(request), 1)[0]
    card = next((one.card for one in attempt.allocations if one.request.name == request.name), largest)
    context = request.least_context(LEAST_CONTEXTS[-1])
    required = required_bytes(request, gpus=count, preferred=LEAST_CONTEXTS[-1], card=card)
    weights = weights_per_gpu(request.info, gpus=count)
    overhead = request.fixed_bytes(gpus=count, card=card) - weights
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
