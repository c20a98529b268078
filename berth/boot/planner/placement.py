"""Which model goes on which GPUs, and how much of each GPU it may use. Pure.

Memory is dealt out in thousandths of a GPU, which is what the engines' options can express, so sums are exact. A GPU's
budget is BERTH_GPU_MEMORY_FRACTION of its memory, or what is free if that is less. The rules, in this order:

1. Models tied to certain GPUs come first, then the largest; models whose size is not known come last.
2. A model gets the fewest GPUs that hold its weights, its engine's overhead and one sequence of its context. Several
   GPUs for one model are of one kind, unless the user named them.
3. Models are spread over the GPUs. Where that does not work out they are packed; where that does not either, a model
   without a stated context makes do with a small one.
4. What is left of a GPU becomes KV cache, in equal parts for the models that generate text.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.planner.memory import estimate, kv_bytes_for, kv_bytes_per_token, largest_context, weights_per_gpu
from berth.host.gpus import named
from berth.plan import EngineName, Gpu, MemoryEstimate, Task

WHOLE = 1000  # thousandths
GPU_COUNTS = (1, 2, 4, 8, 16)
UNKNOWN_CONTEXT = 8192  # where neither the user nor config.json says
WANTED_CONTEXTS = (8192, 2048)  # a model without a stated context gets at least this, in order of preference
EMBEDDING_SEQUENCES = 8  # that many inputs at once, and no more KV cache than they take
CPU_CONTEXT = 8192
CPU_KV_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNeed:
    """An engine of a model's order, and what it takes per GPU beside weights and KV cache."""

    engine: EngineName
    overhead_bytes: Callable[[int], int]  # of the number of GPUs; 0 is the CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A model that wants memory. Its engines take turns on the same GPUs, so the hungriest of them counts."""

    name: str  # "chat", or "chat (sglang)" where several run at once
    info: ModelInfo
    engines: tuple[EngineNeed, ...]
    gpus: int | tuple[int | str, ...] | None = None
    context: int | None = None
    kv_cache_bytes: int | None = None  # per GPU
    sleepers_bytes: int = 0  # per GPU: what those of the engines keep of it that sleep while one works


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A demand with its GPUs. `share` is in thousandths of each of them."""

    demand: Demand
    gpus: tuple[Gpu, ...]
    share: int
    wanted_context: int  # what a model without a stated context counted with

    @property
    def bytes_per_gpu(self) -> int:
        return self.share * min(gpu.memory_total_bytes for gpu in self.gpus) // WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What a demand gets. `estimates` has one entry per engine of the demand."""

    gpus: tuple[Gpu, ...]  # empty: the CPU
    memory_fraction: float | None  # of each GPU's memory, everything included
    context: int
    estimates: tuple[MemoryEstimate | None, ...]  # None: the model's size is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Who found a place, and who did not."""

    seats: tuple[Seat, ...]
    left_out: tuple[Demand, ...]


