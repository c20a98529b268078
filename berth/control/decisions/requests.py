"""What operations do to replicas, pure. The state machine has its own transitions first; those of operations follow.

A model has at most one running operation. Replicas of a model that can serve in turn only (standby: cold or warm) are
loaded as at boot: see `standby`, which has all rules about the other replicas of a model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from berth.control.decisions import eviction, migrations, scaling, shadows, sleepers, standby
from berth.control.decisions.eviction import BY_SWAP
from berth.control.decisions.records import COMING, GIVEN_UP, Goal, Observation, Record, Transition
from berth.control.decisions.restart_policy import History
from berth.ipc.migration import Migration, Phase
from berth.ipc.operations import LOADING, Action, Operation, OperationState, Step
from berth.ipc.shadow import Shadow, ShadowPhase
from berth.ipc.shadow_results import results
from berth.room import ASLEEP_BYTES
from berth.state import ReplicaStatus
from berth.units import size

_S = ReplicaStatus

_ENDS: Mapping[Action, ReplicaStatus] = {
    Action.UNLOAD: _S.UNLOADED,
    Action.SLEEP: _S.ASLEEP,
    Action.WAKE: _S.READY,
    Action.LOAD: _S.READY,
    Action.RESTART: _S.READY,
    Action.SCALE: _S.READY,  # of those that are kept
    Action.LEASE: _S.READY,  # the same
    Action.MIGRATE: _S.READY,  # of the candidate
    Action.SHADOW: _S.READY,  # the same
}
_WAKING = frozenset({Action.WAKE, Action.LOAD, Action.SCALE})
RESIDUE_SHARE = 0.05  # of a GPU: an engine that keeps more, and more than the plan says, is not worth its sleep
GROWN_BYTES = 2**30  # since it slept for the first time


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    state: OperationState
    reason: str = ""


def operation_of(record: Record, operations: Iterable[Operation]) -> Operation | None:
    """The running operation that concerns the replica."""
    return next((one for one in operations if record.replica.name in one.replicas), None)


def step(record: Record, observation: Observation, now: float) -> Transition | None:
    """What the operation of this replica does with it now."""
    operation = operation_of(record, observation.operations)
    waits = operation is not None and eviction.must_wait(operation, observation)
    sleeps = record.status is _S.ASLEEP and record.goal is Goal.ASLEEP
    if operation is None or (waits and not (sleeps and eviction.in_the_way(operation.model, observation))):
        return None
    # It is to sleep, and has failed before it drained: it is not started for that, since others wait for its room.
    waiting = record.status is _S.WAITING and operation.by.startswith(BY_SWAP)
    failed = operation.action is Action.SLEEP and (waiting or record.status is _S.BACKOFF)
    if waits or scaling.leaves(record, operation) or failed:
        return _unload(record, operation, now)
    match operation.action:
        case Action.SLEEP:
            is_ready = record.status is _S.READY and record.replica.sleep
            goal = Goal.UNLOADED if record.cannot_sleep else Goal.ASLEEP
            return _drain(record, operation, goal, now) if is_ready else None
        case Action.LOAD | Action.SCALE | Action.LEASE:
            load = _load_alone if operation.action is Action.LEASE else _load
            return load(record, operation, observation, now)
        case Action.RESTART | Action.MIGRATE | Action.SHADOW:
            if operation.action is Action.RESTART:
                found = _restart(record, operation, observation, now)
            else:
                found = (migrations if operation.migration else shadows).step(record, operation, now)
            return found
        case (
            Action.WAKE | Action.UNLOAD | Action.PIN | Action.UNPIN | Action.RELOAD
        ):  # a wake needs a lease: see `wakes`
            return None
        case _:  # pragma: no cover - mypy sees that there is none
            assert_never(operation.action)


def wakes(record: Record, observation: Observation) -> str | None:
    """The origin of the wake of a replica that was put to sleep by request, and is woken by request: "". None: it is
    not woken.
    """
    operation = operation_of(record, observation.operations)
    if operation is None or record.goal is not Goal.ASLEEP:
        return None
    if operation.migration is not None:
        return "" if migrations.returns_awake(record, operation, observation.records) else None
    if operation.action not in _WAKING:
        return None
    if scaling.leaves(record, operation) or eviction.must_wait(operation, observation):
        return None
    return "" if standby.policy(record, observation).may_wake() else None


def on_drain(record: Record, observation: Observation, now: float) -> Transition | None:
    """There are four cases: 1. it is not to end so any more, and no other model gets its room: it serves again 2. it
    hangs, so that its requests never finish: it stops 3. they have finished, or their time is over: it falls asleep or
    stops 4. it still has requests.
    """
    name, goal = record.replica.name, record.goal
    operation = operation_of(record, observation.operations)
    if goal is None or operation is None:
        return Transition(name=name, to=_S.READY)
    moves = operation.migration  # which may want it to serve again
    ends = goal in _goals(record, operation) or eviction.is_awaited(name, observation)
    if not (migrations.rests(moves, name) if moves else ends):
        return Transition(name=name, to=_S.READY)
    if record.defect:
        return Transition(name=name, to=_S.STOPPING, reason=f"{record.reason}; {record.defect}", goal=goal)
    is_drained = name in observation.drained
    if not is_drained and (record.drain_ends is None or now < record.drain_ends):
        return None
    reason = record.reason if is_drained else f"{record.reason}; its last requests were cut"
    if goal is Goal.ASLEEP:
        return fall_asleep(replace(record, reason=reason), observation)
    return Transition(name=name, to=_S.STOPPING, reason=reason, goal=goal)


def fall_asleep(record: Record, observation: Observation) -> Transition:
    """With its weights in RAM or without them, as it is free now; else it is stopped."""
    is_standby = record.goal is None  # boot has planned the RAM for its weights
    own = sleepers.weights_in_ram(record) if record.status is _S.DRAINING else 0  # it was promised that
    free = sleepers.free_bytes(observation.records, observation.ram, reserved=not is_standby)
    way = sleepers.way(record, observation, free + own)
    reason = "; ".join(part for part in (record.reason, way.why) if part)
    if way.how is None:
        goal, instead = Goal.STANDBY if is_standby else Goal.UNLOADED, f"was not put to sleep: {way.why}"
        return Transition(name=record.replica.name, to=_S.STOPPING, reason=reason, goal=goal, instead_of_sleep=instead)
    return Transition(name=record.replica.name, to=_S.FALLING_ASLEEP, reason=reason, goal=record.goal, wakes=way.how)


def _goals(record: Record, operation: Operation) -> frozenset[Goal]:
    """Where the operation lets a replica drain to."""
    if scaling.leaves(record, operation):
        return frozenset({Goal.UNLOADED})
    if operation.action is Action.SLEEP:
        return frozenset({Goal.UNLOADED if record.cannot_sleep else Goal.ASLEEP})
    if operation.shadow is not None:
        return frozenset({Goal.STANDBY}) if operation.shadow.phase is ShadowPhase.ENDING else frozenset()
    return frozenset({Goal.LOADED}) if operation.action is Action.RESTART else frozenset()


def stop_instead(record: Record, why: str, observation: Observation) -> Transition:
    """It did not fall asleep by request, so that nothing is certain about its memory: it is loaded again, and from then
    on not put to sleep. If another model is to get its room, it is unloaded. None of that counts as a failure of
    serving.
    """
    operation = operation_of(record, observation.operations)
    is_swap = operation is not None and operation.by.startswith(BY_SWAP)
    goal = Goal.UNLOADED if is_swap or eviction.is_awaited(record.replica.name, observation) else Goal.LOADED
    reason = f"could not be put to sleep: {why}"
    return Transition(name=record.replica.name, to=_S.STOPPING, reason=reason, goal=goal, cannot_sleep=reason)


def too_much_kept(record: Record, observation: Observation) -> str:
    """Why an engine is stopped after all, although it sleeps: it was to make room, and keeps too much."""
    operation = operation_of(record, observation.operations)
    if operation is None or not operation.by.startswith(BY_SWAP):
        return ""
    for gpu, kept in record.gpu.residue.items():
        allowed = max(ASLEEP_BYTES, int(RESIDUE_SHARE * observation.gpu_bytes.get(gpu, 0)))
        allowed = min(allowed, record.gpu.first_residue.get(gpu, kept) + GROWN_BYTES)
        if kept > allowed:
            return f"asleep it keeps {size(kept)} of GPU {gpu}, more than {size(allowed)}"
    return ""


def is_requested(before: Record, status: ReplicaStatus) -> bool:
    """Whether an operation is the cause of this change of status, other than a start or an end."""
    if status in (_S.DRAINING, _S.UNLOADED):
        return True
    changes = status in (_S.WAITING, _S.WAKING, _S.STANDBY)
    return changes and (before.goal is not None or before.status in (_S.UNLOADED, _S.BACKOFF, *GIVEN_UP))


def remaining(
    operation: Operation, observation: Observation, costs: Mapping[tuple[str, Action], float]
) -> tuple[Step, ...]:
    """What is left to do, per replica. `costs`: seconds that each takes."""
    end = _ENDS.get(operation.action)
    if end is None or not operation.running:
        return ()
    cost = Action.LOAD if end is _S.READY and operation.action is not Action.WAKE else operation.action
    return tuple(
        Step(replica=name, status=record.status, to=to, about_s=costs.get((name, price)))
        for record in observation.records
        if (name := record.replica.name) in operation.replicas
        for to, price in [(_S.UNLOADED, Action.UNLOAD) if scaling.leaves(record, operation) else (end, cost)]
        if _is_to_move(record, operation, to)
    )


def _is_to_move(record: Record, operation: Operation, end: ReplicaStatus) -> bool:
    if end is _S.UNLOADED:
        return record.status is not end or not record.cleaned_up
    if operation.action is Action.LEASE:
        return record.status is not end
    if operation.migration is not None:
        return record.replica.name == operation.migration.candidate and record.status is not end
    if operation.shadow is not None:
        return operation.shadow.phase is ShadowPhase.STARTING and record.status is not end
    if operation.action is Action.RESTART:
        return operation.starts.get(record.replica.name) == record.starts and record.status is not _S.STANDBY
    return record.status not in (end, _S.STANDBY, _S.FAILED)


def outcome(operation: Operation, observation: Observation, now: float) -> Outcome | None:
    """How the operation has ended. None: it has not."""
    if operation.migration is not None:
        return migrated(operation.migration)
    if operation.shadow is not None:
        return shadowed(operation.shadow)
    return settled(operation, observation, now)


def settled(operation: Operation, observation: Observation, now: float) -> Outcome | None:
    records = [record for record in observation.records if record.replica.name in operation.replicas]
    held = _without_memory(records, observation) if operation.action in LOADING else None
    if (
        held
        or eviction.must_wait(operation, observation)
        or any(step(record, observation, now) or wakes(record, observation) is not None for record in records)
    ):
        return held
    match operation.action:
        case Action.UNLOAD | Action.SCALE | Action.LEASE:
            return _scaled(records, operation)
        case Action.SLEEP:
            return _slept(records, operation)
        case Action.LOAD | Action.WAKE:
            return _loaded(records)
        case Action.RESTART:
            is_over = all(_has_restarted(record, operation, observation) for record in records)
            return _loaded(records) if is_over else None
        case Action.PIN | Action.UNPIN | Action.RELOAD | Action.MIGRATE | Action.SHADOW:
            return None
        case _:  # pragma: no cover - mypy sees that there is none
            assert_never(operation.action)


def starts(action: Action, records: Sequence[Record], may_start: Sequence[Record]) -> Mapping[str, int]:
    """The starts so far of the replicas that the operation is to start. `may_start`: those that may start even though
    they had been given up, if no other one of the model is active.
    """
    if action is Action.SCALE:
        return {record.replica.name: record.starts for record in records if record.status in GIVEN_UP}
    if action not in (Action.LOAD, Action.RESTART):
        return {}
    active = [record for record in records if record.status in (_S.READY, *COMING)]
    asleep = [record for record in records if record.status is _S.ASLEEP and record.goal is None]
    chosen = active + asleep if action is Action.RESTART else []
    if not active:
        chosen = [*chosen, *(record for record in may_start if record.status in GIVEN_UP)]
    return {record.replica.name: record.starts for record in chosen}


def _drain(record: Record, operation: Operation, goal: Goal, now: float) -> Transition:
    return Transition(
        name=record.replica.name,
        to=_S.DRAINING,
        reason=_reason(operation),
        goal=goal,
        drain_ends=now + operation.drain_s,
    )


def _unload(record: Record, operation: Operation, now: float) -> Transition | None:
    name, reason = record.replica.name, _reason(operation)
    if record.status is _S.READY:
        return _drain(record, operation, Goal.UNLOADED, now)
    if record.status in (_S.STARTING, _S.ASLEEP):
        return Transition(name=name, to=_S.STOPPING, reason=reason, goal=Goal.UNLOADED)
    if record.status in (_S.WAITING, _S.BACKOFF, _S.STANDBY, *GIVEN_UP):
        return Transition(name=name, to=_S.UNLOADED, reason=reason)
    return None  # unloaded, or between two statuses


def _load(record: Record, operation: Operation, observation: Observation, _now: float) -> Transition | None:
    name, replicas = record.replica.name, [other.replica for other in observation.records]
    first = standby.first_status(observation.routes, replicas, name)
    if record.status is _S.UNLOADED:
        return Transition(name=name, to=first, reason=_reason(operation))
    stands_by = first is _S.STANDBY or standby.policy(record, observation).is_replaced()
    return None if stands_by else _again(record, operation)


def _again(record: Record, operation: Operation) -> Transition | None:
    """A start after a permanent failure, or a stop by hand: one for each operation."""
    if record.status in GIVEN_UP and operation.starts.get(record.replica.name) == record.starts:
        return Transition(name=record.replica.name, to=_S.WAITING, reason=_reason(operation), history=History())
    return None


def _load_alone(record: Record, operation: Operation, observation: Observation, now: float) -> Transition | None:
    """When nothing else of its model has memory: whatever its standby says. Its start is a new one."""
    others = [
        one
        for one in observation.records
        if one.replica.name in operation.replicas and one.replica.name != record.replica.name
    ]
    if any(one.status is not _S.UNLOADED or not one.cleaned_up for one in others):
        return None
    if record.status is _S.ASLEEP:
        return _unload(record, operation, now)
    if record.status in (_S.UNLOADED, _S.STANDBY):
        return Transition(name=record.replica.name, to=_S.WAITING, reason=_reason(operation), history=History())
    return _again(record, operation)


def _restart(record: Record, operation: Operation, observation: Observation, now: float) -> Transition | None:
    """One replica after another, so that the others serve meanwhile."""
    by_name = {other.replica.name: other for other in observation.records}
    unfinished = [name for name in operation.replicas if not _has_restarted(by_name[name], operation, observation)]
    if unfinished[:1] != [record.replica.name] or operation.starts[record.replica.name] != record.starts:
        return None
    if record.status is _S.READY:
        return _drain(record, operation, Goal.LOADED, now)
    if record.status in (_S.STARTING, _S.ASLEEP):
        return Transition(name=record.replica.name, to=_S.STOPPING, reason=_reason(operation), goal=Goal.LOADED)
    if record.status in (_S.BACKOFF, _S.UNLOADED):  # the latter: it was about to be unloaded when that was requested
        return Transition(name=record.replica.name, to=_S.WAITING, reason=_reason(operation), history=History())
    return _again(record, operation)


def _has_restarted(record: Record, operation: Operation, observation: Observation) -> bool:
    """Or need not be: it did not run then, or stands by since, because it could not be put to sleep."""
    count = operation.starts.get(record.replica.name)
    if count is None or record.status is _S.STANDBY or standby.policy(record, observation).is_replaced():
        return True
    return record.starts > count and record.status not in COMING


def _without_memory(records: Sequence[Record], observation: Observation) -> Outcome | None:
    """Its engines keep waiting, and start as soon as the memory is free."""
    if any(record.status is _S.READY for record in records):
        return None
    held = [
        f"{name}: {observation.not_free[name]}" for one in records if (name := one.replica.name) in observation.not_free
    ]
    return Outcome(state=OperationState.FAILED, reason=f"memory_not_free: {'; '.join(held)}") if held else None


def _loaded(records: Sequence[Record]) -> Outcome | None:
    is_ready = any(record.status is _S.READY for record in records)
    coming = [record for record in records if record.status in COMING]
    if is_ready and all(record.status is _S.BACKOFF for record in coming):
        return Outcome(state=OperationState.DONE)
    return None if coming or is_ready else Outcome(state=OperationState.FAILED, reason=_why_not_ready(records))


def _scaled(records: Sequence[Record], operation: Operation) -> Outcome | None:
    """Nothing is left of those that leave, and all others are ready: that is what was requested."""
    leaving = [record for record in records if scaling.leaves(record, operation)]
    kept = [record for record in records if record not in leaving]
    is_over = all(record.status is _S.UNLOADED and record.cleaned_up for record in leaving)
    if not is_over or any(record.status in COMING for record in kept):
        return None
    if operation.action is Action.LEASE:
        return Outcome(state=operation.ending, reason=operation.reason) if operation.ending else None
    missing = [record for record in kept if record.status is not _S.READY]
    state = OperationState.FAILED if missing else OperationState.DONE
    return Outcome(state=state, reason=_why_not_ready(missing))


def _why_not_ready(records: Sequence[Record]) -> str:
    return "; ".join(
        f"{record.replica.name} is {record.status}{f': {record.reason}' if record.reason else ''}"
        for record in records
        if record.status is not _S.STANDBY
    )


def migrated(migration: Migration) -> Outcome | None:
    if migration.phase is Phase.DONE:
        numbers = migrations.shown(migration.own)
        return Outcome(state=OperationState.DONE, reason=f"{migration.candidate} serves; canary: {numbers}")
    if migration.phase is Phase.ROLLED_BACK:
        return Outcome(state=OperationState.FAILED, reason=f"rolled back: {migration.reason}")
    return None


def shadowed(shadow: Shadow) -> Outcome | None:
    if shadow.phase is not ShadowPhase.OVER:
        return None
    if shadow.failed:
        return Outcome(state=OperationState.FAILED, reason=shadow.reason)
    found = results("", shadow.candidate, shadow.phase, shadow.options.share, shadow.counts)
    numbers = f"{found.pairs} of {found.requests - found.not_chosen} chosen requests compared"
    return Outcome(state=OperationState.DONE, reason="; ".join(filter(None, (shadow.reason, numbers))))


def _slept(records: Sequence[Record], operation: Operation) -> Outcome | None:
    bad = [record for record in records if record.cannot_sleep or record.instead_of_sleep]
    stopped = [record for record in bad if record.status is _S.UNLOADED or record.goal is Goal.UNLOADED]
    reason = "; ".join(f"{record.replica.name} {record.cannot_sleep or record.instead_of_sleep}" for record in bad)
    if len(stopped) < len(bad):
        return Outcome(state=OperationState.FAILED, reason=reason)
    if any(record.status in (_S.READY, *COMING) for record in records) or not all(one.cleaned_up for one in stopped):
        return None
    if all(record.status is _S.UNLOADED and record.reason == _reason(operation) for record in records):
        return Outcome(state=OperationState.DONE, reason="unloaded instead: it was not loaded any more")
    if stopped or any(record.status is _S.ASLEEP for record in records):
        return Outcome(state=OperationState.DONE, reason=reason and f"unloaded instead: {reason}")
    return Outcome(state=OperationState.FAILED, reason=_why_not_ready(records))


def _reason(operation: Operation) -> str:
    text = f"{operation.action} requested by {operation.by}" if operation.by else f"{operation.action} requested"
    return f"{text}: {operation.why}" if operation.why else text
