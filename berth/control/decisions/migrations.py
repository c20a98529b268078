"""The state machine of a migration, pure: the next phase, and what it means for the replicas.

With room for two replicas:
starting -> checking -> shadowing, if it is wanted -> canary, step by step -> promoting -> settling -> retiring ->
done.
Without: holding -> starting -> checking -> trial -> promoting -> settling -> done. Requests are queued until its trial,
in which it answers all of them.
From each phase until settling it may roll back: the candidate gets no more requests at once, finishes those that it
has, and stops. Without room the replica before is started or woken again then, and requests are queued until it serves.

A candidate may bring another command line. It gets that while it rests: it is dressed. Where it is the replica that
serves itself, the migration is as one without room for two: the replica stops, is dressed, and starts.

A phase changes nothing by itself. What is to run and what is to rest follows from it, and the replicas' state machine
gets there, also after control has died in the middle of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from berth.control.decisions import gates
from berth.control.decisions.records import GIVEN_UP, LIVE, Goal, Record, Transition
from berth.control.decisions.restart_policy import History
from berth.ipc.migration import Counts, How, Migration, Move, MoveKind, Phase
from berth.ipc.operations import Action, Operation
from berth.plan import ModelRoute
from berth.state import ReplicaStatus

_S = ReplicaStatus
_P = Phase
AT_REST: Final = frozenset({_S.STANDBY, _S.UNLOADED, *GIVEN_UP})
_FAILED: Final = frozenset({_S.BACKOFF, _S.FAILED, _S.STOPPED, _S.UNHEALTHY, _S.STOPPING})
_HELD: Final = frozenset({_P.HOLDING, _P.STARTING, _P.CHECKING, _P.PROMOTING, _P.ROLLING_BACK})
_ENDS_OF_SLEEP: Final = frozenset({_S.READY, _S.ASLEEP, _S.UNLOADED})
_BY: Final = "by "  # begins why an operator has paused it
_MEASURED: Final = frozenset({_P.CANARY, _P.TRIAL})  # it is paused, and promoted by hand; probes make what is missing
_UNDECIDED: Final = frozenset({_P.HOLDING, _P.STARTING, _P.CHECKING, _P.SHADOWING, _P.PROMOTING, _P.SETTLING})
ABORTABLE: Final = _MEASURED | _UNDECIDED
PAIRS: Final = 50  # that a comparison needs


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the next phase depends on."""

    candidate: Record
    stable: Record
    starts: int  # of the candidate, when the migration was requested
    checked: str | None = None  # the result of the check: None while pending, "" if all is well, else what is wrong
    written: str | None = None  # the same of the revision
    not_free: str = ""  # who holds the memory that the candidate needs


def advance(migration: Migration, view: View, now: float) -> Migration:
    """The migration as it is from now on; the same one if nothing changes."""
    if migration.phase in ABORTABLE and (reason := broken(migration, view) or overdue(migration, now)):
        return roll_back(migration, reason, now)
    if migration.phase is _P.CANARY:
        return canary(migration, view, now)
    if migration.phase is _P.PROMOTING and view.written:
        reason = f"the revision cannot be written: {view.written}"
        return roll_back(migration, reason, now) if migration.how is How.SWAP else replace(migration, paused=reason)
    if migration.phase is _P.SHADOWING:
        return compared(migration, now)
    is_tried = now - migration.since >= migration.options.trial_s and not is_short(migration)
    is_kept = now - migration.since < migration.options.keep_s or bool(migration.paused)
    rules = {
        _P.HOLDING: (has_left(view.stable), _P.STARTING),
        _P.STARTING: (view.candidate.status is _S.READY and _is_dressed(migration), _P.CHECKING),
        _P.CHECKING: (view.checked == "", after_check(migration)),
        _P.TRIAL: (is_tried, _P.PROMOTING),
        _P.PROMOTING: (view.written == "", _P.SETTLING),
        _P.SETTLING: (not is_kept, _P.RETIRING),
        _P.RETIRING: (rested(view.stable) or migration.in_place, _P.DONE),
        _P.ROLLING_BACK: (_is_back(migration, view), _P.ROLLED_BACK),
    }
    is_due, following = rules.get(migration.phase, (False, migration.phase))
    if not is_due:
        return migration
    hold_since = 0.0 if following in (_P.TRIAL, _P.SETTLING) else migration.hold_since
    return replace(migration, phase=following, since=now, paused="", hold_since=hold_since)


