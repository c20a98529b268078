"""Room for models that are loaded on request and do not all fit at the same time, pure.

1. Operations that load such models get room by the priority of their models, and then in the order in which they were
   requested. Until there is room for a model, nothing of it starts.
2. If there is none, models make room: as few as suffice, least recently used first. Those without requests for QUIET_S
   go first; models in use go when the load has waited for `max_wait`, and end their requests before.
3. Neither a pinned model goes, nor one that is always loaded, nor one that is being loaded or changed.
4. A model of lower priority leaves at once, whatever rule 5 says; one of higher priority leaves once it has had no
   request for YIELDS_S, and not before.
5. A model stays for `min_residency` once it is ready. One that is in use stays for at least STAYS times what its last
   load took: two models that alternate do not spend their time loading.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from berth.control.decisions.records import Goal, Observation, Record
from berth.operations import Action, Operation
from berth.plan import Importance, ModelRoute
from berth.room import named, short
from berth.state import ReplicaStatus

_S = ReplicaStatus

TAKES_ROOM = frozenset({Action.LOAD, Action.RESTART, Action.SCALE, Action.LEASE})
QUIET_S = 3.0
YIELDS_S = 15.0
STAYS = 3.0
MOST_SEARCHED = 12  # models of which all combinations are tried
_RANK = {one: place for place, one in enumerate(Importance)}
_GONE = frozenset({_S.UNLOADED, _S.FAILED, _S.STOPPED})
_SETTLED = _GONE | {_S.READY, _S.ASLEEP, _S.STANDBY, _S.BACKOFF}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of one model."""

    waiting: int  # requests without a replica
    last_used_at: float  # on time.monotonic()'s clock: now, while it has requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    now: float  # on time.monotonic()'s clock
    wall: float  # Unix seconds


def records_of(route: ModelRoute, observation: Observation) -> list[Record]:
    """Those that Berth starts."""
    return [one for one in observation.records if one.replica.name in route.replicas and not one.attached]


def holds(route: ModelRoute, observation: Observation) -> bool:
    """It has, or is about to have, memory."""
    return any(one.status not in _GONE or not one.cleaned_up for one in records_of(route, observation))


def absent(observation: Observation) -> Iterator[tuple[Operation, ModelRoute]]:
    """The operations that load a model which has no room yet, in the order in which they get it."""
    sharing = {route.name: route for route in observation.routes if route.room}
    operations = [one for one in observation.operations if one.model in sharing]
    for operation in sorted(operations, key=lambda one: _RANK[sharing[one.model].priority]):
        route = sharing[operation.model]
        is_to_run = operation.kept or operation.action is not Action.LEASE
        if operation.action not in TAKES_ROOM or not is_to_run:
            continue
        # also while its own memory is still being released: it does not overtake those that wait for it
        if all(one.status in _GONE for one in records_of(route, observation)):
            yield operation, route


def without_room(observation: Observation) -> tuple[ModelRoute, ...]:
    """The models that are to be loaded, and have to wait for others to leave."""
    if not observation.room:
        return ()
    taking = holders(observation)
    found = []
    for _operation, route in absent(observation):
        taking.append(route)  # also one that has to wait: those behind it do not take its room
        if route.room.keys() & short(observation.room, taking):
            found.append(route)
    return tuple(found)


def must_wait(operation: Operation, observation: Observation) -> bool:
    if not observation.room or operation.action not in TAKES_ROOM:
        return False
    return any(route.name == operation.model for route in without_room(observation))


def holders(observation: Observation) -> list[ModelRoute]:
    return [route for route in observation.routes if route.room and holds(route, observation)]


def blocker(route: ModelRoute, observation: Observation, pinned: Collection[str]) -> str:
    """Why a model cannot be loaded whatever the others do: who holds its room. "": it can."""
    if not route.room or not observation.room or holds(route, observation):
        return ""
    staying = [one for one in holders(observation) if one.name in pinned]
    devices = [device for device in short(observation.room, [*staying, route]) if device in route.room]
    names = [one.name for one in staying if one.room.keys() & devices]
    return f"{named(devices)}: held by {', '.join(names)}, pinned" if devices else ""


def awaited(route: ModelRoute, observation: Observation) -> str:
    """Whose room a model waits for, for people."""
    others = [one for one in holders(observation) if one.room.keys() & route.room.keys()]
    return (
        f"{named(route.room)}: held by {', '.join(one.name for one in others) or 'models that are to be loaded first'}"
    )


def evictions(
    observation: Observation, demands: Mapping[str, Demand], pinned: Collection[str], moment: Moment
) -> Iterator[tuple[str, str]]:
    """The models that are to be unloaded now, each with the model that gets its room."""
    running = {one.model: one for one in observation.operations}
    staying = [
        route
        for route in holders(observation)
        if not (route.name in running and running[route.name].action is Action.UNLOAD)
        and not leaves(route, observation)
    ]
    for operation, route in absent(observation):
        free = [
            one
            for one in staying
            if one.name not in pinned
            and one.name not in running
            and may_leave(one, observation, demands, moment.now, priority=route.priority)
        ]
        free.sort(key=lambda one: (-_RANK[one.priority], demands[one.name].last_used_at))
        rank = _RANK[route.priority]
        quiet = [one for one in free if _RANK[one.priority] > rank or _is_quiet(demands[one.name], moment.now)]
        in_use = free if moment.wall - operation.created_at >= route.max_wait_s else []
        fits = partial(_fits, route, staying, observation.room)
        gone = next((some for some in (fewest(each, fits) for each in (quiet, in_use)) if some is not None), ())
        yield from ((one.name, route.name) for one in gone)
        staying = [*(one for one in staying if one not in gone), route]


def is_awaited(replica: str, observation: Observation) -> bool:
    """Another model is to get its room."""
    routes = [route for route in observation.routes if replica in route.replicas]
    return any(route.room.keys() & other.room.keys() for other in without_room(observation) for route in routes)


def leaves(route: ModelRoute, observation: Observation) -> bool:
    """It goes whatever is requested of it meanwhile: it is loaded again afterwards then."""
    return all(one.status in _GONE or one.goal is Goal.UNLOADED for one in records_of(route, observation))


def would_leave(
    operation: Operation, observation: Observation, last_used_at: Mapping[str, float], pinned: Collection[str]
) -> tuple[ModelRoute, ...]:
    """The models that make room for what an operation loads, once none of them has to stay."""
    route = next((one for one in observation.routes if one.name == operation.model and one.room), None)
    if route is None or not observation.room or operation.action not in TAKES_ROOM or holds(route, observation):
        return ()
    staying = [one for one in holders(observation) if not leaves(one, observation)]
    free = sorted(
        (one for one in staying if one.name not in pinned and one.name in last_used_at),
        key=lambda one: last_used_at[one.name],
    )
    return fewest(free, partial(_fits, route, staying, observation.room)) or ()


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
    if _RANK[route.priority] > _RANK[priority]:
        return True
    if _RANK[route.priority] < _RANK[priority] and not _is_quiet(demands[route.name], now, YIELDS_S):
        return False
    stays_s = route.min_residency_s
    if not _is_quiet(demands[route.name], now):
        stays_s = max(stays_s, *(STAYS * (one.load_s or 0.0) for one in records))
    return all(now - one.since >= stays_s for one in records if one.status is _S.READY)


def _fits(
    route: ModelRoute, staying: Collection[ModelRoute], room: Mapping[int, int], gone: Collection[ModelRoute]
) -> bool:
    rest = [one for one in staying if one not in gone]
    return not route.room.keys() & short(room, [*rest, route])


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
