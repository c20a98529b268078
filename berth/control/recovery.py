"""What a new control makes of what it finds: engines that run go on, what failed for good stays failed. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from berth.control.probes import Health
from berth.control.publish import ControlState
from berth.control.records import LIVE, Record
from berth.control.restart_policy import History
from berth.control.supervisord_client import Process
from berth.plan import ModelRoute, Standby
from berth.state import ReplicaState, ReplicaStatus, State

_S = ReplicaStatus
# those with a reason to keep
_EXPLAINED = frozenset({_S.UNHEALTHY, _S.BACKOFF, _S.FAILED, _S.STOPPING, _S.STOPPED, _S.STANDBY})


def restore(
    first: tuple[Record, ...],
    state: State | None,
    notes: ControlState,
    processes: Mapping[str, Process],
    asleep: Mapping[str, bool],
    *,
    routes: tuple[ModelRoute, ...],
    now: float,
    offset_s: float,
) -> tuple[Record, ...]:
    """The records of a control that takes over. `first` are those of a fresh start; `state` and `notes` come from the
    control before, under the same supervisord; `asleep` is what engines that run say of themselves; `offset_s` makes
    Unix seconds of a monotonic time.
    """
    known = {old.name: old for old in state.replicas} if state else {}
    restored = tuple(
        _restored(
            _with_notes(record, notes),
            known.get(record.replica.name),
            processes.get(record.replica.name),
            asleep.get(record.replica.name),
            now=now,
            offset_s=offset_s,
        )
        for record in first
    )
    return _with_sleepers(restored, routes)


def _with_notes(record: Record, notes: ControlState) -> Record:
    name = record.replica.name
    history = History(failures=tuple(notes.failures.get(name, ())), in_a_row=notes.in_a_row.get(name, 0))
    return replace(record, history=history, origin=notes.origins.get(name, ""))


def _restored(
    record: Record,
    old: ReplicaState | None,
    process: Process | None,
    asleep: bool | None,
    *,
    now: float,
    offset_s: float,
) -> Record:
    """There are five cases:
    1. an attached server: as it was, the next probe tells
    2. its process runs and is the one that was known: as it was
    3. the same, but it was being put to sleep and says that it sleeps: it has come that far
    4. its process runs and nobody knew of it: it sleeps or serves, as it says; one that does not say starts, and is
       ready as soon as it answers
    5. its process is gone: as it was; if it should run, the next look at it finds out that it died
    """
    if record.attached:
        return record if old is None else replace(_as_was(record, old, offset_s), health=Health(ever=True))
    record = replace(record, clear=False)  # the new control looks again for what is left of a dead one
    if process is None or not process.alive:
        return record if old is None else _as_was(record, old, offset_s)
    same = old is not None and old.status in LIVE and old.pid in (None, process.pid)
    if old is not None and same and not (asleep and old.status is _S.FALLING_ASLEEP):
        return replace(_as_was(record, old, offset_s), pid=process.pid)
    status = {None: _S.STARTING, True: _S.ASLEEP, False: _S.READY}[asleep]
    return replace(record, status=status, starts=max(record.starts, 1), pid=process.pid, since=now, moved_at=now)


def _with_sleepers(records: tuple[Record, ...], routes: tuple[ModelRoute, ...]) -> tuple[Record, ...]:
    """Where nothing was known and a standby serves, those before it are not started: they would want its GPU memory."""
    serving = {record.replica.name for record in records if record.status is _S.READY}
    taken = {
        name
        for route in routes
        if route.standby is Standby.WARM
        for number, name in enumerate(route.replicas)
        if serving & set(route.replicas[number + 1 :])
    }
    return tuple(
        replace(record, status=_S.STANDBY) if record.status is _S.WAITING and record.replica.name in taken else record
        for record in records
    )


def _as_was(record: Record, old: ReplicaState, offset_s: float) -> Record:
    since = old.since - offset_s
    return replace(
        record,
        status=old.status,
        since=since,
        moved_at=since,
        reason=old.reason.removesuffix(f"; {record.origin}") if old.status in _EXPLAINED else "",
        pid=old.pid,
        starts=old.restarts + (old.status not in (_S.STANDBY, _S.WAITING) or old.restarts > 0),
        next_start_at=None if old.next_start_at is None else old.next_start_at - offset_s,
        last_lines=old.last_lines,
    )