def _is_back(migration: Migration, view: View) -> bool:
    """The replica before serves, or cannot; the candidate rests, as it was."""
    if migration.in_place:
        gave_up = view.stable.status in GIVEN_UP and view.stable.since > migration.since
        return not migration.dressed and (gave_up or view.stable.status is _S.READY)
    return not migration.dressed and has_left(view.candidate) and view.stable.status in (_S.READY, _S.FAILED)


def _is_dressed(migration: Migration) -> bool:
    return migration.dressed or not migration.revised


def must_dress(migration: Migration, candidate: Record) -> bool:
    """It rests, and is to start with the other command line."""
    return migration.phase is _P.STARTING and not _is_dressed(migration) and rested(candidate)


def must_undress(migration: Migration, candidate: Record) -> bool:
    """It rests, and is to be what it was."""
    return migration.phase is _P.ROLLING_BACK and migration.dressed and rested(candidate)


def roll_back(migration: Migration, reason: str, now: float) -> Migration:
    holds = now if migration.how is How.SWAP and not migration.rolling else 0.0
    return replace(migration, phase=_P.ROLLING_BACK, since=now, reason=reason, paused="", hold_since=holds)


def moved(migration: Migration, move: Move, by: str, now: float) -> Migration | None:
    """What an operator wants of it: the same migration where that is so already. None: not in this phase."""
    phase, found = migration.phase, None
    waits = not migration.paused.startswith(_BY)  # it is not paused, or by what it waits for
    match move.kind:
        case MoveKind.PAUSE if phase in (*_MEASURED, _P.SETTLING):
            found = replace(migration, paused=f"{_BY}{by}") if waits else migration
        case MoveKind.RESUME if phase in (*_MEASURED, _P.PROMOTING, _P.SETTLING):
            found = replace(migration, paused="", since=now) if migration.paused else migration
        case MoveKind.PROMOTE if phase in (*_MEASURED, _P.SETTLING):
            following = _P.PROMOTING if phase in _MEASURED else _P.RETIRING
            found = replace(migration, phase=following, since=now, paused="")
        case MoveKind.ABORT if phase in ABORTABLE:
            found = roll_back(migration, f"aborted by {by}", now)
        case MoveKind.PROMOTE if phase in (_P.PROMOTING, _P.RETIRING):
            found = migration
        case MoveKind.ABORT if phase is _P.ROLLING_BACK:
            found = migration
        case _:
            pass
    return found


def possible(migration: Migration) -> tuple[MoveKind, ...]:
    """What an operator may do with it now."""
    return tuple(
        kind for kind in MoveKind if moved(migration, Move(migration="", kind=kind), "", 0.0) not in (None, migration)
    )


def is_quiet(migration: Migration, now: float) -> bool:
    """Its step has lasted long enough, and has not had enough requests: probes are due."""
    lasts_s = migration.options.trial_s if migration.phase is _P.TRIAL else migration.options.step_s
    is_due = migration.phase in _MEASURED and not migration.paused and now - migration.since >= lasts_s
    return is_due and is_short(migration)


def step(record: Record, operation: Operation, now: float) -> Transition | None:
    """What the migration does with a replica now."""
    migration, name, status = operation.migration, record.replica.name, record.status
    if migration is None:
        return None
    reason, found = f"{operation.action} to {migration.candidate}", None
    if sleeps(migration, name) and status in _ENDS_OF_SLEEP:
        found = to_sleep(record, migration, reason, now + operation.drain_s)
    elif rests(migration, name):
        found = to_standby(record, reason, now + operation.drain_s)
    elif runs(migration, name):
        if status in (_S.STANDBY, _S.UNLOADED):
            found = Transition(name=name, to=_S.WAITING, reason=reason)
        elif status in GIVEN_UP and (operation.starts.get(name) == record.starts or returns(migration, record)):
            found = Transition(name=name, to=_S.WAITING, reason=reason, history=History())
    return found


def to_sleep(record: Record, migration: Migration, reason: str, drain_ends: float) -> Transition | None:
    """The next step of the stable replica that sleeps while the other one serves, and is stopped at the end."""
    name = record.replica.name
    match record.status:
        case _S.READY:
            return Transition(name=name, to=_S.DRAINING, reason=reason, goal=Goal.ASLEEP, drain_ends=drain_ends)
        case _S.ASLEEP if migration.phase is _P.RETIRING:
            return Transition(name=name, to=_S.STOPPING, reason=reason, goal=Goal.STANDBY)
        case _S.UNLOADED:  # it was stopped instead, or has died
            return Transition(name=name, to=_S.STANDBY, reason=record.reason)
        case _:
            return None


