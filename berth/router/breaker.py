"""Circuit breakers: a replica that keeps failing is left alone for a while, then tried with one request.

Pure but for the jitter: times are seconds on any one clock.
"""

import random
from collections import deque
from enum import StrEnum

CONSECUTIVE = 3  # failures in a row that open it
WINDOW_S = 30.0
WINDOW_LEAST = 10  # results in the window before their share of failures means anything
WINDOW_SHARE = 0.5  # of failures in the window that opens it
PAUSE_FIRST_S = 1.0
PAUSE_LONGEST_S = 30.0
JITTER = 0.2  # so that several workers do not try at the same moment


class Circuit(StrEnum):
    CLOSED = "closed"  # all is well
    OPEN = "open"  # asked only when there is nobody else
    HALF_OPEN = "half_open"  # one request may try


class Breaker:
    """Of one replica, as one worker sees it."""

    __slots__ = ("_in_a_row", "_pause_s", "_results", "_trial", "opened_until")

    def __init__(self) -> None:
        self._results: deque[tuple[float, bool]] = deque(maxlen=200)  # when, and whether it failed
        self.reset()

    def reset(self) -> None:
        """The replica was started again, or control finds it well: what it did before does not count."""
        self._results.clear()
        self._in_a_row = 0
        self._pause_s = 0.0  # of the last opening; 0: closed
        self._trial = False  # True: half open, and the one request is on its way
        self.opened_until = 0.0

    def circuit(self, now: float) -> Circuit:
        if not self._pause_s:
            return Circuit.CLOSED
        return Circuit.OPEN if now < self.opened_until or self._trial else Circuit.HALF_OPEN

    def begin(self, now: float) -> None:
        """A request is sent to the replica."""
        if self._pause_s and now >= self.opened_until:
            self._trial = True

    def succeeded(self, now: float) -> None:
        if self._pause_s:
            self.reset()
        self._in_a_row = 0
        self._results.append((now, False))

    def failed(self, now: float, *, certain: bool = False) -> None:
        """`certain`: nobody listens there, one failure is enough."""
        self._in_a_row += 1
        self._results.append((now, True))
        if self._pause_s:
            if now >= self.opened_until:
                self._open(now)
        elif certain or self._in_a_row >= CONSECUTIVE or self._fails_often(now):
            self._open(now)

    def withdrawn(self) -> None:
        """The request ended without telling anything about the replica: its client left, or it was wrong."""
        self._trial = False

    def _open(self, now: float) -> None:
        self._trial = False
        self._pause_s = min(max(2 * self._pause_s, PAUSE_FIRST_S), PAUSE_LONGEST_S)
        jitter = 1 + JITTER * (2 * random.random() - 1)  # noqa: S311 - no secret
        self.opened_until = now + self._pause_s * jitter

    def _fails_often(self, now: float) -> bool:
        while self._results and self._results[0][0] < now - WINDOW_S:
            self._results.popleft()
        failures = sum(failed for _, failed in self._results)
        return len(self._results) >= WINDOW_LEAST and failures >= WINDOW_SHARE * len(self._results)


class RetryBudget:
    """How many further attempts a worker may make for requests that have failed: a share of all requests, and after
    quiet times as many as an engine may have had when it died. Without it a sick box gets several times its load, just
    when it cannot carry it.
    """

    __slots__ = ("_left",)

    SHARE = 0.2
    MOST = 100.0

    def __init__(self) -> None:
        self._left = self.MOST

    def deposit(self) -> None:
        """A request came."""
        self._left = min(self._left + self.SHARE, self.MOST)

    def withdraw(self) -> bool:
        """True: one more attempt may be made."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
