"""The operations that were requested of control: accepted or denied, kept, and ended when they are over."""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from berth.control.decisions import eviction, migrations, requests, residency, scaling, shadows, sleepers
from berth.control.decisions.eviction import BY_SWAP
from berth.control.decisions.records import Observation, Record
from berth.control.decisions.residency import BY_IDLE, BY_RAM, BY_REQUEST, BY_STOP, Decided, Decision
from berth.control.operations import denials, planning, shadow_planning
from berth.control.operations.event_ring import EventRing
from berth.control.operations.targets import Around
from berth.errors import shortened
from berth.ipc import shadow_results
from berth.ipc.bench import LONGEST_FAILURE, LONGEST_PROGRESS
from berth.ipc.migration import Migration, Move, MoveKind
from berth.ipc.operations import (
    DIGEST_LENGTH,
    HISTORY,
    LEASE_S,
    LONGEST_DRAIN_S,
    Action,
    Change,
    Denial,
    DenialCode,
    Keep,
    Operation,
    OperationState,
    Pin,
    Renewal,
    Reply,
    Step,
)
from berth.ipc.shadow import Shadow
from berth.log import log
from berth.plan import Adapter, Load, ModelRoute, Standby
from berth.state import AddedAdapter, Cause, ChangeKind, ModelChanges, ReplicaStatus