def usable(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """A GPU cut into MIG instances cannot be used as a whole."""
    return tuple(gpu for gpu in gpus if not gpu.mig and gpu.memory_total_bytes > 0)


def budgets(gpus: Iterable[Gpu], fraction: float) -> dict[int, int]:
    """Thousandths of each GPU that may be dealt out, by its index."""
    allowed = int(fraction * WHOLE + 1e-6)
    return {gpu.index: min(allowed, gpu.memory_free_bytes * WHOLE // gpu.memory_total_bytes) for gpu in gpus}


def place(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> tuple[Placed, ...] | None:
    """A place for every demand, in their order; None where they do not all fit."""
    attempt = seat(demands, gpus, fraction)
    if attempt.left_out:
        return None
    grown = _grown(attempt.seats, budgets(usable(gpus), fraction))
    by_name = {seat.demand.name: seat for seat in grown}
    return tuple(_placed(by_name[demand.name]) for demand in demands)


def seat(demands: Sequence[Demand], gpus: Sequence[Gpu], fraction: float) -> Attempt:
    """The first arrangement that seats all; else the one that seats the most."""
    attempts, whole = [], usable(gpus)
    for wanted, spread in itertools.product(WANTED_CONTEXTS, (True, False)):
        attempt = _arranged(demands, whole, budgets(whole, fraction), wanted, spread=spread)
        if not attempt.left_out:
            return attempt
        attempts.append(attempt)
    return max(reversed(attempts), key=lambda attempt: len(attempt.seats))  # of equals the least demanding


def counts(demand: Demand) -> tuple[int, ...]:
    """Numbers of GPUs that this model can be cut into, fewest first."""
    if isinstance(demand.gpus, tuple):
        return (len(demand.gpus),)
    if demand.gpus is not None:
        return (demand.gpus,)
    if demand.info.encoder_only:
        return GPU_COUNTS[:1]
    return tuple(count for count in GPU_COUNTS if divides(demand.info, count))


def divides(info: ModelInfo, count: int) -> bool:
    """Whether the attention heads can be shared out evenly; KV heads are copied where there are more GPUs."""
    kv_heads = info.kv_heads or 1
    return (info.heads or count) % count == 0 and (kv_heads % count == 0 or count % kv_heads == 0)


def least_context(demand: Demand, wanted: int) -> int:
    """Tokens that must fit at the least."""
    limit = demand.info.max_position or UNKNOWN_CONTEXT
    return demand.context or min(limit, wanted)


def needed_bytes(demand: Demand, *, gpus: int, wanted: int) -> int:
    """What the demand must have on each of `gpus` GPUs, with the hungriest of its engines."""
    overhead = max(need.overhead_bytes(gpus) for need in demand.engines)
    weights, kv_bytes = weights_per_gpu(demand.info, gpus=gpus), _needed_kv(demand, gpus=gpus, wanted=wanted)
    return weights + kv_bytes + overhead + demand.sleepers_bytes


def place_on_cpu(demands: Sequence[Demand], available_bytes: int) -> tuple[Placed, ...] | None:
    """All of them side by side in the machine's memory; None where they do not fit."""
    placed = tuple(on_cpu(demand) for demand in demands)
    return placed if sum(cpu_bytes(one) for one in placed) <= available_bytes else None


def on_cpu(demand: Demand) -> Placed:
    """On the CPU a small KV cache is enough: it is too slow for many requests at once."""
    context, kv_bytes = demand.context, demand.kv_cache_bytes
    if kv_bytes is None:
        kv_bytes = max(CPU_KV_BYTES, kv_bytes_for(demand.info, gpus=0, context=context) if context else 0)
    if context is None:
        room = largest_context(demand.info, gpus=0, kv_bytes=kv_bytes, default=UNKNOWN_CONTEXT)
        context = min(CPU_CONTEXT, room)
    estimates = tuple(_estimate(demand, need, gpus=0, kv_bytes=kv_bytes) for need in demand.engines)
    return Placed(gpus=(), memory_fraction=None, context=context, estimates=estimates)


def cpu_bytes(placed: Placed) -> int:
    """Memory of the machine that the hungriest engine takes."""
    return max((one.total_bytes for one in placed.estimates if one), default=0)


def _arranged(
    demands: Sequence[Demand], gpus: Sequence[Gpu], budget: Mapping[int, int], wanted: int, *, spread: bool
) -> Attempt:
    left = dict(budget)
    seats, left_out = [], []
    for demand in sorted(demands, key=lambda one: _precedence(one, wanted)):
        found = _seated(demand, gpus, budget, left, wanted, spread=spread)
        if found is None:
            left_out.append(demand)
            continue
        seats.append(found)
        for gpu in found.gpus:
            left[gpu.index] -= found.share
    return Attempt(seats=tuple(seats), left_out=tuple(left_out))


def _precedence(demand: Demand, wanted: int) -> tuple[bool, bool, int]:
    fewest = min(counts(demand), default=1)
    size = needed_bytes(demand, gpus=fewest, wanted=wanted) * fewest
    return not isinstance(demand.gpus, tuple), demand.info.weights_bytes is None, -size


def _seated(
    demand: Demand,
    gpus: Sequence[Gpu],
    budget: Mapping[int, int],
    left: Mapping[int, int],
    wanted: int,
    *,
    spread: bool,
) -> Seat | None:
    """The fewest GPUs that do; among those the emptiest (`spread`) or the fullest."""

    def rank(gpu: Gpu) -> tuple[int, int]:
        room = left[gpu.index] * gpu.memory_total_bytes
        return -room if spread else room, gpu.index

    for count in counts(demand):
        choices = []
        for kind in _kinds(demand, gpus):
            share = max(_share(demand, gpu, count, budget, wanted) for gpu in kind)
            free = sorted((gpu for gpu in kind if share <= left[gpu.index]), key=rank)[:count]
            if len(free) == count:
                choices.append((rank(free[0]), share, tuple(sorted(free, key=lambda gpu: gpu.index))))
        if choices:
            _rank, share, chosen = min(choices, key=lambda choice: choice[0])
            return Seat(demand=demand, gpus=chosen, share=share, wanted_context=wanted)
    return None


def _kinds(demand: Demand, gpus: Sequence[Gpu]) -> list[list[Gpu]]:
    """GPUs that may work together: those that the user named, else all of one kind."""
    if isinstance(demand.gpus, tuple):
        chosen = [gpu for name in demand.gpus if (gpu := named(gpus, name))]
        return [chosen] if chosen else []
    kinds: dict[tuple[str, int], list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu.name, gpu.memory_total_bytes), []).append(gpu)
    return list(kinds.values())


def _share(demand: Demand, gpu: Gpu, count: int, budget: Mapping[int, int], wanted: int) -> int:
    """Thousandths of this GPU that the demand must have; all that may be dealt out where its size is not known."""
    needed = needed_bytes(demand, gpus=count, wanted=wanted)
    share = -(-needed * WHOLE // gpu.memory_total_bytes)
    return max(share, budget[gpu.index]) if demand.info.weights_bytes is None else share


def _needed_kv(demand: Demand, *, gpus: int, wanted: int) -> int:
    sequences = 1 if demand.info.task == Task.GENERATE else EMBEDDING_SEQUENCES
    needed = kv_bytes_for(demand.info, gpus=gpus, context=least_context(demand, wanted), sequences=1)
    if demand.kv_cache_bytes is not None:
        return max(demand.kv_cache_bytes, needed)
    return needed * sequences


def _grown(seats: Sequence[Seat], budget: Mapping[int, int]) -> list[Seat]:
    """Deals out what is left of the GPUs."""
    growing = [seat for seat in seats if _grows(seat.demand)]
    left = dict(budget)
    for seat in seats:
        for gpu in seat.gpus:
            left[gpu.index] -= seat.share
    parts = {index: sum(index in (gpu.index for gpu in seat.gpus) for seat in growing) for index in left}
    return [
        replace(seat, share=seat.share + min(left[gpu.index] // parts[gpu.index] for gpu in seat.gpus))
        if seat in growing
        else seat
        for seat in seats
    ]


def _grows(demand: Demand) -> bool:
    return demand.kv_cache_bytes is None and demand.info.task == Task.GENERATE


def _placed(seat: Seat) -> Placed:
    demand, count = seat.demand, len(seat.gpus)
    estimates = tuple(_estimate(demand, need, gpus=count, kv_bytes=_kv_bytes(seat, need)) for need in demand.engines)
    rooms = [
        largest_context(demand.info, gpus=count, kv_bytes=_kv_bytes(seat, need), default=UNKNOWN_CONTEXT)
        for need in demand.engines
    ]
    least = least_context(demand, seat.wanted_context)
    known = demand.context is None and demand.info.weights_bytes is not None
    context = max(min(rooms), least) if known else least
    asleep = -(-demand.sleepers_bytes * WHOLE // min(gpu.memory_total_bytes for gpu in seat.gpus))
    return Placed(gpus=seat.gpus, memory_fraction=(seat.share - asleep) / WHOLE, context=context, estimates=estimates)


def _kv_bytes(seat: Seat, need: EngineNeed) -> int:
    """What the seat leaves for the KV cache beside this engine's overhead; an encoder keeps none."""
    demand, count = seat.demand, len(seat.gpus)
    if kv_bytes_per_token(demand.info, gpus=count) == 0:
        return 0
    if demand.kv_cache_bytes is not None:
        return _needed_kv(demand, gpus=count, wanted=seat.wanted_context)
    taken = weights_per_gpu(demand.info, gpus=count) + need.overhead_bytes(count) + demand.sleepers_bytes
    return max(seat.bytes_per_gpu - taken, 0)


def _estimate(demand: Demand, need: EngineNeed, *, gpus: int, kv_bytes: int) -> MemoryEstimate | None:
    if demand.info.weights_bytes is None:
        return None
    overhead = need.overhead_bytes(gpus)
    return estimate(demand.info, gpus=gpus, kv_bytes=kv_bytes, overhead_bytes=overhead, default_context=UNKNOWN_CONTEXT)
