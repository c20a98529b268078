"""Recovery after a restart of control: running engines keep running, failed ones stay failed. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from berth.control.attached.attachment import as_discovered
from berth.control.decisions.records import LIVE, GpuMemory, Record
from berth.control.decisions.restart_policy import History
from berth.control.probes import Health
from berth.control.publish import ControlState
from berth.control.supervisord_client import Process
from berth.plan import ModelRoute, Standby
from berth.state import ReplicaState, ReplicaStatus, State

_S = ReplicaStatus
# Statuses whose reason is kept.
_EXPLAINED = frozenset(
    {_S.UNHEALTHY, _S.BACKOFF, _S.FAILED, _S.STOPPING, _S.STOPPED, _S.STANDBY, _S.DRAINING, _S.UNLOADED, _S.ASLEEP}
)
_REQUESTED = frozenset({_S.DRAINING, _S.STOPPING, _S.FALLING_ASLEEP, _S.ASLEEP})  # statuses that may have a goal


def restore(
    first: tuple[Record, ...],
    state: State | None,
    control: ControlState,
    processes: Mapping[str, Process],
    asleep: Mapping[str, bool],
    *,
    routes: tuple[ModelRoute, ...],
    now: float,
    offset_s: float,
) -> tuple[Record, ...]:
    """The records of a new control. `first` are those of a fresh start. `state` and `control` come from the previous
    control under the same supervisord. `asleep` is what running engines report. `offset_s` turns a monotonic time into
    Unix seconds.
    """
    known = {old.name: old for old in state.replicas} if state else {}
    records = []
    for fresh in first:
        name = fresh.replica.name
        history = History(
            failures=tuple(control.failures.get(name, ())),
            in_a_row=control.in_a_row.get(name, 0),
            flaps=tuple(control.flaps.get(name, ())),
        )
        record = replace(
            fresh,
            history=history,
            origin=control.origins.get(name, ""),
            cannot_sleep=control.cannot_sleep.get(name, ""),
            released=control.released.get(name, {}),
            wakes=control.wakes.get(name),
            generation=control.generations.get(name, 0),
            gpu=control.gpu_memory.get(name, GpuMemory()),
        )
        before = _as_before(record, old, offset_s) if (old := known.get(name)) else None
        restored = _restored(record, before, processes.get(name), asleep.get(name), now)
        if restored.status in _REQUESTED and name in control.goals:
            restored = replace(restored, goal=control.goals[name], drain_ends=control.drain_ends.get(name))
        records.append(replace(restored, starts=max(restored.starts, control.starts.get(name, 0)), active_at=now))
    return _with_active_standbys(records, routes)


def _restored(
    record: Record, before: Record | None, process: Process | None, asleep: bool | None, now: float
) -> Record:
    """There are five cases:
    1. an attached server: as before, until the next probe
    2. its process runs and is the known one: as before
    3. the same, but it was falling asleep, or about to, and reports that it sleeps: asleep
    4. its process runs and is not known: asleep or ready, as it reports. Without a report it counts as starting, and
       becomes ready with its first response
    5. its process is gone: as before. If it should run, the next poll detects the exit
    """
    if record.attached:
        return record if before is None else replace(before, health=Health(ever_ok=True))
    if process is None or not process.alive:
        return replace(before or record, cleaned_up=False)  # leftovers are looked for again
    is_same = before is not None and before.status in LIVE and before.pid in (None, process.pid)
    if before is not None and is_same and not (asleep and before.status in (_S.FALLING_ASLEEP, _S.DRAINING)):
        return replace(before, pid=process.pid, cleaned_up=False)
    return replace(
        record,
        wakes=record.wakes if is_same else None,
        status={None: _S.STARTING, True: _S.ASLEEP, False: _S.READY}[asleep],
        starts=max(record.starts, 1),
        pid=process.pid,
        since=now,
        progressed_at=now,
        cleaned_up=False,
    )


def _as_before(record: Record, old: ReplicaState, offset_s: float) -> Record:
    since = old.since - offset_s
    known = old.discovered if record.attached else None  # of others the plan is what they are
    replica = as_discovered(record.replica, known) if known else record.replica
    return replace(
        record,
        replica=replica,
        status=old.status,
        since=since,
        progressed_at=since,
        reason=old.reason.removesuffix(f"; {record.origin}") if old.status in _EXPLAINED else "",
        pid=old.pid,
        starts=old.restarts + (old.status not in (_S.STANDBY, _S.WAITING, _S.UNLOADED) or old.restarts > 0),
        next_start_at=None if old.next_start_at is None else old.next_start_at - offset_s,
        last_lines=old.last_lines,
        discovered=old.discovered,
        load_s=old.load_s,
        phases=old.start_phases,
        adapters=old.adapters,
        adapter_errors=old.adapter_errors,
        phase_since=since,
        continues=old.continues,
    )


def _with_active_standbys(records: list[Record], routes: tuple[ModelRoute, ...]) -> tuple[Record, ...]:
    """Where a warm standby is ready, the waiting replicas before it become cold standbys: they need its GPU memory."""
    ready = {record.replica.name for record in records if record.status is _S.READY}
    replaced = {
        name
        for route in routes
        if route.standby is Standby.WARM
        for number, name in enumerate(route.replicas)
        if ready & set(route.replicas[number + 1 :])
    }
    return tuple(
        replace(record, status=_S.STANDBY)
        if record.status is _S.WAITING and record.replica.name in replaced
        else record
        for record in records
    )
