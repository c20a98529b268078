"""The state machine of a replica, pure: the allowed transitions, and `decide`.

All times are seconds on time.monotonic()'s clock.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from berth.control.decisions import migrations, requests, restart_policy, standby
from berth.control.decisions.records import LIVE, Goal, GpuMemory, Observation, Record, Transition
from berth.control.diagnosis import HOPELESS_EXITS, Failure
from berth.control.logs.load_progress import Tracker
from berth.control.probes import Health
from berth.control.supervisord_client import Process, ProcessState
from berth.plan import Load, Plan, Replica
from berth.state import BERTH_STOPS, AttachedFault, ReplicaStatus

_S = ReplicaStatus

_EXITED = frozenset({_S.BACKOFF, _S.STANDBY, _S.FAILED, _S.STOPPED, _S.UNLOADED})

TRANSITIONS: Mapping[ReplicaStatus, frozenset[ReplicaStatus]] = {
    _S.UNLOADED: frozenset({_S.WAITING, _S.STANDBY, _S.STARTING}),  # STARTING: by hand
    _S.STANDBY: frozenset({_S.WAITING, _S.STOPPED, _S.UNLOADED}),
    _S.WAITING: frozenset({_S.STARTING, _S.STANDBY, _S.STOPPED, _S.UNLOADED}),
    _S.STARTING: frozenset({_S.READY, _S.FALLING_ASLEEP, _S.UNHEALTHY, _S.STOPPING, *_EXITED}),
    _S.FALLING_ASLEEP: frozenset({_S.ASLEEP, _S.STOPPING, *_EXITED}),
    _S.ASLEEP: frozenset({_S.WAKING, _S.STOPPING, _S.STANDBY, _S.STOPPED, _S.UNLOADED}),
    _S.WAKING: frozenset({_S.READY, _S.STOPPING, *_EXITED}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.DRAINING, _S.STARTING, _S.STOPPING, *_EXITED}),  # STARTING: attached only
    _S.DRAINING: frozenset({_S.READY, _S.FALLING_ASLEEP, _S.STOPPING, *_EXITED}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.STARTING, _S.STOPPING, *_EXITED}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.WAITING, _S.STANDBY, _S.STOPPED, _S.UNLOADED}),
    _S.STOPPING: _EXITED | {_S.WAITING},
    _S.STOPPED: frozenset({_S.STARTING, _S.WAITING, _S.UNLOADED}),  # STARTING: by hand
    _S.FAILED: frozenset({_S.STARTING, _S.WAITING, _S.UNLOADED}),  # STARTING: by hand
}

# Left as they are while Berth stops: they serve, or do not run.
_LEFT = frozenset({_S.READY, _S.DRAINING, _S.STOPPING, _S.STOPPED, _S.FAILED, _S.UNLOADED})

HOPELESS_LIMIT = 2  # starts of an engine whose log shows that the next one would fail in the same way


def first_records(plan: Plan, now: float) -> tuple[Record, ...]:
    """Every replica before anything is started, and before any attached server is asked."""
    on_request = {name for route in plan.models if route.load is Load.ON_REQUEST for name in route.replicas}
    spares = {name for route in plan.models for name in set(route.replicas).difference(route.loaded_at_start)}

    def first(replica: Replica) -> Record:
        if replica.attached:
            return Record(replica=replica, status=_S.STARTING, since=now, reason=AttachedFault.UNASKED)
        if replica.name in on_request:
            return Record(replica=replica, status=_S.UNLOADED, since=now, reason="loaded on request")
        if replica.name in spares:
            return Record(replica=replica, status=_S.UNLOADED, since=now, reason="loaded by `berth scale`")
        status = standby.first_status(plan.models, plan.replicas, replica.name)
        return Record(replica=replica, status=status, since=now)

    return tuple(map(first, plan.replicas))


def decide(observation: Observation, now: float) -> tuple[Transition, ...]:
    """What to do now: at most one transition per replica."""
    if observation.shutting_down:
        return tuple(on_shutdown(observation))
    found = [
        next_transition(one, observation, now) or requests.step(one, observation, now) for one in observation.records
    ]
    transitions = [transition for transition in found if transition is not None]
    changed = {transition.name for transition in transitions}
    transitions += [transition for transition in grant_starts(observation, now) if transition.name not in changed]
    return tuple(transitions)


def apply(record: Record, transition: Transition, now: float) -> Record:
    """The record after the transition. ValueError for a transition that the table does not allow."""
    to = transition.to
    if to not in TRANSITIONS[record.status]:
        raise ValueError(f"{record.replica.name}: no transition from {record.status} to {to}")
    loaded = (record.status, to) == (_S.STARTING, _S.READY)
    changed = replace(
        record,
        status=to,
        since=now,
        reason=transition.reason,
        origin=transition.origin or record.origin,
        next_start_at=transition.next_start_at,
        last_lines=transition.last_lines,
        history=transition.history or record.history,
        goal=transition.goal,
        drain_ends=transition.drain_ends,
        drain_sequence=None,
        cannot_sleep=transition.cannot_sleep or record.cannot_sleep,
        wakes=None if to is _S.READY else transition.wakes or record.wakes,
        instead_of_sleep=transition.instead_of_sleep or record.instead_of_sleep,
        load=record.load if to is _S.DRAINING else None,
        phases=record.phases_until(now) if loaded else record.phases,
        load_s=now - record.since if loaded else record.load_s,
    )
    if (record.status, to) == (_S.WAKING, _S.READY):
        return replace(changed, phases={"wake": round(now - record.since, 2)})
    if to is _S.STARTING and not record.attached:
        fresh = replace(changed, tracker=Tracker(), health=Health(), defect="", pid=None, cleaned_up=False, phases={})
        fresh = replace(fresh, progressed_at=now, active_at=now, phase_since=now, adapters=(), adapter_errors={})
        generation, gpu = transition.generation or record.generation, GpuMemory(residue=record.gpu.residue)
        started = replace(fresh, wakes=None, instead_of_sleep="", gpu=gpu)
        return replace(started, starts=record.starts + 1, generation=generation)
    if to in (_S.FALLING_ASLEEP, _S.WAKING):  # its adapters are loaded again afterwards
        return replace(changed, health=Health(), sleep_result=None, adapters=(), adapter_errors={})
    return replace(changed, pid=None) if to in _EXITED or to is _S.WAITING else changed


def failed(
    record: Record, failure: Failure, observation: Observation, now: float, *, limit: int | None = None
) -> Transition:
    """The transition after a failure. There are three cases: 1. too many failures: it has failed permanently 2. another
    replica takes its place: it becomes a cold standby 3. it is restarted after a delay. `limit` is a lower number of
    failures than the configured one, for causes that a restart will not fix.
    """
    restarts = observation.restarts
    served = record.health.ever_ok or record.status in (_S.READY, _S.DRAINING, _S.UNHEALTHY)
    history = restart_policy.after_failure(record.history, now, restarts, served=served)
    backoff_s = restart_policy.backoff_s(history, restarts, limit or restarts.failures)
    to, reason, next_start_at = _S.BACKOFF, failure.reason, None
    if backoff_s is None:
        times = "at once" if history.count == 1 else f"after {history.count} failures, the last"
        to, reason = _S.FAILED, f"gave up {times}: {failure.reason}"
    elif standby.policy(record, observation).must_yield():
        to = _S.STANDBY
    else:
        next_start_at = now + backoff_s
        if count := restart_policy.flapping(history, now):
            reason = f"flapping, ready and failed {count} times within an hour, the last: {failure.reason}"
    return Transition(
        name=record.replica.name,
        to=to,
        reason=reason,
        next_start_at=next_start_at,
        history=history,
        last_lines=failure.last_lines,
    )


def waiting_reason(record: Record, records: Iterable[Record]) -> str:
    """Why a waiting replica does not start yet, for the operator."""
    devices = restart_policy.devices(record.replica)
    names = [
        other.replica.name
        for other in records
        if other.holds_lease and other is not record and not devices.isdisjoint(restart_policy.devices(other.replica))
    ]
    return f"waits for {', '.join(names)}: one start or stop at a time per device" if names else ""


def next_transition(record: Record, observation: Observation, now: float) -> Transition | None:
    """All transitions but the starts that need a lease."""
    process = observation.processes.get(record.replica.name)
    if record.attached:
        return on_attached_probe(record, observation)
    if record.status not in LIVE:
        is_standby = record.status is _S.STANDBY
        return activate_standby(record, observation) if is_standby else adopt_manual_start(record, process)
    if process is None or not process.alive:
        return on_exit(record, process, observation, now)
    end = observation.ends.get(record.replica.name)
    if end is not None and record.status is not _S.STOPPING:
        return Transition(name=record.replica.name, to=_S.STOPPING, reason=end.reason, goal=end.goal)
    return while_running(record, observation, now)


def while_running(record: Record, observation: Observation, now: float) -> Transition | None:
    """Of an engine whose process runs, and whose other ranks do."""
    if record.status is _S.STARTING:
        return on_started(record, observation, now)
    if record.status is _S.DRAINING:
        return requests.on_drain(record, observation, now)
    calls = record.status in (_S.FALLING_ASLEEP, _S.WAKING)
    return on_sleep_result(record, observation) if calls else on_liveness(record, observation)


def on_attached_probe(record: Record, observation: Observation) -> Transition | None:
    """An attached server is only probed. While it is not ready, every probe decides."""
    name, health = record.replica.name, record.health
    is_ready = record.status is _S.READY
    if health.ok:
        return None if is_ready else Transition(name=name, to=_S.READY)
    to = _S.STARTING if health.loading else _S.UNHEALTHY
    limit = observation.timing.alive_failures if is_ready else 1
    if health.failures < limit or to is record.status:
        return None
    return Transition(name=name, to=to, reason=health.error)


def activate_standby(record: Record, observation: Observation) -> Transition | None:
    if migrations.keeps_back(record, observation.operations):
        return None
    origin = standby.policy(record, observation).activation()
    return None if origin is None else Transition(name=record.replica.name, to=_S.WAITING, origin=origin)


def adopt_manual_start(record: Record, process: Process | None) -> Transition | None:
    """An operator may start a stopped or failed replica with supervisorctl. Control then supervises it again."""
    if (
        record.status in (_S.STOPPED, _S.FAILED, _S.UNLOADED)
        and record.cleaned_up
        and process is not None
        and process.alive
    ):
        return Transition(name=record.replica.name, to=_S.STARTING, reason="started by hand, with supervisorctl")
    return None


def on_exit(record: Record, process: Process | None, observation: Observation, now: float) -> Transition:
    name, failure = record.replica.name, observation.failures.get(record.replica.name, Failure())
    if record.status is _S.STOPPING and record.goal is not None:  # by request
        to = {Goal.LOADED: _S.WAITING, Goal.STANDBY: _S.STANDBY}.get(record.goal, _S.UNLOADED)
        return Transition(name=name, to=to, reason=record.reason)
    if record.status is _S.STOPPING:  # by control, for a reason that counts
        reason = _with_oom_kill(record.reason, failure)
        return failed(record, replace(failure, reason=reason), observation, now)
    if process is not None and process.state is ProcessState.STOPPED:
        return Transition(name=name, to=_S.STOPPED, reason="stopped by hand, with supervisorctl")
    reason = exit_reason(process, failure)
    if record.status is _S.ASLEEP:
        reason, to = f"died in its sleep: {reason}", _S.UNLOADED if record.goal else _S.STANDBY
        return Transition(name=name, to=to, reason=reason, last_lines=failure.last_lines)
    limit = None
    if record.status is _S.STARTING and not record.health.ever_ok:
        if process is not None and process.exit_code in HOPELESS_EXITS:
            limit = 1
        elif failure.hopeless:
            limit = HOPELESS_LIMIT
    return failed(record, replace(failure, reason=reason), observation, now, limit=limit)


def exit_reason(process: Process | None, failure: Failure) -> str:
    """Why the process ended, for the operator: from its exit code or signal, its log, and the kernel."""
    if process is not None and process.never_ran:
        return f"could not be started: {process.spawn_error}"
    code = process.exit_code if process else None
    if code == -1:
        if failure.out_of_memory:
            ended = f"killed by the kernel: {failure.out_of_memory}"
        elif failure.signal == "SIGKILL":
            ended = "killed by SIGKILL from outside"
        else:
            ended = f"terminated by {failure.signal or 'an unknown signal'}"
        return f"{ended}; in its log: {failure.reason}" if failure.reason else ended
    ended = "process disappeared" if code is None else f"exit code {code}"
    reason = f"{failure.reason} ({ended})" if failure.reason else f"{ended}, no output in its log"
    return _with_oom_kill(reason, failure)


def _with_oom_kill(reason: str, failure: Failure) -> str:
    if not failure.out_of_memory:
        return reason
    return f"one of its processes was killed by the kernel: {failure.out_of_memory}; then: {reason}"


def on_started(record: Record, observation: Observation, now: float) -> Transition | None:
    """Its process runs. There are five cases: 1. it becomes ready, or falls asleep 2. its first answer shows that it
    cannot serve 3. it exceeds the timeout for a start without progress 4. it does nothing at all: it hangs, and that is
    certain earlier 5. it loads.
    """
    name, limit_s, inert_s = record.replica.name, record.replica.start_timeout_s, observation.timing.inert_start_s
    if record.health.ok:
        history = restart_policy.after_ready(record.history)
        if standby.policy(record, observation).must_sleep():
            return replace(requests.fall_asleep(record, observation), history=history)
        return Transition(name=name, to=_S.READY, history=history)
    if record.defect:
        return Transition(name=name, to=_S.STOPPING, reason=record.defect)
    progressed_at = max(record.progressed_at, record.since)
    if now - progressed_at > limit_s:
        reason = f"not ready after {limit_s:g} s without progress, in phase"
    elif now - max(progressed_at, record.active_at) > inert_s:
        reason = f"the start hangs: for {inert_s:g} s no CPU time, nothing read, no progress in its log, in phase"
    else:
        return None
    reason = f"{reason} {record.tracker.progress.phase!r}: {record.health.error}"
    return Transition(name=name, to=_S.STOPPING, reason=reason)


def on_sleep_result(record: Record, observation: Observation) -> Transition | None:
    """The call to sleep or to wake up has returned."""
    falling_asleep = record.status is _S.FALLING_ASLEEP
    if record.sleep_result is None:
        return None
    why = record.sleep_result or (requests.too_much_kept(record, observation) if falling_asleep else "")
    if why and falling_asleep and record.goal is Goal.ASLEEP:
        return requests.stop_instead(record, why, observation)
    if record.sleep_result:
        what = "could not be put to sleep" if falling_asleep else "could not be woken"
        reason = f"{what}: {record.sleep_result}"
        return Transition(name=record.replica.name, to=_S.STOPPING, reason=reason, cannot_sleep=reason)
    if falling_asleep:
        return Transition(name=record.replica.name, to=_S.ASLEEP, reason=record.reason, goal=record.goal)
    return Transition(name=record.replica.name, to=_S.READY)


def on_liveness(record: Record, observation: Observation) -> Transition | None:
    name, health = record.replica.name, record.health
    if record.status is _S.READY and record.defect:
        return Transition(name=name, to=_S.UNHEALTHY, reason=record.defect)
    if record.status is _S.READY and health.failures >= observation.timing.alive_failures:
        reason = f"{health.failures} liveness probes in a row failed: {health.error}"
        return Transition(name=name, to=_S.UNHEALTHY, reason=reason)
    if record.status is _S.UNHEALTHY:
        return Transition(name=name, to=_S.STOPPING, reason=record.reason)
    return None


def grant_starts(observation: Observation, now: float) -> Iterator[Transition]:
    """The starts and wakes for which there is a lease, whose memory is proven to be free, and whose boxes are there."""
    return (
        replace(one, generation=observation.generations.get(one.name, 0))
        for one in leased(observation, now)
        if one.name not in observation.unproven and one.name not in observation.held
    )


def leased(observation: Observation, now: float) -> Iterator[Transition]:
    """The replicas that get a lease on their devices now. The order is: 1. those to be woken 2. those waiting 3. those
    whose back-off is over. One whose memory is not free, or whose boxes are not there, comes last: others may start.
    """
    waking: dict[str, str] = {}  # why, by name
    sleeping, waiting, due = list[Record](), list[Record](), list[Record]()
    known = {record.replica.name: record for record in observation.records}
    for record in observation.records:
        if record.status is _S.ASLEEP:
            origin = requests.wakes(record, observation)
            if origin is None and record.goal is None:
                origin = standby.policy(record, observation).wake_up()
            if origin is not None:
                moves = migrations.wakes(requests.operation_of(record, observation.operations), record.replica.name)
                waking[record.replica.name] = "" if moves else origin
                sleeping.append(record)
        elif record.status is _S.WAITING and record.cleaned_up:
            operation = requests.operation_of(record, observation.operations)
            must_wait = standby.policy(record, observation).must_wait()
            if not must_wait and migrations.may_start(record, operation, known):
                waiting.append(record)
        elif record.is_due(now):
            due.append(record)
    late = {*observation.not_free, *observation.held}
    found = sorted((*sleeping, *waiting, *due), key=lambda record: record.replica.name in late)
    candidates = [record.replica for record in found]
    holding = [record.replica for record in observation.records if record.holds_lease]
    for name in restart_policy.grant_leases(candidates, holding):
        if name in waking:
            yield Transition(name=name, to=_S.WAKING, origin=waking[name])
        else:
            yield Transition(name=name, to=_S.STARTING)


def on_shutdown(observation: Observation) -> Iterator[Transition]:
    """The engines are stopped by supervisord, after the router has drained: until then, ready replicas keep serving."""
    for record in observation.records:
        if record.attached or record.status in _LEFT:
            continue
        to = _S.STOPPING if record.status in LIVE else _S.STOPPED
        yield Transition(name=record.replica.name, to=to, reason=BERTH_STOPS)
