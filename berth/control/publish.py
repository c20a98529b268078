"""Publishes the State for the routers, and control's own state for the control that runs after this one."""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from berth.control.decisions import sleepers
from berth.control.decisions.lifecycle import waiting_reason
from berth.control.decisions.records import Goal, GpuMemory, Record
from berth.control.decisions.restart_policy import flapping
from berth.control.logs.tail import Position
from berth.control.operations.store import Kept
from berth.control.watches.disk import RunDirectory
from berth.host.oom import Kills
from berth.ipc.capture import Capture
from berth.ipc.operations import LOADING
from berth.ipc.reserved_file import read, write
from berth.ipc.shadow import Mirror
from berth.log import log
from berth.plan import RunPaths
from berth.records.starts import How
from berth.state import Canary, GpuState, HostState, RankState, ReplicaState, ReplicaStatus, State

CLOCK_STEP_S = 1.0  # the wall clock was set if it moved that far against the monotonic clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlState:
    """What a new control needs, and routers do not. Valid only under the same supervisord, except for log positions."""

    supervisord: str  # identity: its pid and start time
    failures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # per replica, on the monotonic clock
    in_a_row: Mapping[str, int] = field(default_factory=dict)
    flaps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    log_positions: Mapping[str, Position] = field(default_factory=dict)  # end of what was written to standard output
    origins: Mapping[str, str] = field(default_factory=dict)  # why a standby was activated
    starts: Mapping[str, int] = field(default_factory=dict)
    goals: Mapping[str, Goal] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)  # of ranks on several boxes
    cannot_sleep: Mapping[str, str] = field(default_factory=dict)  # why
    wakes: Mapping[str, How] = field(default_factory=dict)  # how those that sleep will wake
    drain_ends: Mapping[str, float] = field(default_factory=dict)  # on the monotonic clock
    released: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # GPU memory, by those that fell asleep
    gpu_memory: Mapping[str, GpuMemory] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)  # operations and pins
    hinted: bool = False  # the example request was logged
    kills: Kills | None = None  # the last sample of the OOM counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Of a model that is to be loaded and has none."""

    held_by: str
    holders: tuple[str, ...]  # the models that hold it
    obstructed: bool  # those do not leave by themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Why replicas are not loaded, and how long a load takes, by replica."""

    rooms: Mapping[str, Room] = field(default_factory=dict)  # memory that other models hold
    not_free: Mapping[str, str] = field(default_factory=dict)  # who holds it, although the plan has it for the replica
    spares: Collection[str] = ()  # a scale does not want these now
    expected_s: Mapping[str, float] = field(default_factory=dict)  # how long their starts or wakes take
    leased: Mapping[str, str] = field(default_factory=dict)  # they serve no clients but the one with this key
    expected_phases: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # and each phase of a start
    held: Mapping[str, str] = field(default_factory=dict)  # what other boxes have to do first
    ranks: Mapping[str, tuple[RankState, ...]] = field(default_factory=dict)
    unproven: Collection[str] = ()  # candidates of migrations, which run and get no requests yet
    awaited: Collection[str] = ()  # replicas for which a migration queues requests
    canaries: tuple[Canary, ...] = ()  # the candidates' shares
    preempted: Collection[str] = ()  # draining replicas whose requests are given up
    hidden: Collection[str] = ()  # they run for a shadow alone
    mirrors: tuple[Mirror, ...] = ()

    def shown(self, state: ReplicaState) -> ReplicaState:
        """The state with what it waits for."""
        room, not_free = self.rooms.get(state.name), self.not_free.get(state.name, "")
        if state.name in self.expected_s:
            phases = self.expected_phases.get(state.name, {})
            state = replace(state, expected_s=self.expected_s[state.name], expected_phases=phases)
        if state.name in self.leased:
            is_ready = state.status is ReplicaStatus.READY
            status = ReplicaStatus.STARTING if is_ready else state.status  # routers send nothing to it
            reason = "ready, for `berth bench` alone" if is_ready else state.reason
            own = self.leased[state.name] if is_ready else ""
            state = replace(state, status=status, reason=reason, requested="unloaded", leased=True, measured_by=own)
        if ranks := self.ranks.get(state.name):
            reason = "; ".join(part for part in (state.reason, self.held.get(state.name, "")) if part)
            state = replace(state, ranks=ranks, reason=reason)
        if state.name in self.spares:
            state = replace(state, requested="", spare=True)
        if state.status is ReplicaStatus.READY and state.name in {*self.unproven, *self.hidden}:
            is_hidden = state.name in self.hidden
            reason = "ready, for `berth shadow` alone" if is_hidden else "checked before it gets requests"
            state = replace(state, status=ReplicaStatus.STARTING, reason=reason)
        if state.name in self.awaited and state.status is not ReplicaStatus.READY:
            state = replace(state, requested="loaded")
        if state.name in self.preempted:
            state = replace(state, preempts=True)
        if room is not None:
            state = replace(state, no_room=room.held_by, holders=room.holders, obstructed=room.obstructed)
        if not not_free:
            return state
        reason = "; ".join(part for part in (state.reason, f"waits for memory: {not_free}") if part)
        return replace(state, memory_not_free=not_free, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Of the host, besides the replicas."""

    gpus: tuple[GpuState, ...] = ()
    gone: Mapping[int, str] = field(default_factory=dict)  # GPUs that do not answer, and why
    taken: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # by replica and GPU
    host: HostState = field(default_factory=HostState)
    capture: Capture | None = None  # of requests, by an operator


_NOTHING_HELD = Held()
# Of a replica that becomes a standby nothing is requested: its model is served by another one.
_REQUESTED: Mapping[Goal, Literal["unloaded", "asleep", "loaded"]] = {
    Goal.UNLOADED: "unloaded",
    Goal.ASLEEP: "asleep",
    Goal.LOADED: "loaded",
}


_LEVELS = {How.WAKE_1: 1, How.WAKE_2: 2, How.COLD: None, None: None}


class Publisher:
    """Publishes changes, atomically. Logs once when a file cannot be written, and once when it can be written again."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._run_dir = RunDirectory(paths.run_dir)
        self._broken: set[Path] = set()
        self._sequence = 0
        self._published: tuple[object, ...] = ()
        self.offset_s = time.time() - time.monotonic()  # from monotonic time to Unix seconds

    def publish(
        self,
        records: Sequence[Record],
        seen: Seen,
        control: ControlState,
        held: Held = _NOTHING_HELD,
        *,
        expires: Mapping[str, float] = MappingProxyType({}),
        always: bool,
    ) -> None:
        """`expires`: when idle models will be unloaded, on the monotonic clock. `always`: the heartbeat."""
        moment, kept = self._now(), control.kept
        loading = {name for one in kept.operations if one.running and one.action in LOADING for name in one.replicas}
        replicas = tuple(held.shown(_replica_state(one, records, self.offset_s, loading)) for one in records)
        if (published := (replicas, kept, seen.capture, held.mirrors)) == self._published and not always:
            return
        self._published, self._sequence = published, self._sequence + 1
        state = State(
            sequence=self._sequence,
            published_at=moment,
            control_pid=os.getpid(),
            replicas=replicas,
            gpus=seen.gpus,
            gpus_gone=seen.gone,
            gpu_memory=seen.taken,
            host=seen.host,
            pins=tuple(kept.pins),
            changes=kept.changes,
            adapters=kept.added,
            orders=kept.orders,
            canaries=held.canaries,
            shadows=held.mirrors,
            held=tuple(sorted({one.replica.model for one in records if one.replica.name in held.awaited})),
            expires={model: at + self.offset_s for model, at in expires.items()},
            run_dir_free_bytes=self._run_dir.free_bytes(),
            capture=seen.capture,
        )
        # Control's own first: a new control must not see a status without the goal that belongs to it.
        self._replace(self._paths.control_state, msgspec.json.encode(control))
        self._replace(self._paths.state, state.to_json())

    def _now(self) -> float:
        """In Unix seconds. The offset follows the wall clock when that was set."""
        moment = time.time()
        if abs(moment - time.monotonic() - self.offset_s) > CLOCK_STEP_S:
            self.offset_s = moment - time.monotonic()
        return moment

    @property
    def sequence(self) -> int:
        """Of the last State that was published."""
        return self._sequence

    def _replace(self, path: Path, data: bytes) -> None:
        try:
            write(path, data)
        except OSError as error:
            if path not in self._broken:
                self._broken.add(path)
                advice = "free disk space or make the directory writable; control retries"
                log.error("cannot write file, keeping previous version", path=str(path), error=str(error), next=advice)
            return
        if path in self._broken:
            self._broken.discard(path)
            log.info("file written again", path=str(path))


def control_state(
    records: Sequence[Record], positions: Mapping[str, Position | None], before: ControlState
) -> ControlState:
    """`before`, updated from the records and the log positions."""
    return replace(
        before,
        failures={record.replica.name: record.history.failures for record in records},
        in_a_row={record.replica.name: record.history.in_a_row for record in records},
        flaps={record.replica.name: record.history.flaps for record in records if record.history.flaps},
        starts={record.replica.name: record.starts for record in records},
        goals={record.replica.name: record.goal for record in records if record.goal},
        generations={record.replica.name: record.generation for record in records if record.generation},
        cannot_sleep={record.replica.name: record.cannot_sleep for record in records if record.cannot_sleep},
        wakes={record.replica.name: record.wakes for record in records if record.wakes},
        drain_ends={record.replica.name: record.drain_ends for record in records if record.drain_ends is not None},
        released={record.replica.name: record.released for record in records if record.released},
        gpu_memory={record.replica.name: record.gpu for record in records if record.gpu != GpuMemory()},
        origins={record.replica.name: record.origin for record in records if record.origin},
        log_positions={name: position for name, position in positions.items() if position},
    )


def _replica_state(
    record: Record, records: Sequence[Record], offset_s: float, loading: Collection[str]
) -> ReplicaState:
    """`loading`: the replicas that operations load."""
    status = record.status
    requested = Goal.UNLOADED if status is ReplicaStatus.UNLOADED else record.goal
    if record.replica.name in loading:
        requested = None if status is ReplicaStatus.READY else Goal.LOADED
    waiting = waiting_reason(record, records) if status is ReplicaStatus.WAITING else ""
    return ReplicaState(
        name=record.replica.name,
        status=status,
        since=record.since + offset_s,
        reason="; ".join(part for part in (record.reason, waiting, record.origin) if part),
        progress=record.tracker.progress if status is ReplicaStatus.STARTING and not record.attached else None,
        pid=record.pid,
        restarts=max(record.starts - 1, 0),
        next_start_at=None if record.next_start_at is None else record.next_start_at + offset_s,
        last_lines=record.last_lines,
        discovered=record.discovered,
        load_s=record.load_s,
        load=record.load,
        load_failures=record.load_failures,
        flaps=flapping(record.history, time.monotonic()),
        start_phases=record.phases,
        kept_asleep=record.gpu.residue,
        cannot_sleep=record.cannot_sleep,
        sleep_level=_LEVELS[record.wakes] if status is ReplicaStatus.ASLEEP else None,
        sleep_ram_bytes=sleepers.held_bytes(record),
        adapters=record.adapters,
        adapter_errors=record.adapter_errors,
        requested=_REQUESTED.get(requested, "") if requested else "",
        continues=record.continues,
    )


def read_state(paths: RunPaths) -> State | None:
    """The last State. None if it is missing or not readable."""
    try:
        return State.from_json(read(paths.state))
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None


def read_control_state(paths: RunPaths) -> ControlState | None:
    try:
        return msgspec.json.decode(read(paths.control_state), type=ControlState)
    except (OSError, ValueError):
        return None


def read_previous(paths: RunPaths, supervisord: str) -> tuple[State | None, ControlState]:
    """What the previous control persisted. Under another supervisord only its log positions are still valid."""
    control = read_control_state(paths)
    if control is not None and control.supervisord == supervisord:
        return read_state(paths), control
    return None, ControlState(supervisord=supervisord, log_positions=control.log_positions if control else {})
