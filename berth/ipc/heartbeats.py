"""Heartbeats: a program may exist and do nothing, because it is stopped, or because its event loop is blocked.

Control and each router worker count up in a row of a small mapped file, from their event loops. Control watches the
workers, and the foreground process watches control. A process that is silent for some rounds is killed by SIGKILL, and
replaced as after any other death.

A watcher must not mistake a pause of its own, of the container or of the whole host for the silence of others, nor an
overloaded host for a blocked program. So silence is not measured by a clock: a watcher counts its own rounds in which a
row has not changed, and starts again from zero after each round that came late.
"""

import mmap
import os
import signal
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from berth.proc_stat import Stat, stat_of

CONTROL, ROUTER, FIRST_WORKER = 0, 1, 2  # rows; the router's main process has one too, without heartbeats
BEAT_S = 0.2
ROUND_S = 1.0  # of a watcher
LATE_S = 1.5  # since the round before
STOPPED_ROUNDS = 4  # of silence, for a process that does not continue by itself
BLOCKED_ROUNDS = 10  # for one that may only be busy
STARTING_ROUNDS = 60  # before the first heartbeat
MOST_DOUBLINGS = 4
CALM_ROUNDS = 600  # without a kill, after which the next one follows as soon as the first
FILE_BYTES = 4096

_ROW = struct.Struct("=QQQ40x")  # pid (0: no process), its start ticks, heartbeats


class Row(NamedTuple):
    """`beats` is 0 until the process has started."""

    pid: int
    start_ticks: int
    beats: int

    def stat(self) -> Stat | None:
        """None if the process has ended."""
        stat = stat_of(self.pid) if self.pid else None
        return stat if stat is not None and stat.alive and stat.start_ticks == self.start_ticks else None


class Live(NamedTuple):
    """A process that exists."""

    row: Row
    stopped: bool  # by a signal

    @property
    def rounds(self) -> int:
        """How long it may be silent."""
        if self.stopped:
            return STOPPED_ROUNDS
        return BLOCKED_ROUNDS if self.row.beats else STARTING_ROUNDS


class Heartbeat:
    """The row of this process. OSError when the file cannot be written."""

    def __init__(self, path: Path, row: int) -> None:
        reserve(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size < (row + 1) * _ROW.size:
                os.posix_fallocate(descriptor, 0, (row + 1) * _ROW.size)
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        start, pid = row * _ROW.size, os.getpid()
        self._cells = memoryview(self._map)[start : start + 24].cast("Q")
        stat = stat_of(pid)
        # The pid comes last: before it a reader sees the process that had the row before, and that has ended.
        self._cells[2], self._cells[1], self._cells[0] = 0, stat.start_ticks if stat else 0, pid

    def beat(self) -> None:
        self._cells[2] += 1

    def close(self) -> None:
        """The process ends, and need not be watched any more."""
        self._cells[0] = 0
        self._cells.release()
        self._map.close()


def reserve(path: Path) -> None:
    """Makes the file, with its space, if it is not there: a full disk must not keep a program from starting later."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size == 0:
            os.posix_fallocate(descriptor, 0, FILE_BYTES)
    finally:
        os.close(descriptor)


def read_rows(path: Path) -> list[Row]:
    """All rows, those without a process included. None of them if the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    whole = len(data) // _ROW.size * _ROW.size
    return [Row(*fields) for fields in _ROW.iter_unpack(data[:whole])]


def live(rows: Iterable[Row]) -> list[Live]:
    """The processes of the rows, less those that have ended."""
    return [Live(row, stat.stopped) for row in rows if (stat := row.stat()) is not None]


class Watch:
    """Decides which processes are silent. Pure: `silent` is called once in each round.

    Kills must not become a storm where something keeps all programs from running: each one doubles the number of rounds
    before the next, up to 2 ** MOST_DOUBLINGS times, until CALM_ROUNDS have passed without one.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}  # process -> heartbeats, rounds without a change
        self._last_round = -LATE_S
        self._doublings = 0
        self._calm_rounds = 0

    def silent(self, processes: Iterable[Live], now: float) -> list[Row]:
        """Those of the processes that have to be killed. `now`: seconds of a monotonic clock."""
        late, self._last_round = now - self._last_round > LATE_S, now
        seen, found = {}, []
        for one in processes:
            row, process = one.row, one.row[:2]
            beats, rounds = self._seen.get(process, (row.beats, -1))
            rounds = rounds + 1 if beats == row.beats and not late else 0
            if rounds >= one.rounds << self._doublings:
                found.append(row)
                rounds = 0
            seen[process] = (row.beats, rounds)
        self._seen = seen
        self._calm_rounds = 0 if found else self._calm_rounds + 1
        if found:
            self._doublings = min(self._doublings + 1, MOST_DOUBLINGS)
        elif self._calm_rounds >= CALM_ROUNDS:
            self._doublings = 0
        return found


def send(row: Row, number: signal.Signals) -> None:
    """Signals the process of a row, unless it has ended."""
    with suppress(ProcessLookupError, PermissionError):
        if row.stat() is not None:
            os.kill(row.pid, number)
