"""What control publishes: the State for the routers, and the notes for the control that comes after this one."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from berth.control.lifecycle import waits_for
from berth.control.log_tail import Position
from berth.control.records import Record
from berth.host.oom import Kills
from berth.log import log
from berth.plan import RunPaths
from berth.processes import replace_file
from berth.state import GpuState, ReplicaState, ReplicaStatus, State

CLOCK_STEP_S = 1.0  # a wall clock that moved that far against the monotonic one was set


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlState:
    """What a new control must know and routers need not. Worth nothing under another supervisord."""

    supervisord: str  # its pid and when it started, as one word
    failures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of each replica, on the monotonic clock
    in_a_row: Mapping[str, int] = field(default_factory=dict)
    log_positions: Mapping[str, Position] = field(default_factory=dict)  # what is shown already
    origins: Mapping[str, str] = field(default_factory=dict)  # why a standby runs
    hinted: bool = False  # the operator was given a command to try
    kills: Kills | None = None  # the kernel's counters when control last looked


class Publisher:
    """Publishes what has changed, atomically. A full disk is told once, and again when it is over; control goes on."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._broken: set[Path] = set()
        self._sequence = 0
        self._replicas: tuple[ReplicaState, ...] = ()
        self.offset_s = time.time() - time.monotonic()  # makes Unix seconds of a monotonic time

    def publish(
        self, records: Sequence[Record], gpus: tuple[GpuState, ...], notes: ControlState, *, always: bool
    ) -> None:
        """`always` is for the heartbeat: routers take an old State for a dead control."""
        moment = time.time()
        if abs(moment - time.monotonic() - self.offset_s) > CLOCK_STEP_S:
            self.offset_s = moment - time.monotonic()
        replicas = tuple(_replica_state(record, records, self.offset_s) for record in records)
        if replicas == self._replicas and not always:
            return
        self._replicas = replicas
        self._sequence += 1
        state = State(
            sequence=self._sequence, published_at=moment, control_pid=os.getpid(), replicas=replicas, gpus=gpus
        )
        self._replace(self._paths.state, state.to_json())
        self._replace(notes_path(self._paths), msgspec.json.encode(notes))

    def _replace(self, path: Path, data: bytes) -> None:
        try:
            replace_file(path, data, mode=0o600)
        except OSError as error:
            self._complain(path, error)
            return
        if path in self._broken:
            self._broken.discard(path)
            log.info("file is written again", path=str(path))

    def _complain(self, path: Path, error: OSError) -> None:
        if path not in self._broken:
            self._broken.add(path)
            advice = "free disk space or make the directory writable; control tries again"
            log.error("file cannot be written, the old one stays", path=str(path), error=str(error), next=advice)


def note(records: Sequence[Record], positions: Mapping[str, Position | None], before: ControlState) -> ControlState:
    """The notes that go with these records."""
    return replace(
        before,
        failures={record.replica.name: record.history.failures for record in records},
        in_a_row={record.replica.name: record.history.in_a_row for record in records},
        origins={record.replica.name: record.origin for record in records if record.origin},
        log_positions={name: position for name, position in positions.items() if position},
    )


def _replica_state(record: Record, records: Sequence[Record], offset_s: float) -> ReplicaState:
    status = record.status
    waits = waits_for(record, records) if status is ReplicaStatus.WAITING else ""
    return ReplicaState(
        name=record.replica.name,
        status=status,
        since=record.since + offset_s,
        reason="; ".join(part for part in (record.reason, waits, record.origin) if part),
        progress=record.tracker.progress if status is ReplicaStatus.STARTING else None,
        pid=record.pid,
        restarts=max(record.starts - 1, 0),
        next_start_at=None if record.next_start_at is None else record.next_start_at + offset_s,
        last_lines=record.last_lines,
    )


def notes_path(paths: RunPaths) -> Path:
    return Path(paths.run_dir, "control.json")


def read_state(paths: RunPaths) -> State | None:
    """The last State; None where there is none that can be read."""
    try:
        return State.from_json(paths.state.read_bytes())
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None


def read_notes(paths: RunPaths) -> ControlState | None:
    try:
        return msgspec.json.decode(notes_path(paths).read_bytes(), type=ControlState)
    except (OSError, ValueError):
        return None
