"""A worker's view of what all workers count for each client (berth.ipc.key_counters)."""

import threading
from pathlib import Path

from berth.ipc import key_counters
from berth.ipc.key_counters import IN_FLIGHT, KEY_WIDTH, LIMITED, LIMITS, WAIT_S, WAITS, Shape
from berth.router.telemetry.shared_counters import Scoreboard


class KeyBoard:
    """It writes its own row and reads all rows. A sum costs a few tenths of a microsecond."""

    def __init__(self, path: Path, shape: Shape, board: Scoreboard) -> None:
        """OSError when the file cannot be used."""
        self.shape = shape
        self._board = board
        self._rows = key_counters.rows(path, shape)
        self.row = self._rows[board.index]
        for slot in range(shape.slots):  # of a worker that died
            self.row[slot * KEY_WIDTH + IN_FLIGHT] = 0.0
        self._claimed, self._claims = board.claims, -1
        self._used: tuple[memoryview[float], ...] = ()
        self._indexes: tuple[int, ...] = ()
        self._live: tuple[memoryview[float], ...] = ()
        # Counting first and looking then is exact only if processors do not read ahead of the writing: an atomic
        # operation in between.
        self.fence = threading.Lock()

    @property
    def used(self) -> "tuple[memoryview[float], ...]":
        """The rows of all workers that have counted anything, dead ones included."""
        if self._claimed[0] != self._claims:
            self._claims = self._claimed[0]
            live = self._board.live_indexes
            used = [row for index, row in enumerate(self._rows) if index in live or row.tobytes().strip(b"\0")]
            self._used = tuple(used)
        return self._used

    @property
    def live(self) -> "tuple[memoryview[float], ...]":
        """The rows of the live workers."""
        if (indexes := self._board.live_indexes) is not self._indexes:
            self._indexes, self._live = indexes, tuple(self._rows[index] for index in indexes)
        return self._live

    def total(self, at: int) -> float:
        """Of a number that only grows."""
        total = 0.0
        for row in self.used:
            total += row[at]
        return total

    def most(self, at: int) -> float:
        """Of a number of which the largest counts."""
        return max(row[at] for row in self.used)

    def in_flight(self, slot: int) -> float:
        """The requests of a client that are being served, of live workers."""
        at, total = slot * KEY_WIDTH + IN_FLIGHT, 0.0
        for row in self.live:
            total += row[at]
        return total

    def limited(self, slot: int, limit: str) -> None:
        """A limit has rejected a request."""
        self.row[slot * KEY_WIDTH + LIMITED + LIMITS.index(limit)] += 1

    def waited(self, slot: int, seconds: float) -> None:
        at = slot * KEY_WIDTH
        self.row[at + WAIT_S] += seconds
        self.row[at + WAITS] += 1

    def close(self) -> None:
        for row in self._rows:
            row.release()
