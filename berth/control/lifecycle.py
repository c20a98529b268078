"""The state machine of a replica, pure: the allowed moves, and `decide`.

All times are seconds on time.monotonic()'s clock.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from berth.control import restart_policy, standby
from berth.control.diagnosis import HOPELESS_EXITS, Failure
from berth.control.load_progress import Tracker
from berth.control.probes import Health
from berth.control.records import LIVE, Observation, Record, Transition
from berth.control.supervisord_client import Process, ProcessState
from berth.plan import ModelRoute, Plan, Replica, Standby
from berth.state import ReplicaStatus

_S = ReplicaStatus

_ENDS = frozenset({_S.BACKOFF, _S.STANDBY, _S.FAILED, _S.STOPPED})  # of a process

TRANSITIONS: Mapping[ReplicaStatus, frozenset[ReplicaStatus]] = {
    _S.STANDBY: frozenset({_S.WAITING, _S.STOPPED}),
    _S.WAITING: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STARTING: frozenset({_S.READY, _S.FALLING_ASLEEP, _S.STOPPING, *_ENDS}),
    _S.FALLING_ASLEEP: frozenset({_S.ASLEEP, _S.STOPPING, *_ENDS}),
    _S.ASLEEP: frozenset({_S.WAKING, _S.STOPPING, _S.STANDBY, _S.STOPPED}),
    _S.WAKING: frozenset({_S.READY, _S.STOPPING, *_ENDS}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.STOPPING, *_ENDS}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.STOPPING, *_ENDS}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STOPPING: _ENDS,
    _S.STOPPED: frozenset({_S.STARTING}),  # by hand only
    _S.FAILED: frozenset({_S.STARTING}),  # by hand only
}

BERTH_STOPS = "Berth stops"

HOPELESS_LIMIT = 2  # starts of an engine whose log says that the next one would fail in the same way


def first_records(plan: Plan, now: float) -> tuple[Record, ...]:
    """Every replica as it is before anything was started. Attached ones count as ready until a probe fails."""
    return tuple(Record(replica=replica, status=_first_status(plan, replica), since=now) for replica in plan.replicas)


def decide(view: Observation, now: float) -> tuple[Transition, ...]:
    """What to do now. Each replica makes one move at most."""
    if view.shutting_down:
        return tuple(_wind_down(view))
    moves = [move for record in view.records if (move := _next(record, view, now)) is not None]
    moved = {move.name for move in moves}
    moves += [move for move in _granted(view, now) if move.name not in moved]
    return tuple(moves)


def apply(record: Record, move: Transition, now: float) -> Record:
    """The record after the move. ValueError for a move that the table does not allow."""
    if move.to not in TRANSITIONS[record.status]:
        raise ValueError(f"{record.replica.name}: no way from {record.status} to {move.to}")
    changed = replace(
        record,
        status=move.to,
        since=now,
        reason=move.reason,
        origin=move.origin or record.origin,
        next_start_at=move.next_start_at,
        last_lines=move.last_lines,
        history=move.history or record.history,
    )
    if move.to is _S.STARTING:
        return replace(
            changed, starts=record.starts + 1, tracker=Tracker(), moved_at=now, health=Health(), clear=False, pid=None
        )
    if move.to in (_S.FALLING_ASLEEP, _S.WAKING):
        return replace(changed, health=Health(), answer=None)
    return replace(changed, pid=None) if move.to in _ENDS else changed


def failed(record: Record, why: Failure, view: Observation, now: float, *, limit: int | None = None) -> Transition:
    """The move of a replica that has just failed: once more after a pause, or never again; or it gives way to one that
    sleeps. `limit` is a number of failures smaller than the brake's, for those that more starts will not heal.
    """
    brake = view.restarts
    history = restart_policy.after_failure(record.history, now, brake)
    delay_s = restart_policy.delay_s(history, brake, limit or brake.failures)
    if delay_s is not None:
        to, reason, next_start_at = _S.BACKOFF, why.reason, now + delay_s
    else:
        times = "at once" if history.count == 1 else f"after {history.count} failures, the last"
        to, reason, next_start_at = _S.FAILED, f"gave up {times}: {why.reason}", None
    move = Transition(
        name=record.replica.name,
        to=to,
        reason=reason,
        next_start_at=next_start_at,
        history=history,
        last_lines=why.last_lines,
    )
    return standby.yielding(record, move, view)


def waits_for(record: Record, records: Iterable[Record]) -> str:
    """Why a replica that waits does not start yet, in words."""
    devices = restart_policy.devices(record.replica)
    names = [
        other.replica.name
        for other in records
        if other.holds_lease and other is not record and not devices.isdisjoint(restart_policy.devices(other.replica))
    ]
    return f"waits for {', '.join(names)}: one start or stop at a time per device" if names else ""


def _first_status(plan: Plan, replica: Replica) -> ReplicaStatus:
    if replica.launch is None:
        return _S.READY
    return _S.STANDBY if any(_before(plan.models, plan.replicas, replica.name)) else _S.WAITING


def _before(routes: tuple[ModelRoute, ...], replicas: tuple[Replica, ...], name: str) -> Iterator[str]:
    """The launched replicas that stand before this one in a cold order."""
    launched = {replica.name for replica in replicas if replica.launch is not None}
    for route in routes:
        if route.standby is Standby.COLD and name in route.replicas:
            yield from (other for other in route.replicas[: route.replicas.index(name)] if other in launched)


def _next(record: Record, view: Observation, now: float) -> Transition | None:
    if record.attached:
        return _attached(record, view)
    if record.status is _S.STANDBY:
        return _stand_in(record, view)
    process = view.processes.get(record.replica.name)
    if record.status not in LIVE:
        return _by_hand(record, process)
    if process is None or not process.alive:
        return _gone(record, process, view, now)
    if record.status is _S.STARTING:
        return _starting(record, view, now)
    return _told(record) if record.status in (_S.FALLING_ASLEEP, _S.WAKING) else _serving(record, view)


def _attached(record: Record, view: Observation) -> Transition | None:
    """Somebody else's server: it is only looked at. One that never answered is not given three tries."""
    name, health = record.replica.name, record.health
    if record.status is _S.UNHEALTHY and health.answered:
        return Transition(name=name, to=_S.READY)
    limit = view.timing.alive_failures if health.ever else 1
    if record.status is _S.READY and health.failures >= limit:
        return Transition(name=name, to=_S.UNHEALTHY, reason=health.error)
    return None


