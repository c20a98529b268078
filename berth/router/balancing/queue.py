"""The requests of one model that wait in this worker, in the order in which they will be let go; pure."""

import asyncio
import time
from bisect import insort
from collections.abc import Sequence

from berth.errors import OverloadedError
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange.request import RequestContext

_SOONEST_S = 1.0  # to come again
_MEMORY = 0.9  # of the mean time from one grant to the next: what the past weighs


class Ticket:
    """A request that waits. `granted` is the replica that it gets; None: there is none left to ask."""

    __slots__ = ("asked", "call", "granted", "rank", "since")

    def __init__(
        self, call: RequestContext, asked: Sequence[Upstream], granted: "asyncio.Future[Upstream | None]"
    ) -> None:
        self.call = call
        self.asked = asked  # those that have failed it already
        self.granted = granted
        self.rank = (call.priority, call.since)
        self.since = time.monotonic()


class Queue:
    def __init__(self, model: str) -> None:
        self.model = model
        self.tickets: list[Ticket] = []  # the next one in front
        self._gap_s = 0.0  # mean time from one grant to the next, while requests wait
        self._last = 0.0

    def join(self, ticket: Ticket) -> None:
        if not self.tickets:
            self._last = ticket.since
        insort(self.tickets, ticket, key=lambda one: one.rank)

    def leave(self, ticket: Ticket) -> None:
        if ticket in self.tickets:
            self.tickets.remove(ticket)

    def served(self, ticket: Ticket) -> None:
        """It leaves because its turn has come."""
        self.tickets.remove(ticket)
        now = time.monotonic()
        self._gap_s = _MEMORY * self._gap_s + (1 - _MEMORY) * (now - self._last)
        self._last = now

    def position(self, ticket: Ticket) -> int:
        """1: the next one."""
        return self.tickets.index(ticket) + 1

    def full(self, waiting: int) -> OverloadedError:
        return OverloadedError(
            f"Every engine of model {self.model!r} is full, and {waiting} requests wait already (BERTH_QUEUE_SIZE).",
            code="queue_full",
            retry_after_s=self._retry_after_s(waiting),
        )

    def too_late(self, ticket: Ticket, limit_s: float) -> OverloadedError:
        position = self.position(ticket)
        return OverloadedError(
            f"Every engine of model {self.model!r} was full for {limit_s:g} s (BERTH_QUEUE_TIMEOUT). "
            f"The request was at position {position} of those that wait.",
            code="queue_timeout",
            retry_after_s=self._retry_after_s(position),
        )

    def _retry_after_s(self, ahead: int) -> float:
        return max(_SOONEST_S, min(ahead * self._gap_s, 60.0))