def to_standby(record: Record, reason: str, drain_ends: float) -> Transition | None:
    """The next step of a replica that is to be at rest."""
    name = record.replica.name
    match record.status:
        case _S.READY:
            return Transition(name=name, to=_S.DRAINING, reason=reason, goal=Goal.STANDBY, drain_ends=drain_ends)
        case _S.STARTING:
            return Transition(name=name, to=_S.STOPPING, reason=reason, goal=Goal.STANDBY)
        case _S.WAITING | _S.BACKOFF:
            return Transition(name=name, to=_S.STANDBY, reason=reason)
        case _:
            return None


def returns(migration: Migration, record: Record) -> bool:
    """It has failed with the other command line, and is to start as before."""
    is_as_before = migration.phase is _P.ROLLING_BACK and not migration.dressed
    return migration.in_place and is_as_before and record.since <= migration.since


def rests(migration: Migration, name: str) -> bool:
    """The migration wants the replica not to run."""
    if migration.in_place:
        leaves = migration.phase is _P.HOLDING or (migration.phase is _P.ROLLING_BACK and migration.dressed)
        return leaves and name == migration.candidate
    if migration.phase in (_P.ROLLING_BACK, _P.ROLLED_BACK):
        return name == migration.candidate
    leaves = migration.phase is _P.RETIRING or migration.how is How.SWAP
    return leaves and name == migration.stable


def sleeps(migration: Migration, name: str) -> bool:
    """The migration wants the replica to sleep, so that it is back soon: it neither serves nor stops."""
    return migration.sleeps and name == migration.stable and rests(migration, name)


def runs(migration: Migration, name: str) -> bool:
    """The migration wants the replica to run."""
    if migration.phase in (_P.ROLLING_BACK, _P.ROLLED_BACK):
        is_before = not (migration.in_place and migration.dressed)
        return name == migration.stable and migration.how is How.SWAP and is_before
    return name == migration.candidate and migration.phase is not _P.HOLDING and _is_dressed(migration)


def may_start(record: Record, operation: Operation | None, records: Mapping[str, Record]) -> bool:
    """Without room for two, one starts when the other has left."""
    migration = operation.migration if operation is not None else None
    if migration is None or migration.how is not How.SWAP or not runs(migration, record.replica.name):
        return True
    others = {migration.candidate, migration.stable} - {record.replica.name}
    return all(has_left(records[name]) for name in others)


def keeps_back(record: Record, operations: Iterable[Operation]) -> bool:
    """It is a standby that takes over from nothing now: the migration wants it to rest, or undoes in its own place what
    has failed.
    """
    found = (one.migration for one in operations if one.model == record.replica.model and one.migration is not None)
    return any(one.in_place or rests(one, record.replica.name) for one in found)


def wakes(operation: Operation | None, name: str) -> bool:
    """It is woken for a migration, a warm standby or one that was put to sleep for it: nothing has failed."""
    migration = operation.migration if operation is not None else None
    return migration is not None and (name == migration.candidate or runs(migration, name))


def returns_awake(record: Record, operation: Operation, records: Iterable[Record]) -> bool:
    """The migration has put it to sleep, and wakes it again now: the other one has left."""
    known, migration = {one.replica.name: one for one in records}, operation.migration
    return migration is not None and runs(migration, record.replica.name) and may_start(record, operation, known)


def unproven(operations: Iterable[Operation]) -> frozenset[str]:
    """The candidates that run, and get no requests yet."""
    early = (_P.STARTING, _P.CHECKING, _P.SHADOWING)
    found = (one.migration for one in operations if one.migration is not None)
    return frozenset(
        one.candidate
        for one in found
        if one.phase in early or (one.how is How.SWAP and not (one.promoted or serves_all(one) or _is_undone(one)))
    )


def _is_undone(migration: Migration) -> bool:
    """It is rolled back. In place, the candidate then is the engine before again, and serves as soon as it can."""
    is_again = migration.in_place and migration.phase is _P.ROLLING_BACK and not migration.dressed
    return is_again or migration.phase is _P.ROLLED_BACK


def serves_all(migration: Migration) -> bool:
    """It is tried, or was, and is about to be promoted."""
    is_tried = migration.phase is _P.PROMOTING and migration.options.trial_s > 0
    return migration.phase is _P.TRIAL or is_tried