_S = ReplicaStatus
_LONGEST_BY = 200
NOTHING = Around()
_CHANGES = {
    (_S.WAITING, _S.STARTING): ChangeKind.WAIT,
    (_S.STARTING, _S.READY): ChangeKind.LOAD,
    (_S.WAKING, _S.READY): ChangeKind.WAKE,
    (_S.READY, _S.DRAINING): ChangeKind.SERVE,
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
CAUSES = {BY_REQUEST: Cause.REQUEST, BY_IDLE: Cause.IDLE, BY_STOP: Cause.IDLE, BY_SWAP: Cause.SWAP, BY_RAM: Cause.RAM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What survives a restart of control."""

    operations: tuple[Operation, ...] = ()
    pins: Mapping[str, Pin] = field(default_factory=dict)
    keep: Mapping[str, float | None] = field(default_factory=dict)  # see `Keep`, by model
    changes: tuple[ModelChanges, ...] = ()
    adapters: Mapping[str, tuple[Adapter, ...]] = field(default_factory=dict)  # added while serving, by model
    used_names: Mapping[str, str] = field(default_factory=dict)  # of all adapters so far: their sources
    # by model: those that come or came from its folder, with a digest of their files
    watched: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scales: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by model: the replicas that are loaded
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by model: the fallback order, once promoted

    def wanted(self, route: ModelRoute) -> tuple[str, ...]:
        """Its replicas that are loaded with it; the others wait for `berth scale`."""
        return self.scales.get(route.name, route.loaded_at_start)

    @property
    def added(self) -> tuple[AddedAdapter, ...]:
        return tuple(AddedAdapter(name=one.name, model=model) for model, own in self.adapters.items() for one in own)


class Operations:
    """Changed only between two awaits of the control loop: a denial and what it depends on are seen at one moment."""

    def __init__(
        self,
        events: EventRing,
        expected_s: Callable[[Record], float | None] = lambda _: None,
        last_used_at: Mapping[str, float] = MappingProxyType({}),
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`expected_s`: how long a replica takes until it is ready. `last_used_at`: the models that requests load."""
        self.kept = Kept()
        self._wall = wall
        self._events = events
        self._expected_s = expected_s
        self._last_used_at = last_used_at
        self._reload_due = False
        self._bench_due = ""  # its operation
        self._costs: dict[tuple[str, Action], float] = {}  # seconds, of the last time

    def resume(self, kept: Kept) -> None:
        """Those of the control before. A reload may not have begun then."""
        self.kept = kept
        self._reload_due = any(one.action is Action.RELOAD and not one.begun for one in self.running)

    @property
    def running(self) -> tuple[Operation, ...]:
        return tuple(one for one in self.kept.operations if one.running)

    def learned(self, before: Record, record: Record, now: float) -> None:
        """A change of status: how long it took, and for whom."""
        if record.status in (_S.UNLOADED, _S.ASLEEP) and record.replica.model in self.kept.keep:
            rest = {name: value for name, value in self.kept.keep.items() if name != record.replica.model}
            self.kept = replace(self.kept, keep=rest)
        change = _CHANGES.get((before.status, record.status))
        if change is None or record.attached:
            return
        operation = requests.operation_of(record, self.running)
        cause = (
            Cause.START
            if operation is None
            else CAUSES.get(operation.by.split(" to ")[0].split(" for ")[0], Cause.OPERATOR)
        )
        changes = counted(self.kept.changes, record.replica.model, change, cause, now - before.since)
        self.kept = replace(self.kept, changes=changes)
        action = _ACTIONS.get(change)
        if action is not None:
            self._costs[record.replica.name, action] = now - before.since

    def reply(self, operation: Operation, observation: Observation) -> Reply:
        costs = dict(self._costs)
        for record in observation.records:
            if (seconds := self._expected_s(record)) is not None:  # by a load or a wake, as its status is
                name = record.replica.name
                costs[name, Action.LOAD] = costs[name, Action.WAKE] = seconds
        shadow = None
        if operation.shadow is not None:
            shadow = shadow_results.of_shadow(operation.shadow, operation.model, time.monotonic())
        steps = requests.remaining(operation, observation, costs)
        return Reply(operation=operation, steps=steps, shadow=shadow)

    def find(self, number: str) -> Operation | None:
        return next((one for one in self.kept.operations if one.id == number), None)

    def ask(
        self, change: Change, observation: Observation, *, workers: Sequence[int], now: float, around: Around = NOTHING
    ) -> Reply:
        """Accepts or denies a change. The same change as one that is running, or what is so already, is no new one. A
        change that somebody requests takes the place of what Berth does to the model by itself.
        """
        denial = denials.invalid(change, observation)
        if denial is not None:
            return Reply(denial=denial)
        asked = new_operation(change, observation, workers, self._wall(), self.kept)
        known = next((one for one in self.running if one.model == asked.model and not one.begun), None)
        own = known if known is not None and residency.is_own(known) else None
        if known is not None and undoes(known, change):
            return self.move(Move(migration=known.id, kind=MoveKind.ABORT), change.by, now)
        is_known = known is not None and is_same(known, asked, change)
        if known is not None and is_known and (asked.action is not Action.LEASE or change.bench):  # it has one holder
            return self.reply(known if own is None or change.dry_run else self._taken_over(own, asked), observation)
        if known is own and change.action in (Action.MIGRATE, Action.SHADOW):
            plan = planning.migration if change.action is Action.MIGRATE else shadow_planning.shadow
            made = plan(change, observation, around, now)
            denial = made if isinstance(made, Denial) else None
            asked = with_migration(asked, made, observation) if isinstance(made, Migration) else asked
            asked = with_shadow(asked, made, observation) if isinstance(made, Shadow) else asked
        denial = denial or denials.denial(asked, None if own else known, self.kept.pins, observation)
        if denial is not None:
            return Reply(denial=denial)
        if change.dry_run:
            others = (one for one in self.running if one is not own)
            return self._foreseen(asked, replace(observation, operations=(*others, asked)))
        self._displace(own, asked, observation)
        if asked.action is Action.LEASE:
            asked = replace(asked, lease_ends=now + LEASE_S)
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
        if requested.seconds != 0:
            self._stays(route.name, observation, BY_IDLE)
        return Reply()

    def decided(self, found: Decided, observation: Observation, now: float) -> None:
        """By control itself, for a model that is loaded on request."""
        decision, model, other, why = found
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
            Decision.SLEEP: Change(action=Action.SLEEP, model=model, by=BY_IDLE),
            Decision.STOP: Change(action=Action.UNLOAD, model=model, by=BY_STOP),
            Decision.EVICT: leave(Action.UNLOAD),  # no request is cut
            Decision.EVICT_TO_SLEEP: leave(Action.SLEEP),
            Decision.RELEASE_RAM: Change(
                action=Action.UNLOAD, model=model, by=f"{BY_RAM} for {other}" if other else BY_RAM
            ),
        }[decision]
        accepted = self.ask(change, observation, workers=(), now=now).operation
        if why and accepted is not None and accepted.running:
            self._put(replace(accepted, why=shortened(why)))

    def move(self, move: Move, by: str, now: float) -> Reply:
        """Of a migration that runs."""
        operation = self.find(move.migration)
        if operation is None or operation.migration is None:
            return Reply(denial=denials.unknown_operation(move.migration))
        if not operation.running:
            text = f"Migration {operation.id} is over: {operation.state}, {operation.reason}."
            if operation.migration.promoted:
                text += f" `berth rollback {operation.model}` returns to the revision before."
            return Reply(denial=Denial(code=DenialCode.OVER, message=text))
        changed = migrations.moved(operation.migration, move, by, now)
        if changed is None:
            now_possible = ", ".join(migrations.possible(operation.migration)) or "nothing; it ends by itself"
            text = f"Migration {operation.id} is {operation.migration.phase}, where it cannot {move.kind}."
            return Reply(denial=Denial(code=DenialCode.OVER, message=f"{text} Possible now: {now_possible}."))
        if changed == operation.migration:
            return Reply(operation=operation)
        return Reply(operation=self.progressed(operation, changed))

    def progressed(self, operation: Operation, migration: Migration) -> Operation:
        """The operation with its migration as it is now."""
        changed = replace(operation, migration=migration)
        orders = dict(self.kept.orders)
        if migration.promoted:
            orders[operation.model] = migration.after
        elif orders.get(operation.model) == migration.after:
            orders[operation.model] = migration.before
        self._put(changed)
        self.kept = replace(self.kept, orders=orders)
        return changed

    def shadowed(self, operation: Operation, shadow: Shadow) -> Operation:
        """The operation with its shadow as it is now."""
        changed = replace(operation, shadow=shadow)
        self._put(changed)
        return changed

    def abort(self, operation: Operation, by: str, now: float) -> Reply:
        """A migration or a shadow that runs."""
        if operation.shadow is None:
            return self.move(Move(migration=operation.id, kind=MoveKind.ABORT), "berth cancel", now)
        return Reply(operation=self.shadowed(operation, shadows.ended(operation.shadow, f"stopped by {by}", now)))

    def cancel(self, number: str, now: float | None = None, by: str = "an operator") -> Reply:
        """What has not begun does not happen; a draining replica serves again. What has begun is not undone, except for
        a migration, which is rolled back, and a shadow, which ends.
        """
        operation = self.find(number)
        if operation is None:
            return Reply(denial=denials.unknown_operation(number))
        if (operation.migration is not None or operation.shadow is not None) and operation.running:
            return self.abort(operation, by, time.monotonic() if now is None else now)
        if operation.state is OperationState.CANCELLED:
            return Reply(operation=operation)
        if operation.running and operation.action is Action.LEASE:
            return Reply(operation=self._end_lease(operation, OperationState.CANCELLED, ""))
        if not operation.running or operation.action is Action.RELOAD:
            message = f"Operation {number} ({operation.action}) is over, or cannot be cancelled: {operation.state}."
            return Reply(denial=Denial(code=DenialCode.OVER, message=message))
        return Reply(operation=self._end(operation, OperationState.CANCELLED, ""))

    def renew(self, renewal: Renewal, observation: Observation, now: float) -> Reply:
        """Of a lease, by its holder. One that is ending is over for the holder."""
        lease = self.find(renewal.operation)
        if lease is None:
            return Reply(denial=denials.unknown_operation(renewal.operation))
        if lease.action is not Action.LEASE or not lease.running or lease.ending:
            message = f"Operation {lease.id} is no lease that can be renewed: {lease.reason or lease.state}."
            return Reply(denial=Denial(code=DenialCode.OVER, message=message))
        if renewal.replica not in ("", *lease.replicas):
            message = (
                f"{renewal.replica!r} is no replica of {lease.model!r} that Berth starts: {', '.join(lease.replicas)}."
            )
            return Reply(denial=Denial(code=DenialCode.INVALID, message=message))
        if renewal.ends:
            state = OperationState.FAILED if renewal.failure else OperationState.DONE
            return Reply(operation=self._end_lease(lease, state, renewal.failure[:LONGEST_FAILURE]))
        kept = (renewal.replica,) if renewal.replica else ()
        counts = {one.replica.name: one.starts for one in observation.records if one.replica.name in kept}
        starts = lease.starts if kept == lease.kept else counts
        progress = renewal.progress[:LONGEST_PROGRESS] or lease.progress
        renewed = replace(lease, kept=kept, starts=starts, lease_ends=now + LEASE_S, progress=progress)
        renewed = replace(renewed, key_digest=renewal.key_digest[:DIGEST_LENGTH])
        self._put(renewed)
        if progress != lease.progress:
            self._events.progress(renewed)
        return self.reply(renewed, replace(observation, operations=self.running))

    def take_bench(self) -> Operation | None:
        """For which the program is to be started now. Once for each such operation."""
        number, self._bench_due = self._bench_due, ""
        found = self.find(number)
        return found if found is not None and found.running and not found.ending else None

    def bench_waits(self, lease: Operation) -> None:
        """It is to be started later: the one before is still ending."""
        self._bench_due = lease.id

    def bench_failed(self, lease: Operation, reason: str) -> None:
        self._end_lease(lease, OperationState.FAILED, reason)

    def take_reload(self) -> bool:
        """Whether the router is to be reloaded now. True once for each such operation."""
        is_due, self._reload_due = self._reload_due, False
        for operation in self.running if is_due else ():
            if operation.action is Action.RELOAD:
                self._put(replace(operation, begun=True, reason="the workers before finish their requests"))
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
            elif operation.lease_ends is not None and not operation.ending and now >= operation.lease_ends:
                self._end_lease(operation, OperationState.FAILED, "its holder has not renewed the lease")
            elif found := requests.outcome(operation, observation, now):
                self._end(operation, found.state, found.reason)
                if operation.restores:
                    load = Change(action=Action.LOAD, model=operation.model, by="the end of a lease")
                    self.ask(load, replace(observation, operations=self.running), workers=(), now=now)

    def _foreseen(self, operation: Operation, observation: Observation) -> Reply:
        """With the models that make room."""
        steps: list[Step] = []
        for one in eviction.would_leave(operation, observation, self._last_used_at, self.kept.pins):
            change = Change(action=Action.SLEEP if one.sleeps else Action.UNLOAD, model=one.model)
            leaving = new_operation(change, observation, (), self._wall(), self.kept)
            why = f"its RAM is needed for the weights of {one.ram_for}" if one.ram_for else one.why
            steps += [replace(step, why=why) for step in requests.remaining(leaving, observation, self._costs)]
        reply = self.reply(operation, observation)
        if operation.action is Action.SLEEP and (route := denials.route_of(operation.model, observation)) is not None:
            why = sleepers.leave(route, sleepers.account(observation, {route.name: 0.0}, 0.0), ()).why
            reply = replace(reply, steps=tuple(replace(step, why=why) for step in reply.steps))
        return replace(reply, steps=(*steps, *reply.steps))

    def _stays(self, model: str, observation: Observation, by: str = "") -> None:
        """What leaves by Berth's own decision, and only drains yet, serves again. `by`: only if it leaves for that."""
        drains = any(one.replica.model == model and one.status is _S.DRAINING for one in observation.records)
        for one in self.running if drains else ():
            leaves = one.model == model and one.action is not Action.LOAD
            if leaves and residency.is_own(one) and one.by.startswith(by):
                self._end(one, OperationState.CANCELLED, "")

    def _displace(self, own: Operation | None, asked: Operation, observation: Observation) -> None:
        """What Berth does to the model by itself ends for what is requested, unless that is only a pin."""
        if asked.action is Action.PIN:
            self._stays(asked.model, observation)
        elif own is not None and asked.action is not Action.UNPIN:
            self._end(own, OperationState.CANCELLED, f"{asked.action} requested by {asked.by or 'someone'}")

    def _taken_over(self, own: Operation, asked: Operation) -> Operation:
        """From then on it is not for Berth to cancel."""
        taken = replace(own, by=asked.by)
        self._put(taken)
        log.info("operation taken over", **_shown(taken))
        self._events.operation(taken)
        return taken

    def _accept(self, operation: Operation, observation: Observation, now: float) -> Reply:
        pins = {**self.kept.pins}
        if operation.action is Action.PIN:
            pins.setdefault(operation.model, Pin(by=operation.by, since=operation.created_at))
        elif operation.action is Action.UNPIN:
            pins.pop(operation.model, None)
        operations = (*self.kept.operations, operation)
        over = [one.id for one in operations if not one.running][: max(0, len(operations) - HISTORY)]
        operations = tuple(one for one in operations if one.id not in over)  # a migration may run for hours
        self.kept = replace(self.kept, operations=operations, pins=pins)
        log.info("operation accepted", **_shown(operation))
        self._events.operation(operation)
        if operation.action in (Action.PIN, Action.UNPIN):
            return Reply(operation=self._end(operation, OperationState.DONE, ""))
        if operation.bench is not None:
            self._bench_due = operation.id
        if operation.action is Action.RELOAD:
            self._reload_due = True
        elif found := requests.outcome(operation, observation, now):
            return Reply(operation=self._end(operation, found.state, found.reason or "it is so already"))
        return self.reply(operation, observation)

    def _put(self, operation: Operation) -> None:
        """In place of what it was."""
        operations = tuple(operation if one.id == operation.id else one for one in self.kept.operations)
        self.kept = replace(self.kept, operations=operations)

    def _end_lease(self, lease: Operation, state: OperationState, reason: str) -> Operation:
        """It is over when nothing of the model runs any more."""
        ending = replace(lease, kept=(), key_digest="", ending=lease.ending or state, reason=lease.reason or reason)
        self._put(ending)
        return ending

    def _end(self, operation: Operation, state: OperationState, reason: str) -> Operation:
        ended = replace(operation, state=state, reason=reason, finished_at=self._wall())
        self._put(ended)
        scaled = operation.action is Action.SCALE and state is not OperationState.CANCELLED
        scales = {**self.kept.scales, **({operation.model: operation.kept} if scaled else {})}
        self.kept = replace(self.kept, scales=scales)
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
        bench=change.bench,
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
        restores=change.action is Action.LEASE and any(one.status is not _S.UNLOADED for one in records),
    )


