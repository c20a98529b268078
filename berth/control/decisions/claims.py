"""What models hold, or would hold, of the memory that those loaded on request share. Pure.

There are two accounts, and a model has room only if it fits by both:

1. The plan's: the share of each model, in thousandths of a GPU (or bytes of RAM).
2. The GPU's own: the bytes that the driver reports as free once others have left. It is less than the plan's where
   something else took memory since: a model that left for one that does not fit then would leave without success.

A model that sleeps holds what its engines keep, its residue: as measured, else as planned. On the CPU, and where no
GPU can be read, that is all of its share.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from berth.control.decisions.memory import EXCESS_BYTES
from berth.control.decisions.records import LIVE, Goal, Observation, Record
from berth.plan import EngineName, Importance, ModelRoute
from berth.room import ASLEEP_BYTES, WHOLE, short
from berth.state import ReplicaStatus

_S = ReplicaStatus
Bytes = Mapping[int, int]  # by GPU index

GONE = frozenset({_S.UNLOADED, _S.FAILED, _S.STOPPED})
RANK = {one: place for place, one in enumerate(Importance)}  # 0: the first one


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    planned: Mapping[int, int] = field(default_factory=dict)
    physical: Bytes = field(default_factory=dict)


def records_of(route: ModelRoute, observation: Observation) -> list[Record]:
    """Those that Berth starts."""
    return [one for one in observation.records if one.replica.name in route.replicas and not one.attached]


def is_asleep(records: Collection[Record]) -> bool:
    """Nothing of the model serves or will, until it is woken by request."""
    sleeping = [one for one in records if one.status is _S.ASLEEP]
    rest = {one.status for one in records if one not in sleeping}
    return bool(sleeping) and all(one.goal is Goal.ASLEEP for one in sleeping) and rest <= GONE | {_S.STANDBY}


def whole(route: ModelRoute, observation: Observation) -> Claim:
    """While it is loaded. vLLM refuses to start if less is free; the others take what they find."""
    is_exact = all(one.replica.engine is EngineName.VLLM for one in records_of(route, observation))
    spare = 0 if is_exact else EXCESS_BYTES
    totals = observation.gpu_bytes
    needed = {gpu: max(totals[gpu] * share // WHOLE - spare, 0) for gpu, share in route.room.items() if gpu in totals}
    return Claim(planned=route.room, physical=needed)


def asleep(route: ModelRoute, observation: Observation) -> Claim:
    """Once its engines sleep."""
    kept: dict[int, int] = {}
    for one in records_of(route, observation):
        if one.status not in GONE | {_S.STANDBY}:
            if not one.replica.gpus or not observation.gpu_bytes.keys() >= set(one.replica.gpus):
                return whole(route, observation)
            for gpu in one.replica.gpus:
                kept[gpu] = kept.get(gpu, 0) + one.gpu.residue.get(gpu, ASLEEP_BYTES)
    planned = {gpu: -(-bytes_ * WHOLE // observation.gpu_bytes[gpu]) for gpu, bytes_ in kept.items()}
    return Claim(planned={gpu: min(planned.get(gpu, 0), share) for gpu, share in route.room.items()}, physical=kept)


def present(route: ModelRoute, observation: Observation) -> Claim:
    """What a model that has memory, or is about to, holds of it."""
    records = records_of(route, observation)
    migrates = any(one.model == route.name and one.migration is not None for one in observation.operations)
    if is_asleep(records) and not migrates:  # else another engine of it is about to take the room
        return asleep(route, observation)
    found = whole(route, observation)
    live = [one for one in records if one.status in LIVE]
    if live and all(one.gpu.taken and one.status is not _S.STARTING for one in live):
        return Claim(planned=found.planned, physical=_held(live, found.physical))
    return found


def _held(live: Collection[Record], needed: Bytes) -> Bytes:
    """What they were seen to take. Much more than planned is not theirs: something else came while they loaded."""
    return {
        gpu: min(sum(one.gpu.taken.get(gpu, 0) for one in live), planned + ASLEEP_BYTES)
        for gpu, planned in needed.items()
    }


def lacking(observation: Observation, claims: Iterable[Claim], leaving: int = 0) -> tuple[int, ...]:
    """The devices that do not hold all of these. Each of those that leave may have grown since it was measured."""
    some = tuple(claims)
    by_plan = short(observation.room, [one.planned for one in some])
    allowed = {gpu: free + leaving * EXCESS_BYTES for gpu, free in observation.free_room.items()}
    on_gpus = [{gpu: bytes_ for gpu, bytes_ in one.physical.items() if gpu in allowed} for one in some]
    by_gpu = short(allowed, on_gpus)
    return tuple(sorted({*by_plan, *by_gpu}))


def physical_room(observation: Observation, used: Bytes) -> dict[int, int]:
    """Bytes of each GPU for the models that share it, if all of them left: from a reading while nothing moves there."""
    room = {}
    for gpu in used.keys() & observation.gpu_bytes.keys() & observation.room.keys() - moving(observation.records):
        held = (
            present(route, observation).physical.get(gpu, 0)
            for route in observation.routes
            if route.room and any(one.status in LIVE for one in records_of(route, observation))
        )
        room[gpu] = observation.gpu_bytes[gpu] - used[gpu] + sum(held)
    return room


def moving(records: Iterable[Record]) -> set[int]:
    """GPUs of which a replica takes or releases memory."""
    return {gpu for one in records if one.holds_lease for gpu in one.replica.gpus}
