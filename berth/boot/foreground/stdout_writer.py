"""Non-blocking standard output: lines that its reader does not accept at once are buffered, up to a limit."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BUFFER_BYTES = 16 * 2**20
CLOSE_TIMEOUT_S = 2.0  # for a slow reader of the last lines


class StdoutWriter:
    """Lines over the limit are lost, and their number is written in their place."""

    def __init__(self, descriptor: int, lost: Callable[[int], str], *, buffer_bytes: int = BUFFER_BYTES) -> None:
        """`lost` makes a line from the number of lost lines."""
        self._descriptor = descriptor
        self._lost = lost
        self._limit_bytes = buffer_bytes
        self._queue: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._lost_lines = 0
        self._partial = False  # the last written line is incomplete
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, text: str) -> None:
        """Complete lines."""
        if not text:
            return
        data = text.encode("utf-8", "replace")
        with self._changed:
            if self._buffered_bytes + len(data) > self._limit_bytes:
                self._lost_lines += text.count("\n")
                return
            if self._lost_lines:
                data = self._lost(self._lost_lines).encode() + data
                self._lost_lines = 0
            self._queue.append(data)
            self._buffered_bytes += len(data)
            self._changed.notify()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Waits until all is written, at most for the timeout."""
        with self._changed:
            if self._lost_lines:
                self._queue.append(self._lost(self._lost_lines).encode())
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                data = self._queue.popleft()
            rest = b"\n" + data if self._partial else data
            try:
                while rest:
                    rest = self.write_once(rest)
            except OSError:  # a full disk or a closed pipe loses these lines only
                self._partial = self._partial or len(rest) < len(data)
            else:
                self._partial = False
            with self._changed:
                self._buffered_bytes -= len(data)

    def write_once(self, data: bytes) -> bytes:
        """What is left. Another process may have made the shared standard output non-blocking."""
        try:
            return data[os.write(self._descriptor, data) :]
        except BlockingIOError:
            select.select([], [self._descriptor], [])
            return data