def _stand_in(record: Record, view: Observation) -> Transition | None:
    """A cold standby takes over when all before it have failed for good and their GPUs are free."""
    if standby.order(record, view):
        return standby.stand_in(record, view)
    replicas = tuple(other.replica for other in view.records)
    known = {other.replica.name: other for other in view.records}
    before = [known[name] for name in _before(view.routes, replicas, record.replica.name)]
    if any(other.status is not _S.FAILED or not other.clear for other in before):
        return None
    last = before[-1]
    origin = f"took over from {last.replica.name}, which failed: {last.reason}"
    return Transition(name=record.replica.name, to=_S.WAITING, origin=origin)


def _by_hand(record: Record, process: Process | None) -> Transition | None:
    """An operator may start with supervisorctl what stands still; then it is looked after like any other."""
    if record.status in (_S.STOPPED, _S.FAILED) and record.clear and process is not None and process.alive:
        return Transition(name=record.replica.name, to=_S.STARTING, reason="started by hand, with supervisorctl")
    return None


def _gone(record: Record, process: Process | None, view: Observation, now: float) -> Transition:
    name = record.replica.name
    if process is not None and process.state is ProcessState.STOPPED and record.status is not _S.STOPPING:
        return Transition(name=name, to=_S.STOPPED, reason="stopped by hand, with supervisorctl")
    evidence = view.failures.get(name, Failure())
    code = process.exit_code if process else None
    if record.status is _S.STOPPING:
        why = replace(evidence, reason=_with_kill(record.reason, evidence))
        return failed(record, why, view, now)
    why = replace(evidence, reason=_reason(evidence, process))
    if record.status is _S.ASLEEP:
        return Transition(
            name=name, to=_S.STANDBY, reason=f"died in its sleep: {why.reason}", last_lines=why.last_lines
        )
    return failed(record, why, view, now, limit=_limit(record, code, evidence))


def _limit(record: Record, code: int | None, evidence: Failure) -> int | None:
    if record.status is not _S.STARTING or record.health.ever:
        return None
    if code in HOPELESS_EXITS:
        return 1
    return HOPELESS_LIMIT if evidence.hopeless else None


