"""The operations that were requested of control: accepted or denied, kept, and ended when they are over."""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from berth.control.decisions import requests, scaling
from berth.control.decisions.eviction import BY_SWAP
from berth.control.decisions.records import Observation, Record
from berth.control.decisions.residency import BY_IDLE, BY_REQUEST, Decision
from berth.control.operations import denials
from berth.control.operations.event_ring import EventRing
from berth.log import log
from berth.operations import (
    HISTORY,
    LONGEST_DRAIN_S,
    Action,
    Change,
    Denial,
    DenialCode,
    Keep,
    Operation,
    OperationState,
    Pin,
    Reply,
    Step,
)
from berth.plan import Adapter, Load, ModelRoute, Standby
from berth.state import AddedAdapter, Cause, ChangeKind, ModelChanges, ReplicaStatus

_S = ReplicaStatus
_LONGEST_BY = 200
_CHANGES = {
    (_S.WAITING, _S.STARTING): ChangeKind.WAIT,
    (_S.STARTING, _S.READY): ChangeKind.LOAD,
    (_S.WAKING, _S.READY): ChangeKind.WAKE,
    (_S.DRAINING, _S.STOPPING): ChangeKind.DRAIN,
    (_S.DRAINING, _S.FALLING_ASLEEP): ChangeKind.DRAIN,
    (_S.FALLING_ASLEEP, _S.ASLEEP): ChangeKind.SLEEP,
    (_S.STOPPING, _S.UNLOADED): ChangeKind.UNLOAD,
}
_ACTIONS = {
    ChangeKind.LOAD: Action.LOAD,
    ChangeKind.WAKE: Action.WAKE,
    ChangeKind.SLEEP: Action.SLEEP,
    ChangeKind.UNLOAD: Action.UNLOAD,
}
CAUSES = {BY_REQUEST: Cause.REQUEST, BY_IDLE: Cause.IDLE, BY_SWAP: Cause.SWAP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What survives a restart of control."""

    operations: tuple[Operation, ...] = ()
    pins: Mapping[str, Pin] = field(default_factory=dict)
    keep: Mapping[str, float | None] = field(default_factory=dict)  # see `Keep`, by model
    changes: tuple[ModelChanges, ...] = ()
    adapters: Mapping[str, tuple[Adapter, ...]] = field(default_factory=dict)  # added while serving, by model
    used_names: Mapping[str, str] = field(default_factory=dict)  # of all adapters so far: their sources
    scales: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by model: the replicas that are loaded

    def wanted(self, route: ModelRoute) -> tuple[str, ...]:
        """Its replicas that are loaded with it; the others wait for `berth scale`."""
        return self.scales.get(route.name, route.loaded_at_start)

    @property
    def added(self) -> tuple[AddedAdapter, ...]:
        return tuple(AddedAdapter(name=one.name, model=model) for model, own in self.adapters.items() for one in own)


class Operations:
    """Changed only between two awaits of the control loop: a denial and what it depends on are seen at one moment."""

    def __init__(self, events: EventRing, wall: Callable[[], float] = time.time) -> None:
        self.kept = Kept()
        self._wall = wall
        self._events = events
        self._reload_due = False
        self._costs: dict[tuple[str, Action], float] = {}  # seconds, of the last time

    def resume(self, kept: Kept) -> None:
        """Those of the control before. A reload may not have begun then: the router is reloaded once more."""
        self.kept = kept
        self._reload_due = any(one.action is Action.RELOAD for one in self.running)

    @property
    def running(self) -> tuple[Operation, ...]:
        return tuple(one for one in self.kept.operations if one.running)

    def learned(self, before: Record, record: Record, now: float) -> None:
        """A change of status: how long it took, and for whom."""
        if record.status is _S.UNLOADED and record.replica.model in self.kept.keep:
            rest = {name: value for name, value in self.kept.keep.items() if name != record.replica.model}
            self.kept = replace(self.kept, keep=rest)
        change = _CHANGES.get((before.status, record.status))
        if change is None or record.attached:
            return
        operation = requests.operation_of(record, self.running)
        cause = Cause.START if operation is None else CAUSES.get(operation.by.split(" to ")[0], Cause.OPERATOR)
        changes = counted(self.kept.changes, record.replica.model, change, cause, now - before.since)
        self.kept = replace(self.kept, changes=changes)
        action = _ACTIONS.get(change)
        if action is not None:
            self._costs[record.replica.name, action] = now - before.since

    def reply(self, operation: Operation, observation: Observation) -> Reply:
        return Reply(operation=operation, steps=requests.remaining(operation, observation, self._costs))

    def steps(self, route: ModelRoute, observation: Observation, *, sleeps: bool) -> tuple[Step, ...]:
        """What would happen to a model that makes room."""
        change = Change(action=Action.SLEEP if sleeps else Action.UNLOAD, model=route.name)
        operation = new_operation(change, observation, (), self._wall(), self.kept)
        return requests.remaining(operation, observation, self._costs)

    def find(self, number: str) -> Operation | None:
        return next((one for one in self.kept.operations if one.id == number), None)

    def ask(self, change: Change, observation: Observation, *, workers: Sequence[int], now: float) -> Reply:
        """Accepts or denies a change. The same change as one that is running, or what is so already, is no new one."""
        denial = denials.invalid(change, observation)
        if denial is not None:
            return Reply(denial=denial)
        asked = new_operation(change, observation, workers, self._wall(), self.kept)
        known = next((one for one in self.running if one.model == asked.model), None)
        if known is not None and (known.action, known.replicas, known.kept) == (
            *(asked.action, asked.replicas, asked.kept),
        ):
            return self.reply(known, observation)
        denial = denials.denial(asked, known, self.kept.pins, observation)
        if denial is not None:
            return Reply(denial=denial)
        if change.dry_run:
            return self.reply(asked, replace(observation, operations=(asked,)))
        return self._accept(asked, replace(observation, operations=(*self.running, asked)), now)

    def pin(self, models: Iterable[str]) -> None:
        """As BERTH_MODELS says, at the start."""
        pins = {model: Pin(by="BERTH_MODELS", since=self._wall()) for model in models}
        self.kept = replace(self.kept, pins={**self.kept.pins, **pins})

    def keep(self, requested: Keep, observation: Observation) -> Reply:
        """Only for models that requests load."""
        route = denials.route_of(requested.model, observation)
        if route is None:
            return Reply(denial=denials.unknown_model(requested.model, observation))
        if route.load is Load.ON_REQUEST and self.kept.keep.get(route.name, -1) != requested.seconds:
            self.kept = replace(self.kept, keep={**self.kept.keep, route.name: requested.seconds})
        return Reply()

    def decided(self, decision: Decision, model: str, other: str, observation: Observation, now: float) -> None:
        """By control itself, for a model that is loaded on request. `other`: the one that gets its room."""
        if decision is Decision.CANCEL:
            for operation in self.running:
                if operation.model == model:
                    self.cancel(operation.id)
            return

        def leave(action: Action) -> Change:
            return Change(action=action, model=model, by=f"{BY_SWAP} to {other}", drain_s=LONGEST_DRAIN_S)

        change = {
            Decision.LOAD: Change(action=Action.LOAD, model=model, by=BY_REQUEST),
            Decision.UNLOAD: Change(action=Action.UNLOAD, model=model, by=BY_IDLE),
            Decision.EVICT: leave(Action.UNLOAD),  # no request is cut
            Decision.SLEEP: leave(Action.SLEEP),
        }[decision]
        self.ask(change, observation, workers=(), now=now)

    def cancel(self, number: str) -> Reply:
        """What has not begun does not happen; a draining replica serves again. What has begun is not undone."""
        operation = self.find(number)
        if operation is None:
            return Reply(denial=denials.unknown_operation(number))
        if operation.state is OperationState.CANCELLED:
            return Reply(operation=operation)
        if not operation.running or operation.action is Action.RELOAD:
            message = f"Operation {number} ({operation.action}) is over, or cannot be cancelled: {operation.state}."
            return Reply(denial=Denial(code=DenialCode.OVER, message=message))
        return Reply(operation=self._end(operation, OperationState.CANCELLED, ""))

    def take_reload(self) -> bool:
        """Whether the router is to be reloaded now. True once for each such operation."""
        is_due, self._reload_due = self._reload_due, False
        return is_due

    def reload_failed(self, reason: str) -> None:
        for operation in self.running:
            if operation.action is Action.RELOAD:
                self._end(operation, OperationState.FAILED, reason)

    def settle(self, observation: Observation, workers: Iterable[int], now: float) -> None:
        """Ends the operations that are over."""
        for operation in self.running:
            if operation.action is Action.RELOAD:
                if not set(operation.workers) & set(workers):
                    self._end(operation, OperationState.DONE, "")
            elif found := requests.outcome(operation, observation, now):
                self._end(operation, found.state, found.reason)

    def _accept(self, operation: Operation, observation: Observation, now: float) -> Reply:
        pins = {**self.kept.pins}
        if operation.action is Action.PIN:
            pins.setdefault(operation.model, Pin(by=operation.by, since=operation.created_at))
        elif operation.action is Action.UNPIN:
            pins.pop(operation.model, None)
        self.kept = replace(self.kept, operations=(*self.kept.operations, operation)[-HISTORY:], pins=pins)
        log.info("operation accepted", **_shown(operation))
        self._events.operation(operation)
        if operation.action in (Action.PIN, Action.UNPIN):
            return Reply(operation=self._end(operation, OperationState.DONE, ""))
        if operation.action is Action.RELOAD:
            self._reload_due = True
        elif found := requests.outcome(operation, observation, now):
            return Reply(operation=self._end(operation, found.state, found.reason or "it is so already"))
        return self.reply(operation, observation)

    def _end(self, operation: Operation, state: OperationState, reason: str) -> Operation:
        ended = replace(operation, state=state, reason=reason, finished_at=self._wall())
        operations = tuple(ended if one.id == operation.id else one for one in self.kept.operations)
        scaled = operation.action is Action.SCALE and state is not OperationState.CANCELLED
        scales = {**self.kept.scales, **({operation.model: operation.kept} if scaled else {})}
        self.kept = replace(self.kept, operations=operations, scales=scales)
        write = log.warning if state is OperationState.FAILED else log.info
        write(f"operation {state}", **_shown(ended), **({"reason": reason} if reason else {}))
        self._events.operation(ended)
        return ended


def counted(
    changes: Sequence[ModelChanges], model: str, change: ChangeKind, why: Cause, seconds: float
) -> tuple[ModelChanges, ...]:
    """With one more."""
    known = {(one.model, one.change, one.why): one for one in changes}
    before = known.get((model, change, why))
    known[model, change, why] = ModelChanges(
        model=model,
        change=change,
        why=why,
        count=1 + (before.count if before else 0),
        seconds=round(seconds + (before.seconds if before else 0.0), 3),
    )
    return tuple(known.values())


def new_operation(
    change: Change, observation: Observation, workers: Sequence[int], wall: float, kept: Kept
) -> Operation:
    operation = Operation(
        id=secrets.token_hex(4),
        action=change.action,
        drain_s=change.drain_s,
        by=change.by[:_LONGEST_BY],
        created_at=wall,
        workers=tuple(workers) if change.action is Action.RELOAD else (),
    )
    if change.action is Action.RELOAD:
        return operation
    route = denials.route_of(change.model, observation)
    names = route.replicas if route else (change.model,)
    if route and change.action is Action.LOAD:
        names = kept.wanted(route)
    by_name = {record.replica.name: record for record in observation.records}
    records = [by_name[name] for name in names if not by_name[name].attached]
    model = route or next(one for one in observation.routes if change.model in one.replicas)
    may_start = records if model.standby is Standby.HOT else records[:1] if route else []
    return replace(
        operation,
        model=model.name,
        replicas=tuple(record.replica.name for record in records),
        kept=scaling.kept(records, change.count) if change.count else (),
        starts=requests.starts(change.action, records, may_start),
    )


def _shown(operation: Operation) -> dict[str, str]:
    fields = {"operation": operation.id, "action": operation.action, "model": operation.model, "by": operation.by}
    return {name: str(value) for name, value in fields.items() if value}
