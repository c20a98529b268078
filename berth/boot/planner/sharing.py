"""What is left of the GPUs once each model has the least that it needs. Pure.

Models that generate text grow: they get it in equal parts, as KV cache. Those that are loaded on request may share
memory; then the ones that fit next to each other are planned as loaded together.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from berth.boot.planner.gpu_request import Allocation, GpuRequest
from berth.plan import Task


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
    return [*always, *(one for group in groups for one in grown(group, left))]


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


def taken(allocations: Iterable[Allocation]) -> Counter[int]:
    """Thousandths of each GPU, all of them together."""
    return sum((Counter(one.taken) for one in allocations), Counter[int]())


def _grows(request: GpuRequest) -> bool:
    """Whether the model generates text with a cache of no stated size."""
    return request.kv_cache_bytes is None and request.info.task == Task.GENERATE
