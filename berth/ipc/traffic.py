"""How the router's workers report to control that they have stopped using a replica, before it sleeps or stops.

A small mapped file with one row of numbers per worker, in the order of their rows in `heartbeats`: the State by which
the worker acts (the pid of its control and its sequence number), when somebody last looked at the engines' load, its
requests on each replica in the plan's order, and attempts per replica so far, those of
them that failed, those without the requested format, and waiting requests per model.
Each worker writes its row a few times a second; nothing is written per request.

A worker counts requests before it reports a State, and control reads the State before the requests. So once a worker
reports a State in which a replica is draining, and no request on it, the worker has none and sends it none.
"""

import mmap
import os
import struct
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from berth.ipc.heartbeats import FIRST_WORKER, read_rows

_LINE_BYTES = 64  # a cache line: workers do not disturb each other


class Report(NamedTuple):
    """What a worker has written. A new one has not acted by any State yet."""

    control_pid: int
    sequence: int
    loads: tuple[int, ...]  # requests per replica
    attempts: tuple[int, ...]  # per replica, so far
    waiting: tuple[int, ...]  # requests without a replica, per model
    failures: tuple[int, ...] = ()  # of the attempts
    unfit: tuple[int, ...] = ()  # of the attempts: complete, and without the requested format
    looked_at: int = 0  # seconds of the monotonic clock, which all processes share; 0: never


class TrafficReport:
    """The row of one worker. OSError when the file cannot be written."""

    def __init__(self, path: Path, row: int, replicas: int, models: int) -> None:
        size = row_bytes(replicas, models)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < (row + 1) * size:
                os.posix_fallocate(descriptor, 0, (row + 1) * size)
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        start = row * size
        self._cells = memoryview(self._map)[start : start + size].cast("Q")
        # Of the worker that had the row before. Its attempts stay: they have happened.
        self._cells[0] = self._cells[1] = 0

    def write(self, control_pid: int, sequence: int, looked_at: int, numbers: Sequence[int]) -> None:
        """`numbers`: loads, attempts, waiting requests, failures and unfit responses, one after another."""
        for cell, number in enumerate(numbers, 3):
            self._cells[cell] = number
        self._cells[2] = looked_at
        self._cells[1], self._cells[0] = sequence, control_pid

    def close(self) -> None:
        self._cells.release()
        self._map.close()


def reserve(path: Path, replicas: int, models: int, rows: int) -> None:
    """Replaces the file by an empty one, with its space: a full disk must not keep a worker from starting later. It is
    not truncated, which would kill a process that still has it mapped.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, rows * row_bytes(replicas, models))
    finally:
        os.close(descriptor)


def row_bytes(replicas: int, models: int) -> int:
    return -(-(3 + 4 * replicas + models) * 8 // _LINE_BYTES) * _LINE_BYTES


def read_reports(path: Path, replicas: int, models: int) -> list[Report]:
    """All rows, those without a worker included. None of them if the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    size, numbers = row_bytes(replicas, models), 4 * replicas + models
    row = struct.Struct(f"=QQQ{numbers}Q{size - (numbers + 3) * 8}x")
    ends = [0, replicas, 2 * replicas, 2 * replicas + models, 3 * replicas + models, numbers]
    return [
        Report._make((pid, sequence, *(tuple(rest[start:end]) for start, end in pairwise(ends)), looked_at))
        for pid, sequence, looked_at, *rest in row.iter_unpack(data[: len(data) // size * size])
    ]


def workers(heartbeats: Path) -> dict[int, int]:
    """The live workers: row -> pid."""
    rows = enumerate(read_rows(heartbeats)[FIRST_WORKER:])
    return {number: row.pid for number, row in rows if row.stat() is not None}


def is_drained(
    reports: Sequence[Report], live: Collection[int], replica: int, *, control_pid: int, sequence: int
) -> bool:
    """No live worker has or sends requests to the replica."""
    known = all_act_by(reports, live, control_pid=control_pid, sequence=sequence)
    return known and not any(reports[row].loads[replica] for row in live)


def all_act_by(reports: Sequence[Report], live: Collection[int], *, control_pid: int, sequence: int) -> bool:
    """Each live worker acts by that State of that control, or by a later one."""
    return all(
        row < len(reports) and reports[row].control_pid == control_pid and reports[row].sequence >= sequence
        for row in live
    )
