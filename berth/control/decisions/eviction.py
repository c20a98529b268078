"""Room for models that are loaded on request and do not all fit at the same time, pure.

1. Operations that load or wake such models get room by the priority of their models, and then in the order in which
   they were requested. Until there is room for a model, nothing of it starts.
2. If there is none, models make room: as few as suffice, least recently used first. Those without requests for QUIET_S
   go first; models in use go when the load has waited for `max_wait`, and end their requests before.
3. Neither a pinned model goes, nor one that is always loaded, nor one that is being loaded or changed.
4. A model of lower priority leaves at once, whatever rule 5 says; one of higher priority leaves once it has had no
   request for YIELDS_S, and not before.
5. A model stays for `min_residency` once it is ready. One that is in use stays for at least STAYS times what its last
   load took: two models that alternate do not spend their time loading.
6. What a sleeping model keeps is released for one that comes before it, even if it is to be woken afterwards.
7. A model sleeps instead of being unloaded where that is possible and pays: see `sleepers`. While others release RAM
   for its weights, it stays.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from berth.control.decisions import claims, sleepers
from berth.control.decisions.claims import GONE, RANK, Claim, records_of
from berth.control.decisions.memory import EXCESS_BYTES
from berth.control.decisions.records import Goal, Observation
from berth.ipc.operations import Action, Operation
from berth.plan import Importance, ModelRoute
from berth.room import named, short
from berth.state import ReplicaStatus

_S = ReplicaStatus

TAKES_ROOM = frozenset({Action.LOAD, Action.WAKE, Action.RESTART, Action.SCALE, Action.LEASE})
BY_SWAP = "a swap"  # who requests that a model leaves; followed by the model that gets the room
QUIET_S = 3.0
YIELDS_S = 15.0
STAYS = 3.0
MOST_SEARCHED = 10  # models of which all combinations are tried
_SETTLED = GONE | {_S.READY, _S.ASLEEP, _S.STANDBY, _S.BACKOFF}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of one model."""

    waiting: int  # requests without a replica
    last_used_at: float  # on time.monotonic()'s clock: now, while it has requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    now: float  # on time.monotonic()'s clock
    wall: float  # Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    model: str  # leaves
    other: str  # gets its room
    sleeps: bool  # else it is unloaded
    why: str = field(default="", compare=False)  # so, for people
    waits: bool = False  # until others have released RAM for its weights
    ram_for: str = ""  # it sleeps, and is unloaded for its RAM, which this model gets


def holds(route: ModelRoute, observation: Observation) -> bool:
    """It has, or is about to have, memory."""
    return any(one.status not in GONE or not one.cleaned_up for one in records_of(route, observation))


def absent(observation: Observation) -> Iterator[tuple[Operation, ModelRoute]]:
    """The operations that load a model which has no room yet, in the order in which they get it."""
    sharing = {route.name: route for route in observation.routes if route.room}
    operations = [one for one in observation.operations if one.model in sharing]
    for operation in sorted(operations, key=lambda one: RANK[sharing[one.model].priority]):
        route = sharing[operation.model]
        is_to_run = operation.kept or operation.action is not Action.LEASE
        if operation.action not in TAKES_ROOM or not is_to_run:
            continue
        # also while its own memory is still being released: it does not overtake those that wait for it
        records = records_of(route, observation)
        is_gone = operation.action is not Action.WAKE and all(one.status in GONE for one in records)
        if is_gone or claims.is_asleep(records):
            yield operation, route


def without_room(observation: Observation) -> tuple[ModelRoute, ...]:
    """The models that are to be loaded, and have to wait for others to leave."""
    if not observation.room:
        return ()
    taking = _present(observation)
    found = []
    for _operation, route in absent(observation):
        # also for one that has to wait: those behind it do not take its room
        taking[route.name] = claims.whole(route, observation)
        if route.room.keys() & claims.lacking(observation, taking.values()):
            found.append(route)
    return tuple(found)


def must_wait(operation: Operation, observation: Observation) -> bool:
    if not observation.room or operation.action not in TAKES_ROOM:
        return False
    return any(route.name == operation.model for route in without_room(observation))


def holders(observation: Observation) -> list[ModelRoute]:
    return [route for route in observation.routes if route.room and holds(route, observation)]


def _present(observation: Observation) -> dict[str, Claim]:
    return {route.name: claims.present(route, observation) for route in holders(observation)}


def blocker(route: ModelRoute, observation: Observation, pinned: Collection[str]) -> str:
    """Why a model cannot be loaded whatever the others do: who holds its room. "": it can."""
    devices, names = blocked(route, observation, pinned)
    return f"{named(devices)}: held by {', '.join(names)}, pinned" if devices else ""


