"""What is left of the GPUs once each model has the least that it needs. Pure.

Models that generate text grow: they get it in equal parts, as KV cache. Those that are loaded on request may share
memory; then the ones that fit next to each other are planned as loaded together. Those that grow leave what the others
keep while they sleep.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from berth.boot.planner.fit.gpu_request import Allocation, GpuRequest
from berth.plan import Task
from berth.room import ASLEEP_BYTES, WHOLE


def shared(allocations: Sequence[Allocation], room: Mapping[int, int]) -> list[Allocation]:
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
        left[index] -= max((taken(own)[index] for own in on_request.values()), default=0)
    growing = {gpu.index for own in on_request.values() for one in own if _grows(one.request) for gpu in one.gpus}
    always = grown(always, left, others=growing)
    used = taken(always)
    left = {index: limit - used[index] for index, limit in room.items()}
    groups: list[list[Allocation]] = []
    for own in on_request.values():
        fitting = (group for group in groups if all(n <= left[index] for index, n in taken([*group, *own]).items()))
        group = next(fitting, None)
        if group is None:
            groups.append(list(own))
        else:
            group += own
    kept = asleep(one for own in on_request.values() for one in own)
    rooms = []
    for group in groups:
        used, own_kept = taken(group), asleep(group)
        rooms.append({n: max(free - kept[n] + own_kept[n], used[n]) for n, free in left.items()})
    grown_groups = (grown(group, own_room) for group, own_room in zip(groups, rooms, strict=True))
    return [*always, *itertools.chain.from_iterable(grown_groups)]


def grown(allocations: Sequence[Allocation], room: Mapping[int, int], others: Collection[int] = ()) -> list[Allocation]:
    """With what is left of each GPU, in equal parts for those that grow. On the GPUs `others` another one grows too."""
    used, growing = taken(allocations), Counter(others)
    growing.update(gpu.index for one in allocations if _grows(one.request) for gpu in one.gpus)
    return [
        replace(one, share=one.share + min((room[n] - used[n]) // growing[n] for n in one.taken))
        if _grows(one.request)
        else one
        for one in allocations
    ]


def asleep(allocations: Iterable[Allocation]) -> Counter[int]:
    """Thousandths of each GPU that engines keep while they sleep."""
    kept = Counter[int]()
    for one in allocations:
        for gpu in one.gpus if one.request.sleeps else ():
            kept[gpu.index] += -(-ASLEEP_BYTES * WHOLE // gpu.memory_total_bytes)
    return kept


def taken(allocations: Iterable[Allocation]) -> Counter[int]:
    """Thousandths of each GPU, all of them together."""
    return sum((Counter(one.taken) for one in allocations), Counter[int]())


def _grows(request: GpuRequest) -> bool:
    """Whether the model generates text with a cache of no stated size."""
    return request.kv_cache_bytes is None and request.info.task == Task.GENERATE
