"""Which models with `load: on_request` are to be loaded and unloaded now, pure.

1. A request that waits for a model that is not loaded loads it. What operators request comes first: while one of their
   operations runs, nothing is decided for its model.
2. A model without requests for `idle_unload`, or for as long as a client has said instead, is unloaded, unless it is
   pinned. The time counts from the last end of a request, and never during a load.
3. A request that comes while it drains for that reason cancels the unload.
4. A model that has no room waits until others have left, unloaded or asleep: see `eviction`. If no one waits for it any
   more, it is not loaded; and a model that was to leave for it, and still drains, stays if it is wanted. Otherwise such
   a model never comes back before the other one has its room: it queues behind it.
5. A model whose engines have failed permanently is not loaded again by requests: `berth load` gives it another start.
"""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum

from berth.control.decisions import claims, eviction
from berth.control.decisions.eviction import BY_SWAP, Demand, Moment
from berth.control.decisions.records import Observation, Record
from berth.operations import Action, Operation
from berth.plan import Load, ModelRoute
from berth.state import ReplicaStatus

_S = ReplicaStatus

BY_REQUEST = "a request"
BY_IDLE = "idle_unload"
_NOT_COMING = frozenset({_S.UNLOADED, _S.ASLEEP, _S.STANDBY, _S.FAILED, _S.STOPPED})


class Decision(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"
    EVICT = "evict"  # unload it for another model
    SLEEP = "sleep"  # put it to sleep for another model
    CANCEL = "cancel"  # its operation


def decide(
    observation: Observation, demands: Mapping[str, Demand], pinned: Collection[str], moment: Moment
) -> Iterator[tuple[Decision, str, str]]:
    """What is to happen, to which model, and for which other one."""
    if observation.shutting_down:
        return
    running = {operation.model: operation for operation in observation.operations}
    for route in observation.routes:
        if route.load is Load.ON_REQUEST and (demand := demands.get(route.name)) is not None:
            operation = running.get(route.name)
            obstructed = bool(eviction.blocker(route, observation, pinned))
            if operation is not None and observation.room:
                found = (
                    of_load(demand, operation, observation, obstructed=obstructed)
                    if operation.action is Action.LOAD
                    else of_swap(route, demand, operation, observation, pinned=route.name in pinned)
                )
                if found is not None:
                    yield found, route.name, ""
                    continue
            idle_s = observation.keep.get(route.name, route.idle_unload_s)
            found = of_model(claims.records_of(route, observation), demand, operation, idle_s, moment.now)
            if found is None or (found is Decision.UNLOAD and route.name in pinned):
                continue
            is_shut_out = observation.not_free.keys() >= set(route.replicas)
            if not (found is Decision.LOAD and (obstructed or is_shut_out)):
                yield found, route.name, ""
    if observation.room:
        for one in eviction.evictions(observation, demands, pinned, moment):
            yield Decision.SLEEP if one.sleeps else Decision.EVICT, one.model, one.other


def of_load(demand: Demand, operation: Operation, observation: Observation, *, obstructed: bool) -> Decision | None:
    """A load that waits for room ends when no one waits for it, or it gets none."""
    if operation.by != BY_REQUEST:
        return None
    is_over = obstructed or (not demand.waiting and eviction.must_wait(operation, observation))
    return Decision.CANCEL if is_over else None


def of_swap(
    route: ModelRoute, demand: Demand, operation: Operation, observation: Observation, *, pinned: bool
) -> Decision | None:
    """A model that drains for another one stays if it is pinned, or wanted, and the other one is not."""
    drains = any(one.status is _S.DRAINING for one in claims.records_of(route, observation))
    if not drains or not operation.by.startswith(BY_SWAP):
        return None
    awaited = any(route.room.keys() & other.room.keys() for other in eviction.without_room(observation))
    return Decision.CANCEL if pinned or (demand.waiting and not awaited) else None


def of_model(
    records: Collection[Record], demand: Demand, operation: Operation | None, idle_unload_s: float | None, now: float
) -> Decision | None:
    if operation is not None:
        is_idle = operation.action is Action.UNLOAD and operation.by == BY_IDLE
        returns = is_idle and demand.waiting and any(record.status is _S.DRAINING for record in records)
        return Decision.CANCEL if returns else None
    if demand.waiting:
        loadable = any(
            one.status is _S.UNLOADED or (one.status is _S.ASLEEP and one.goal is not None) for one in records
        )
        return Decision.LOAD if loadable and all(one.status in _NOT_COMING for one in records) else None
    ready = [record for record in records if record.status is _S.READY]
    if idle_unload_s is None or not ready:
        return None
    idle_since = max(demand.last_used_at, *(record.since for record in ready))
    return Decision.UNLOAD if now - idle_since >= idle_unload_s else None