def blocked(route: ModelRoute, observation: Observation, pinned: Collection[str]) -> tuple[list[int], list[str]]:
    """The devices on which pinned models leave no room for it, and the names of those models."""
    if not _is_to_come(route, observation):
        return [], []
    staying = [one for one in holders(observation) if one.name in pinned and one is not route]
    lacking = short(observation.room, [one.room for one in (*staying, route)])
    devices = [device for device in lacking if device in route.room]
    return devices, [one.name for one in staying if one.room.keys() & devices]


def shut_out(route: ModelRoute, observation: Observation, pinned: Collection[str]) -> Mapping[int, int]:
    """The bytes by GPU that are missing for a model even if all others leave that can: something else holds them."""
    if not _is_to_come(route, observation) or not observation.free_room:
        return {}
    present = {name: claim for name, claim in _present(observation).items() if name != route.name}
    staying = [claim for name, claim in present.items() if name in pinned]
    allowed = EXCESS_BYTES * (len(present) - len(staying))
    left = dict(observation.free_room)
    for claim in (*staying, claims.whole(route, observation)):
        left = {gpu: bytes_ - claim.physical.get(gpu, 0) for gpu, bytes_ in left.items()}
    return {gpu: -bytes_ for gpu, bytes_ in left.items() if gpu in route.room and bytes_ + allowed < 0}


def _is_to_come(route: ModelRoute, observation: Observation) -> bool:
    """It needs room that it does not hold."""
    if not route.room or not observation.room:
        return False
    return not holds(route, observation) or claims.is_asleep(records_of(route, observation))


def awaited(route: ModelRoute, observation: Observation) -> str:
    """Whose room a model waits for, for people."""
    others = ", ".join(sharers(route, observation))
    return f"{named(route.room)}: held by {others or 'models that are to be loaded first'}"


def sharers(route: ModelRoute, observation: Observation) -> list[str]:
    """The models that hold memory on its devices."""
    return [one.name for one in holders(observation) if one.room.keys() & route.room.keys()]


def evictions(
    observation: Observation, demands: Mapping[str, Demand], pinned: Collection[str], moment: Moment
) -> Iterator[Eviction]:
    """The models that are to leave now, each with the model that gets its room."""
    running = {one.model for one in observation.operations}
    staying = _staying(observation)
    last_used_at = {name: one.last_used_at for name, one in demands.items()}
    ram = sleepers.account(observation, last_used_at, moment.now)
    coming = tuple(absent(observation))
    for _operation, route in coming:
        staying.pop(route.name, None)
    for operation, route in coming:
        free = [
            one
            for one in observation.routes
            if one.name in staying
            and one.name not in pinned
            and one.name not in running
            and may_leave(one, observation, demands, moment.now, priority=route.priority)
        ]
        free.sort(key=lambda one: (-RANK[one.priority], demands[one.name].last_used_at))
        rank = RANK[route.priority]
        quiet = [one for one in free if RANK[one.priority] > rank or _is_quiet(demands[one.name], moment.now)]
        in_use = free if moment.wall - operation.created_at >= route.max_wait_s else []
        staying[route.name] = claims.whole(route, observation)
        fits = partial(_fits, route, staying, observation)
        gone = next((some for some in (fewest(each, fits) for each in (quiet, in_use)) if some is not None), ())
        others = sleepers.candidates(observation, {*pinned, *(one.name for _, one in coming)})
        leaving, ram = _ways(route, gone, others, fits, ram)
        yield from leaving
        for one in gone:
            del staying[one.name]
        asleep = {one.model for one in leaving if one.sleeps}
        staying |= {one.name: claims.asleep(one, observation) for one in gone if one.name in asleep}


def _ways(
    route: ModelRoute,
    gone: Sequence[ModelRoute],
    others: Sequence[ModelRoute],
    fits: Callable[[Collection[ModelRoute], Mapping[str, Claim]], bool],
    ram: sleepers.Account,
) -> tuple[list[Eviction], sleepers.Account]:
    """How each of those leaves that make room for a model, and what RAM is left then."""
    found: list[Eviction] = []
    asleep: dict[str, Claim] = {}
    others = [one for one in others if one not in gone]
    for one in reversed(gone):  # the most recently used is the likeliest to be woken
        kept = {**asleep, one.name: claims.asleep(one, ram.observation)}
        leave = sleepers.leave(one, ram, others)
        if not (leave.sleeps and fits(gone, kept)):
            why = f"what it keeps asleep does not fit next to {route.name}" if leave.sleeps else leave.why
            found.append(Eviction(model=one.name, other=route.name, sleeps=False, why=why))
            continue
        asleep, ram = kept, replace(ram, free_bytes=ram.free_bytes - leave.ram_bytes)
        others = [other for other in others if other not in leave.given_up]
        found += [
            Eviction(model=other.name, other=route.name, sleeps=False, ram_for=one.name) for other in leave.given_up
        ]
        found.append(Eviction(model=one.name, other=route.name, sleeps=True, why=leave.why, waits=leave.waits))
    return found[::-1], ram


