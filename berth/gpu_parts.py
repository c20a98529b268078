"""What the memory of a GPU is used for: a pure function of the Plan and the State.

By plan are the weights, the KV cache and the rest (graphs, activations, context) of each engine that holds its memory;
where an engine was seen to take another sum, the rest is the difference. What is used beyond that is foreign: it
belongs to processes that are none of Berth's, or an engine has grown. It is unknown while an engine comes or goes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from berth.plan import Plan, Replica
from berth.state import GpuState, ReplicaState, ReplicaStatus, State

_S: Final = ReplicaStatus
_HOLDING: Final = frozenset({_S.READY, _S.DRAINING, _S.UNHEALTHY, _S.FALLING_ASLEEP})
_CHANGING: Final = frozenset({_S.STARTING, _S.WAKING, _S.STOPPING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Of one engine, in bytes."""

    replica: str
    weights: int
    kv: int
    rest: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.rest


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuParts:
    engines: tuple[Part, ...]
    foreign: int | None  # bytes; None: unknown


def parts(plan: Plan, state: State, gpu: GpuState) -> GpuParts:
    statuses = {one.name: one for one in state.replicas}
    found, known = [], True
    for replica in plan.replicas:
        status = statuses.get(replica.name)
        if status is None or gpu.index not in replica.gpus:
            continue
        part = part_of(replica, status, state.gpu_memory.get(replica.name, {}), gpu.index)
        if part is not None:
            found.append(part)
        elif status.status in _HOLDING or status.status in _CHANGING or status.status is _S.ASLEEP:
            known = False
    rest = gpu.memory_used_bytes - sum(part.total for part in found)
    return GpuParts(engines=tuple(found), foreign=max(rest, 0) if known else None)


def part_of(replica: Replica, status: ReplicaState, taken: Mapping[int, int], index: int) -> Part | None:
    """None: it holds nothing, or an unknown amount."""
    seen, planned = taken.get(index), replica.memory
    if status.status is _S.ASLEEP:
        return None if seen is None else Part(replica=replica.name, weights=0, kv=0, rest=seen)
    if status.status not in _HOLDING or planned is None:
        return None
    # The larger one: what is planned and not used yet is the engine's too.
    rest = planned.overhead_bytes + (0 if seen is None else max(seen - planned.total_bytes, 0))
    return Part(replica=replica.name, weights=planned.weights_bytes, kv=planned.kv_bytes, rest=rest)
