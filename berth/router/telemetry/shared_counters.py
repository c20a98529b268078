"""Counters that the router's workers share: a memory-mapped file with one row of numbers per worker.

Each worker writes its own row only, so that there are no locks and no lost updates; a reader sums the rows. A row is
claimed by a lock on its bytes, which the kernel releases when its worker dies: the next worker continues its counts.
The header counts the claims, so that all workers see a new worker from its first number on.
(Such locks end when the process closes any descriptor of the file: only the Scoreboard may open it.)

prometheus_client has a multiprocess mode too, but the router reads these counters for each request, which has to take
microseconds.
"""

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from berth.processes import replace_file

_HEADER_BYTES = 64
_MAGIC = b"BERTHSB1"
_CLAIMS = slice(16, 24)  # of the header: how many there were
_FLOCK = "hhqqi4x"  # struct flock of Linux on 64 bits: type, whence, start, length, pid


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Numbers of one name, one for each combination of label values. A histogram's are its buckets and its sum; those
    of a sketch are its buckets, which are not in /metrics.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram", "sketch"]
    labels: tuple[str, ...]
    series: tuple[tuple[str, ...], ...]  # the label values of each
    buckets: tuple[float, ...] = ()  # upper bounds, without infinity

    @property
    def width(self) -> int:
        """Numbers per series."""
        return {"histogram": len(self.buckets) + 2, "sketch": len(self.buckets) + 1}.get(self.kind, 1)


class Layout:
    """The slot of each number of the families within a row."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.families = {family.name: family for family in families}
        self.slots: dict[tuple[str, ...], int] = {}  # (family, *label values) -> first number
        used = 0
        for family in families:
            for values in family.series:
                self.slots[family.name, *values] = used
                used += family.width
        self.width = max(1, used)
        self.digest = hashlib.sha256(repr(families).encode()).digest()
        self.row_bytes = -(-self.width * 8 // 64) * 64  # whole cache lines: workers do not disturb each other

    def gauges(self) -> Iterator[int]:
        for (name, *_), slot in self.slots.items():
            if self.families[name].kind == "gauge":
                yield slot


class Scoreboard:
    """A worker's view: it writes its own row and reads all rows. Open it in the worker: locks do not survive a fork."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """ValueError for a file of another layout, OSError when it cannot be opened or has no free row."""
        self.layout = layout
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(self._fd, 0)
            self._rows = _check(self._map, layout, path)
            self.claims = memoryview(self._map)[_CLAIMS].cast("Q")  # [0]: how many there were; if it grows, others
            self._own = self._claim(path)
        except BaseException:
            os.close(self._fd)
            raise
        numbers = memoryview(self._map)
        starts = [_HEADER_BYTES + index * layout.row_bytes for index in range(self._rows)]
        self._all_rows = [numbers[start : start + layout.width * 8].cast("d") for start in starts]
        self.row = self._all_rows[self._own]  # row[slot] += 1 is all that counting takes
        for slot in layout.gauges():  # of a worker that died
            self.row[slot] = 0.0
        self.claims[0] += 1  # two at once may count as one, but both have their rows by then
        self.refresh()

    @property
    def live_indexes(self) -> tuple[int, ...]:
        """The places of the rows in `live`."""
        if self.claims[0] != self._seen:
            self.refresh()
        return self._live_indexes

    @property
    def index(self) -> int:
        """Of this worker's row."""
        return self._own

    @staticmethod
    def ensure(path: Path, layout: Layout, rows: int) -> None:
        """Creates the file unless a router of the same plan has left one: its counts continue, and a full disk does not
        matter. OSError when it cannot be written.
        """
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if _check(data, layout, path) == rows:
                    return
        except (OSError, ValueError, struct.error):
            pass
        Scoreboard.create(path, layout, rows)

    @staticmethod
    def create(path: Path, layout: Layout, rows: int) -> None:
        """Replaces the file by an empty one. OSError when it cannot be written."""
        header = struct.pack("=8sI20x32s", _MAGIC, rows, layout.digest)
        replace_file(path, header + bytes(rows * layout.row_bytes), mode=0o600)

    @property
    def live(self) -> "tuple[memoryview[float], ...]":
        """The rows of the live workers, as of the last `refresh`, and of those that have started since."""
        if self.claims[0] != self._seen:
            self.refresh()
        return self._live

    @property
    def others(self) -> "tuple[memoryview[float], ...]":
        """The same without this worker's."""
        return self.live[1:]

    def refresh(self) -> None:
        """Finds the live workers. A few system calls."""
        self._seen = self.claims[0]  # first: a worker that starts in between causes another refresh
        live = [self._own]
        for index in range(self._rows):
            query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, self._start(index), 1, 0)
            if index != self._own:
                lock = struct.unpack(_FLOCK, fcntl.fcntl(self._fd, fcntl.F_GETLK, query))
                if lock[0] != fcntl.F_UNLCK:
                    live.append(index)
        self._live_indexes = tuple(live)
        self._live = tuple(self._all_rows[index] for index in live)

    def totals(self) -> tuple[list[float], int]:
        """The sums over all rows (gauges: over those of live workers), and the number of live workers."""
        self.refresh()
        sums = [sum(numbers) for numbers in zip(*self._all_rows, strict=True)]
        for slot in self.layout.gauges():
            sums[slot] = sum(row[slot] for row in self.live)
        return sums, len(self.live)

    def sums(self, span: slice) -> list[float]:
        """Over all rows, of these numbers."""
        return [sum(numbers) for numbers in zip(*(row[span] for row in self._all_rows), strict=True)]

    def close(self) -> None:
        for row in self._all_rows:
            row.release()
        self.claims.release()
        self._map.close()
        os.close(self._fd)

    def _claim(self, path: Path) -> int:
        for index in range(self._rows):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._start(index))
            except OSError:  # it belongs to another worker
                continue
            return index
        raise OSError(f"{path}: all {self._rows} rows are in use")

    def _start(self, index: int) -> int:
        return _HEADER_BYTES + index * self.layout.row_bytes


def read_totals(path: Path, layout: Layout, live: Collection[int]) -> list[float]:
    """As `Scoreboard.totals`, for a program that is no worker. `live`: the rows of the workers. OSError or ValueError
    for a file that cannot be read.
    """
    data = memoryview(path.read_bytes())
    starts = [_HEADER_BYTES + row * layout.row_bytes for row in range(_check(data, layout, path))]
    rows = [data[start : start + layout.width * 8].cast("d") for start in starts]
    sums = [sum(numbers) for numbers in zip(*rows, strict=True)]
    for slot in layout.gauges():
        sums[slot] = sum(rows[row][slot] for row in live if row < len(rows))
    return sums


def _check(data: "mmap.mmap | memoryview[int]", layout: Layout, path: Path) -> int:
    magic, rows, digest = struct.unpack_from("=8sI20x32s", data)
    if (magic, digest) != (_MAGIC, layout.digest) or len(data) != _HEADER_BYTES + rows * layout.row_bytes:
        raise ValueError(f"{path} belongs to another plan or version: restart the router")
    return int(rows)