def _staying(observation: Observation) -> dict[str, Claim]:
    """What models hold that do not leave, and what those that fall asleep will hold: whatever is requested of them
    meanwhile, they are loaded or woken again only afterwards.
    """
    actions = {one.model: one.action for one in observation.operations}
    found = {}
    for route in holders(observation):
        rest = [one for one in records_of(route, observation) if one.status not in GONE]
        action, goals = actions.get(route.name), {one.goal if one.status is not _S.WAKING else None for one in rest}
        if action is not Action.UNLOAD and not goals <= {Goal.UNLOADED}:
            falls_asleep = action is Action.SLEEP or goals <= {Goal.UNLOADED, Goal.ASLEEP}
            found[route.name] = (claims.asleep if falls_asleep else claims.present)(route, observation)
    return found


def in_the_way(model: str, observation: Observation) -> bool:
    """It sleeps and waits behind another one, which has room once those behind it have released what they keep."""
    coming = [route for _operation, route in absent(observation)]
    names = [route.name for route in coming]
    taking = _present(observation)
    for place, route in enumerate(coming[: names.index(model)] if model in names else ()):
        taking[route.name] = claims.whole(route, observation)
        rest = [claim for name, claim in taking.items() if name not in names[place + 1 :]]
        if route.room.keys() & claims.lacking(observation, taking.values()):
            return not route.room.keys() & claims.lacking(observation, rest)
    return False


def is_awaited(replica: str, observation: Observation) -> bool:
    """Another model is to get its room."""
    routes = [route for route in observation.routes if replica in route.replicas]
    return any(route.room.keys() & other.room.keys() for other in without_room(observation) for route in routes)


def would_leave(
    operation: Operation, observation: Observation, last_used_at: Mapping[str, float], pinned: Collection[str]
) -> tuple[Eviction, ...]:
    """The models that make room for what an operation loads, as if it had waited until none of them has to stay."""
    if not observation.room:
        return ()
    demands = {name: Demand(waiting=0, last_used_at=at) for name, at in last_used_at.items()}
    found = evictions(observation, demands, pinned, Moment(now=math.inf, wall=math.inf))
    return tuple(one for one in found if one.other == operation.model)


def may_leave(
    route: ModelRoute,
    observation: Observation,
    demands: Mapping[str, Demand],
    now: float,
    *,
    priority: Importance = Importance.NORMAL,
) -> bool:
    """For a model of this priority."""
    records = records_of(route, observation)
    not_free = observation.not_free  # what waits for memory that others hold does not keep its room
    if route.name not in demands or any(
        one.status not in _SETTLED and not (one.status is _S.WAITING and one.replica.name in not_free)
        for one in records
    ):
        return False
    if RANK[route.priority] > RANK[priority]:
        return True
    if RANK[route.priority] < RANK[priority] and not _is_quiet(demands[route.name], now, YIELDS_S):
        return False
    stays_s = route.min_residency_s
    if not _is_quiet(demands[route.name], now):
        stays_s = max(stays_s, *(STAYS * (one.load_s or 0.0) for one in records))
    return all(now - one.since >= stays_s for one in records if one.status is _S.READY)


def _fits(
    route: ModelRoute,
    staying: Mapping[str, Claim],
    observation: Observation,
    gone: Collection[ModelRoute],
    asleep: Mapping[str, Claim] | None = None,
) -> bool:
    names = {one.name for one in gone}
    rest = [*(claim for name, claim in staying.items() if name not in names), *(asleep or {}).values()]
    return not route.room.keys() & claims.lacking(observation, rest, leaving=len(names))


def _is_quiet(demand: Demand, now: float, seconds: float = QUIET_S) -> bool:
    return not demand.waiting and now - demand.last_used_at >= seconds


def fewest(
    candidates: Sequence[ModelRoute], fits: Callable[[Sequence[ModelRoute]], bool]
) -> tuple[ModelRoute, ...] | None:
    """The fewest that suffice, of equally many the least recently used. None: even all of them do not."""
    if not fits(candidates):
        return None
    chosen = tuple(candidates)
    if len(candidates) > MOST_SEARCHED:
        for one in reversed(candidates):  # the most recently used stay first
            rest = tuple(other for other in chosen if other is not one)
            chosen = rest if fits(rest) else chosen
        return chosen
    combinations = (some for count in range(len(candidates)) for some in itertools.combinations(candidates, count))
    return next((some for some in combinations if fits(some)), chosen)
