"""Circuit breakers: a replica that keeps failing is ejected for a while, then probed with one request.

A replica that keeps reporting overload, and serves nothing, is ejected too: it is healthy, but requests to it are
useless. That takes more responses, because an engine under load rejects some requests and serves others; and any
response that it serves closes the circuit.

Pure except for the jitter: times are seconds on any one clock.
"""

import math
import random
from collections import deque
from enum import StrEnum

CONSECUTIVE = 3  # failures in a row that open it
REJECTIONS = 10  # requests in a row that were rejected for overload, none served between them, that open it
WINDOW_S = 30.0
WINDOW_LEAST = 10  # results in the window before their share of failures means anything
WINDOW_SHARE = 0.5  # of failures in the window that opens it
PAUSE_FIRST_S = 1.0
PAUSE_LONGEST_S = 30.0
PAUSE_OVERLOADED_S = 4.0  # the longest after overload unless it requests more: capacity may come back at any time
REJECTED_WITHIN_S = 1.0  # an overloaded engine rejects at once: what it has held for longer, it has accepted
JITTER = 0.2  # so that several workers do not probe at the same moment


class Circuit(StrEnum):
    CLOSED = "closed"  # healthy
    OPEN = "open"  # ejected: gets requests only when no replica is healthy
    HALF_OPEN = "half_open"  # one request may probe it


class CircuitBreaker:
    """Of one replica, as one worker sees it."""

    __slots__ = ("_in_a_row", "_pause_s", "_probe_ends", "_rejections", "_results", "opened_until", "overloaded")

    def __init__(self) -> None:
        self._results: deque[tuple[float, bool]] = deque(maxlen=200)  # when, and whether it failed
        self.reset()

    def reset(self) -> None:
        """The replica was restarted, or control reports it healthy: earlier results do not count."""
        self._results.clear()
        self._in_a_row = 0
        self._rejections = 0
        self._pause_s = 0.0  # of the last opening; 0: closed
        self._probe_ends = 0.0  # half open: the probe is under way until then at the latest; 0: no probe
        self.overloaded = False  # True: it is open because the replica reports overload
        self.opened_until = 0.0

    def circuit(self, now: float) -> Circuit:
        if not self._pause_s:
            return Circuit.CLOSED
        return Circuit.OPEN if now < max(self.opened_until, self._probe_ends) else Circuit.HALF_OPEN

    def ejected_until(self, now: float) -> float:
        """0.0 unless the circuit is open. As a sort key it keeps the order of healthy replicas and puts the ejected
        ones behind them, the one that returns soonest first: if all are ejected, that one gets the request.
        """
        return self.opened_until if self.circuit(now) is Circuit.OPEN else 0.0

    def rejects(self, now: float) -> bool:
        """A request now would be rejected for overload."""
        return self.overloaded and self.circuit(now) is Circuit.OPEN

    def begin(self, now: float) -> None:
        """A request is sent to the replica."""
        if self._pause_s and now >= self.opened_until:
            self._probe_ends = now + REJECTED_WITHIN_S if self.overloaded else math.inf

    def succeeded(self, now: float) -> None:
        if self._pause_s:
            self.reset()
        self._in_a_row = self._rejections = 0
        self._results.append((now, False))

    def failed(self, now: float, *, certain: bool = False) -> None:
        """`certain`: it accepts no connection, so that one failure is enough."""
        self._in_a_row += 1
        self._results.append((now, True))
        while self._results[0][0] < now - WINDOW_S:
            self._results.popleft()
        failures = sum(failed for _, failed in self._results)
        often = len(self._results) >= WINDOW_LEAST and failures >= WINDOW_SHARE * len(self._results)
        if self._pause_s:
            if now >= self.opened_until:
                self._open(now)
        elif certain or often or self._in_a_row >= CONSECUTIVE:
            self._open(now)

    def rejected(self, now: float, retry_after_s: float = 0.0) -> None:
        """The replica reports overload. `retry_after_s`: as it requests; the pause is never shorter."""
        self._rejections += 1
        if (now < self.opened_until) if self._pause_s else self._rejections < REJECTIONS:
            return
        self._probe_ends = 0.0
        self.overloaded = True
        self._pause_s = min(max(2 * self._pause_s, PAUSE_FIRST_S), PAUSE_OVERLOADED_S)
        pause_s = max(self._pause_s, min(retry_after_s, PAUSE_LONGEST_S))
        self.opened_until = now + pause_s * (1 + JITTER * random.random())  # noqa: S311 - no secret

    def withdrawn(self) -> None:
        """The request ended without a result about the replica: its client disconnected, or it was never sent."""
        self._probe_ends = 0.0

    def _open(self, now: float) -> None:
        self._probe_ends = 0.0
        self.overloaded = False
        self._pause_s = min(max(2 * self._pause_s, PAUSE_FIRST_S), PAUSE_LONGEST_S)
        jitter = 1 + JITTER * (2 * random.random() - 1)  # noqa: S311 - no secret
        self.opened_until = now + self._pause_s * jitter


class RetryBudget:
    """The number of further attempts that a worker may make for failed requests: a share of all requests, and after
    quiet times as many as an engine may have had when it died. Without it a failing server gets several times its load
    just when it cannot carry it.
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