def held(operations: Iterable[Operation]) -> frozenset[str]:
    """The replicas for which requests are queued: one of them serves soon."""
    found = (one.migration for one in operations if one.migration is not None)
    return frozenset(
        name for one in found if one.hold_since and one.phase in _HELD for name in (one.candidate, one.stable)
    )


def effective(route: ModelRoute, orders: Mapping[str, tuple[str, ...]], operations: Iterable[Operation]) -> ModelRoute:
    """The route with the order that was promoted. While two replicas of a model run, it takes its room twice."""
    doubled = any(
        one.model == route.name
        and (
            (one.action is Action.MIGRATE and one.migration and one.migration.how is How.BOTH)
            or (one.shadow is not None and one.shadow.starts)
        )
        for one in operations
    )
    room = {device: 2 * taken for device, taken in route.room.items()} if doubled else route.room
    return replace(route, replicas=orders.get(route.name, route.replicas), room=room)


def after_check(migration: Migration) -> Phase:
    """Without room for two there is nothing to compare with, and no share: a trial with all requests."""
    if migration.how is How.SWAP:
        return _P.TRIAL if migration.options.trial_s > 0 else _P.PROMOTING
    return _P.SHADOWING if migration.options.shadow else _P.CANARY


def compared(migration: Migration, now: float) -> Migration:
    """Until enough answers are compared, or the time of a step is over: too little traffic does not fail, since the
    canary has gates of its own.
    """
    pairs = gates.pairs(migration.shadow.counts) if migration.shadow is not None else 0
    if pairs < PAIRS and now - migration.since < migration.options.step_s:
        return migration
    return replace(migration, phase=_P.CANARY, since=now)


def canary(migration: Migration, view: View, now: float) -> Migration:
    waits = f"{migration.stable} does not serve: the candidate answers all until it does, or until promote or abort"
    if view.stable.status is not _S.READY:
        return migration if migration.paused else replace(migration, paused=waits)
    if migration.paused == waits:
        return replace(migration, paused="", since=now)
    if migration.paused or now - migration.since < migration.options.step_s:
        return migration
    if is_short(migration):
        return migration
    if migration.step + 1 < len(migration.options.steps):
        return replace(migration, step=migration.step + 1, since=now)
    return replace(migration, phase=_P.PROMOTING, since=now)


def is_short(migration: Migration) -> bool:
    """Of attempts by the end of the step, or it is paused. What was counted in earlier steps counts on."""
    wanted = migration.options.step_requests * (migration.step + 1)
    return bool(migration.paused) or migration.own.attempts < wanted


def overdue(migration: Migration, now: float) -> str:
    """Requests have been queued for too long; "": they have not."""
    held_s, limit_s = now - migration.hold_since, migration.options.hold_s
    if not migration.hold_since or held_s <= limit_s:
        return ""
    return f"requests were queued for {held_s:.0f} s, and `hold` allows {limit_s:g} s"


def broken(migration: Migration, view: View) -> str:
    """Why it must be rolled back; "": it need not."""
    record = view.candidate
    begun = record.starts > view.starts or record.status in LIVE
    if view.not_free:
        return f"memory_not_free: {view.not_free}"
    if migration.phase is _P.STARTING and not _is_dressed(migration) and not rested(record):
        return f"{migration.candidate} was started in place of another replica, with the command line that it had"
    if begun and migration.phase is not _P.HOLDING and record.status in _FAILED:
        return f"{migration.candidate} is {record.status}: {record.reason}"
    if migration.phase is _P.CHECKING and view.checked:
        return f"the check failed: {view.checked}"
    failed = ""
    if migration.phase is _P.SHADOWING and migration.shadow is not None:
        failed = gates.shadow_failed(migration.shadow.counts)
    elif migration.phase in (*_MEASURED, _P.PROMOTING, _P.SETTLING):
        failed = gates.failed(migration.own, migration.other)
    return failed


def rested(record: Record) -> bool:
    """Its process has ended, with all that belongs to it."""
    return record.status in AT_REST and record.cleaned_up


def has_left(record: Record) -> bool:
    """It rests, or sleeps: the other one may take the GPUs."""
    return rested(record) or record.status is _S.ASLEEP


def shown(counts: Counts) -> str:
    probes = f", {counts.probes} of them probes" if counts.probes else ""
    return f"{counts.attempts} requests{probes}, {counts.failures} failed"