def _reason(evidence: Failure, process: Process | None) -> str:
    if process is not None and process.never_ran:
        return f"could not be started: {process.spawn_error}"
    code = process.exit_code if process else None
    if code == -1:
        told = f". Its log's last words: {evidence.reason}" if evidence.reason else ""
        return f"{_killer(evidence)}{told}"
    ended = f"exit code {code}" if code is not None else "gone"
    told = f"{evidence.reason} ({ended})" if evidence.reason else f"{ended}, and its log says nothing"
    return _with_kill(told, evidence)


def _killer(evidence: Failure) -> str:
    if evidence.out_of_memory:
        return f"killed by the kernel: {evidence.out_of_memory}"
    if evidence.signal == "SIGKILL":
        return "killed by SIGKILL from outside"
    return f"ended by {evidence.signal or 'a signal'}"


def _with_kill(told: str, evidence: Failure) -> str:
    if not evidence.out_of_memory:
        return told
    return f"a process of it was killed by the kernel: {evidence.out_of_memory}. Then: {told}"


def _starting(record: Record, view: Observation, now: float) -> Transition | None:
    name, limit_s = record.replica.name, record.replica.start_timeout_s
    if record.health.answered and standby.is_to_sleep(record, view):
        return Transition(name=name, to=_S.FALLING_ASLEEP, history=restart_policy.after_ready(record.history))
    if record.health.answered:
        return Transition(name=name, to=_S.READY, history=restart_policy.after_ready(record.history))
    if now - max(record.moved_at, record.since) <= limit_s:
        return None
    phase = record.tracker.progress.phase
    reason = f"not ready after {limit_s:g} s without progress, in phase {phase!r}: {record.health.error}"
    return Transition(name=name, to=_S.STOPPING, reason=reason)


def _told(record: Record) -> Transition | None:
    """It was told to sleep or to wake: what it made of it."""
    name, answer = record.replica.name, record.answer
    dozing = record.status is _S.FALLING_ASLEEP
    if answer is None:
        return None
    if answer:
        what = "could not be put to sleep" if dozing else "could not be woken"
        return Transition(name=name, to=_S.STOPPING, reason=f"{what}: {answer}")
    return Transition(name=name, to=_S.ASLEEP if dozing else _S.READY)


def _serving(record: Record, view: Observation) -> Transition | None:
    name, health = record.replica.name, record.health
    if record.status is _S.READY and health.failures >= view.timing.alive_failures:
        reason = f"{health.failures} liveness probes in a row failed: {health.error}"
        return Transition(name=name, to=_S.UNHEALTHY, reason=reason)
    if record.status is _S.UNHEALTHY:
        return Transition(name=name, to=_S.STOPPING, reason=record.reason)
    return None


def _granted(view: Observation, now: float) -> tuple[Transition, ...]:
    """Those that may start now: first the ones that are to wake, then those that wait for their turn, then those whose
    pause is over.
    """
    asleep = list(standby.wakers(view))
    waiting = [one for one in view.records if one.status is _S.WAITING and not standby.is_held_back(one, view)]
    due = [r for r in view.records if r.status is _S.BACKOFF and r.next_start_at is not None and r.next_start_at <= now]
    ready = [*asleep, *(record for record in (*waiting, *due) if record.clear)]
    names = restart_policy.grant(
        [one.replica for one in ready], [one.replica for one in view.records if one.holds_lease]
    )
    waking = {one.replica.name: standby.took_over(one, standby.order(one, view)) for one in asleep}
    return tuple(
        Transition(name=name, to=_S.WAKING, origin=waking[name])
        if name in waking
        else Transition(name=name, to=_S.STARTING)
        for name in names
    )


def _wind_down(view: Observation) -> Iterator[Transition]:
    """Supervisord ends the engines itself, and first lets the router finish what it has: those that are ready still
    serve.
    """
    for record in view.records:
        if record.attached or record.status in (_S.READY, _S.STOPPING, _S.STOPPED, _S.FAILED):
            continue
        to = _S.STOPPING if record.status in LIVE else _S.STOPPED
        yield Transition(name=record.replica.name, to=to, reason=BERTH_STOPS)