def with_migration(operation: Operation, made: Migration, observation: Observation) -> Operation:
    starts = {one.replica.name: one.starts for one in observation.records if one.replica.name == made.candidate}
    replicas = tuple(name for name in made.before if name in (made.candidate, made.stable))
    return replace(operation, replicas=replicas, starts=starts, migration=made)


def with_shadow(operation: Operation, made: Shadow, observation: Observation) -> Operation:
    """Only a candidate that is started for it is one of the operation's replicas."""
    found = [one for one in observation.records if one.replica.name == made.candidate]
    starts = {one.replica.name: one.starts for one in found}
    return replace(operation, replicas=tuple(starts) if made.starts else (), starts=starts, shadow=made)


def undoes(known: Operation, change: Change) -> bool:
    """A rollback to what serves, or served, before a migration that is not over: that takes no start."""
    migration, options = known.migration, change.migrate
    if migration is None or options is None or not options.rolls_back or change.dry_run:
        return False
    return migration.phase in migrations.ABORTABLE and options.revision in (0, migration.revision - 1)


def is_same(known: Operation, asked: Operation, change: Change) -> bool:
    """The change was requested already."""
    if known.migration is not None:
        return known.action is asked.action and known.migration.options == change.migrate
    if known.shadow is not None:
        return known.action is asked.action and known.shadow.options == change.shadow
    if known.bench is not None:  # its engines run in turn
        return known.bench == change.bench and not known.ending
    return (known.action, known.replicas, known.kept) == (asked.action, asked.replicas, asked.kept)


def _shown(operation: Operation) -> dict[str, str]:
    fields = {"operation": operation.id, "action": operation.action, "model": operation.model, "by": operation.by}
    return {name: str(value) for name, value in fields.items() if value}
