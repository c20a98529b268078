"""Circuit breakers: a replica that keeps failing is left alone for a while, then tried with one request.

So is one that keeps saying that it is full, and nothing else: it is well, but asking it is of no use. That takes more
answers, because an engine under load refuses some requests and serves others; and any answer that it gives ends it.

Pure but for the jitter: times are seconds on any one clock.
"""

import math
import random
from collections import deque
from enum import StrEnum

CONSECUTIVE = 3  # failures in a row that open it
REFUSALS = 10  # requests in a row that find it full, none served between them, that open it
WINDOW_S = 30.0
WINDOW_LEAST = 10  # results in the window before their share of failures means anything
WINDOW_SHARE = 0.5  # of failures in the window that opens it
PAUSE_FIRST_S = 1.0
PAUSE_LONGEST_S = 30.0
PAUSE_FULL_S = 4.0  # the longest for one that is full, unless it asks for more: its places may come free at any time
REFUSED_WITHIN_S = 1.0  # a full engine says so at once: what it has kept for longer, it has taken
JITTER = 0.2  # so that several workers do not try at the same moment


class Circuit(StrEnum):
    CLOSED = "closed"  # all is well
    OPEN = "open"  # asked only when there is nobody else
    HALF_OPEN = "half_open"  # one request may try


class CircuitBreaker:
    """Of one replica, as one worker sees it."""

    __slots__ = ("_in_a_row", "_pause_s", "_refusals", "_results", "_trial_ends", "full", "opened_until")

    def __init__(self) -> None:
        self._results: deque[tuple[float, bool]] = deque(maxlen=200)  # when, and whether it failed
        self.reset()

    def reset(self) -> None:
        """The replica was started again, or control finds it well: what it did before does not count."""
        self._results.clear()
        self._in_a_row = 0
        self._refusals = 0
        self._pause_s = 0.0  # of the last opening; 0: closed
        self._trial_ends = 0.0  # half open, and the one request is on its way until then at the latest; 0: it is not
        self.full = False  # True: it is open because the replica says that it is full
        self.opened_until = 0.0

    def circuit(self, now: float) -> Circuit:
        if not self._pause_s:
            return Circuit.CLOSED
        return Circuit.OPEN if now < max(self.opened_until, self._trial_ends) else Circuit.HALF_OPEN

    def ejected_until(self, now: float) -> float:
        """0.0 unless the circuit is open. As a sort key it keeps the order of healthy replicas and puts the ejected
        ones behind them, the one that returns soonest first: if all are ejected, that one gets the request.
        """
        return self.opened_until if self.circuit(now) is Circuit.OPEN else 0.0

    def asks_in_vain(self, now: float) -> bool:
        """A request would only hear that the replica is full."""
        return self.full and self.circuit(now) is Circuit.OPEN

    def begin(self, now: float) -> None:
        """A request is sent to the replica."""
        if self._pause_s and now >= self.opened_until:
            self._trial_ends = now + REFUSED_WITHIN_S if self.full else math.inf

    def succeeded(self, now: float) -> None:
        if self._pause_s:
            self.reset()
        self._in_a_row = self._refusals = 0
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

    def refused(self, now: float, retry_after_s: float = 0.0) -> None:
        """The replica says that it is full. `retry_after_s`: when it wants to be asked again."""
        self._refusals += 1
        due = now >= self.opened_until if self._pause_s else self._refusals >= REFUSALS
        if due:
            self._open_as_full(now, retry_after_s)

    def withdrawn(self) -> None:
        """The request ended without telling anything about the replica: its client left, or it was wrong."""
        self._trial_ends = 0.0

    def _open(self, now: float) -> None:
        self._trial_ends = 0.0
        self.full = False
        self._pause_s = min(max(2 * self._pause_s, PAUSE_FIRST_S), PAUSE_LONGEST_S)
        jitter = 1 + JITTER * (2 * random.random() - 1)  # noqa: S311 - no secret
        self.opened_until = now + self._pause_s * jitter

    def _open_as_full(self, now: float, retry_after_s: float) -> None:
        """Never earlier than it asked for."""
        self._trial_ends = 0.0
        self.full = True
        self._pause_s = min(max(2 * self._pause_s, PAUSE_FIRST_S), PAUSE_FULL_S)
        pause_s = max(self._pause_s, min(retry_after_s, PAUSE_LONGEST_S))
        self.opened_until = now + pause_s * (1 + JITTER * random.random())  # noqa: S311 - no secret

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
