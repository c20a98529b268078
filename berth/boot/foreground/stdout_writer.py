"""Standard output that never makes anybody wait: what its reader does not take at once is kept, up to a limit."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

KEPT_BYTES = 16 * 2**20
GOODBYE_S = 2.0  # for a reader that is slow to take the last lines


class StandardOutput:
    """Lines over the limit are lost, and their number is told where they would be."""

    def __init__(self, descriptor: int, lost: Callable[[int], str], *, kept_bytes: int = KEPT_BYTES) -> None:
        """`lost` makes a line of a number of lost lines."""
        self._descriptor = descriptor
        self._lost = lost
        self._kept_bytes = kept_bytes
        self._waiting: deque[bytes] = deque()
        self._held_bytes = 0
        self._lost_lines = 0
        self._torn = False  # the last line that was written has no end
        self._ends = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def put(self, text: str) -> None:
        """Whole lines."""
        if not text:
            return
        data = text.encode("utf-8", "replace")
        with self._news:
            if self._held_bytes + len(data) > self._kept_bytes:
                self._lost_lines += text.count("\n")
                return
            if self._lost_lines:
                data = self._lost(self._lost_lines).encode() + data
                self._lost_lines = 0
            self._waiting.append(data)
            self._held_bytes += len(data)
            self._news.notify()

    def close(self, timeout_s: float = GOODBYE_S) -> None:
        """Waits so long at most until all is written."""
        with self._news:
            if self._lost_lines:
                self._waiting.append(self._lost(self._lost_lines).encode())
            self._ends = True
            self._news.notify()
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (data := self._next()) is not None:
            self._write(data)
            with self._news:
                self._held_bytes -= len(data)

    def _next(self) -> bytes | None:
        with self._news:
            while not self._waiting:
                if self._ends:
                    return None
                self._news.wait()
            return self._waiting.popleft()

    def _write(self, data: bytes) -> None:
        """A full disk or a closed pipe loses these lines, and nothing else."""
        rest = b"\n" + data if self._torn else data
        try:
            while rest:
                rest = self._written(rest)
        except OSError:
            self._torn = self._torn or len(rest) < len(data)
        else:
            self._torn = False

    def _written(self, data: bytes) -> bytes:
        """What is left after one write; standard output may be shared with somebody who made it non-blocking."""
        try:
            return data[os.write(self._descriptor, data) :]
        except BlockingIOError:
            select.select([], [self._descriptor], [])
            return data
