"""Which models with `load: on_request` are to be loaded and unloaded now, pure.

1. A request that waits for a model that is not loaded loads it. What operators request comes first: while one of their
   operations runs, nothing is decided for its model. What they request of a model that Berth loads or unloads by itself
   takes the place of that; requests wait, whatever runs.
2. A model without requests for `idle_unload`, or for as long as a client has said instead, is unloaded, unless it is
   pinned. The time counts from the last end of a request, and never during a load. With `idle_stop` it is put to sleep
   instead, if its engines can sleep; a model that sleeps by request for `idle_stop` without one is unloaded.
3. A request that comes while it drains for that reason cancels the unload; so does a client that lets it stay longer,
   and a pin.
4. A model that has no room waits until others have left, unloaded or asleep: see `eviction`. If no one waits for it any
   more, it is not loaded; and a model that was to leave for it, and still drains, stays if it is wanted. Otherwise such
   a model never comes back before the other one has its room: it queues behind it, also if an operator loads it.
5. A model that sleeps is unloaded where its RAM is worth more for the weights of another one that falls asleep, or
   where the host is short of RAM: see `sleepers`.
6. A model whose engines have failed permanently is not loaded again by requests: `berth load` gives it another start.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from berth.control.decisions import claims, eviction, sleepers
from berth.control.decisions.eviction import BY_SWAP, Demand, Moment
from berth.control.decisions.records import Observation, Record
from berth.ipc.operations import Action, Operation
from berth.plan import Load, ModelRoute
from berth.state import ReplicaStatus

_S = ReplicaStatus

BY_REQUEST = "a request"
BY_IDLE = "idle_unload"
BY_STOP = "idle_stop"
BY_RAM = "a lack of RAM"  # followed by the model that gets it, if that is the cause
_NOT_COMING = frozenset({_S.UNLOADED, _S.ASLEEP, _S.STANDBY, _S.FAILED, _S.STOPPED})


class Decision(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"  # it is idle
    SLEEP = "sleep"  # the same
    STOP = "stop"  # unload it while it sleeps
    EVICT = "evict"  # unload it for another model
    EVICT_TO_SLEEP = "evict_to_sleep"  # put it to sleep for another model
    RELEASE_RAM = "release_ram"  # unload it while it sleeps, for the weights of another model, or because RAM is short
    CANCEL = "cancel"  # its operation


class Decided(NamedTuple):
    decision: Decision
    model: str
    other: str = ""  # the model for which that is
    why: str = ""  # it does not sleep instead


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """The times without a request, in seconds, after which a model leaves. None: it does not."""

    unload_s: float | None
    stop_s: float | None  # while it sleeps


def is_own(operation: Operation) -> bool:
    """Berth does it by itself."""
    return operation.by in (BY_REQUEST, BY_IDLE, BY_STOP) or operation.by.startswith((f"{BY_SWAP} to ", BY_RAM))


def decide(
    observation: Observation, demands: Mapping[str, Demand], pinned: Collection[str], moment: Moment
) -> Iterator[Decided]:
    """What is to happen, to which model, and for which other one."""
    if observation.shutting_down:
        return
    ram = sleepers.account(observation, {name: one.last_used_at for name, one in demands.items()}, moment.now)
    own = [
        found
        for route in observation.routes
        if route.load is Load.ON_REQUEST and route.name in demands
        for found in of_route(route, demands[route.name], ram, pinned)
    ]
    yield from own
    if observation.room:  # nothing leaves for a load that ends
        cancelled = {one.model for one in own if one.decision is Decision.CANCEL}
        wanted = [one for one in observation.operations if one.action is not Action.LOAD or one.model not in cancelled]
        for one in eviction.evictions(replace(observation, operations=tuple(wanted)), demands, pinned, moment):
            if one.ram_for:
                yield Decided(Decision.RELEASE_RAM, one.model, one.ram_for)
            elif not one.waits:
                decision = Decision.EVICT_TO_SLEEP if one.sleeps else Decision.EVICT
                yield Decided(decision, one.model, one.other, "" if one.sleeps else one.why)
    kept = {*pinned, *(name for name, one in demands.items() if one.waiting)}
    if (relief := sleepers.relief(ram, sleepers.candidates(observation, kept))) is not None:
        yield Decided(Decision.RELEASE_RAM, relief.name)


def of_route(route: ModelRoute, demand: Demand, ram: sleepers.Account, pinned: Collection[str]) -> Iterator[Decided]:
    """Whatever other models want."""
    observation = ram.observation
    operation = next((one for one in observation.operations if one.model == route.name), None)
    obstructed = bool(eviction.blocker(route, observation, pinned))
    if operation is not None and observation.room:
        found = (
            of_load(demand, operation, observation, obstructed=obstructed)
            if operation.action is Action.LOAD
            else of_swap(route, demand, operation, observation)
        )
        if found is not None:
            yield Decided(found, route.name)
            return
    idle = Idle(unload_s=observation.keep.get(route.name, route.idle_unload_s), stop_s=route.idle_stop_s)
    found = of_model(claims.records_of(route, observation), demand, operation, idle, ram.now)
    if found is None or (found not in (Decision.LOAD, Decision.CANCEL) and route.name in pinned):
        return
    if found is Decision.SLEEP:
        yield from to_sleep(route, ram, pinned)
        return
    is_shut_out = observation.not_free.keys() >= set(route.replicas)
    if not (found is Decision.LOAD and (obstructed or is_shut_out)):
        yield Decided(found, route.name)


def to_sleep(route: ModelRoute, ram: sleepers.Account, pinned: Collection[str]) -> Iterator[Decided]:
    """Of an idle model. It is unloaded where its engines cannot sleep now, and stays while RAM is released for it."""
    leave = sleepers.leave(route, ram, sleepers.candidates(ram.observation, pinned))
    yield from (Decided(Decision.RELEASE_RAM, one.name, route.name) for one in leave.given_up)
    if not leave.waits:
        why = "" if leave.sleeps else leave.why
        yield Decided(Decision.SLEEP if leave.sleeps else Decision.UNLOAD, route.name, why=why)


def of_load(demand: Demand, operation: Operation, observation: Observation, *, obstructed: bool) -> Decision | None:
    """A load that waits for room ends when no one waits for it, or it gets none."""
    if operation.by != BY_REQUEST:
        return None
    is_over = obstructed or (not demand.waiting and eviction.must_wait(operation, observation))
    return Decision.CANCEL if is_over else None


def of_swap(route: ModelRoute, demand: Demand, operation: Operation, observation: Observation) -> Decision | None:
    """A model that drains for another one stays if it is wanted, and the other one is not."""
    drains = any(one.status is _S.DRAINING for one in claims.records_of(route, observation))
    if not drains or not operation.by.startswith(BY_SWAP):
        return None
    return Decision.CANCEL if demand.waiting and not eviction.is_awaited(route.replicas[0], observation) else None


def of_model(
    records: Collection[Record], demand: Demand, operation: Operation | None, idle: Idle, now: float
) -> Decision | None:
    if operation is not None:
        returns = operation.by == BY_IDLE and demand.waiting and any(record.status is _S.DRAINING for record in records)
        return Decision.CANCEL if returns else None
    asleep = [one for one in records if one.status is _S.ASLEEP and one.goal is not None]
    if demand.waiting:
        loadable = asleep or any(one.status is _S.UNLOADED for one in records)
        return Decision.LOAD if loadable and all(one.status in _NOT_COMING for one in records) else None
    ready = [record for record in records if record.status is _S.READY]
    longest_s = idle.unload_s if ready else idle.stop_s
    idle_since = max([demand.last_used_at, *(record.since for record in ready or asleep)])
    if not (ready or asleep) or longest_s is None or now - idle_since < longest_s:
        return None
    if not ready:
        return Decision.STOP
    sleeps = idle.stop_s is not None and all(one.replica.sleep and not one.cannot_sleep for one in ready)
    return Decision.SLEEP if sleeps else Decision.UNLOAD
