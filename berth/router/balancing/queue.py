"""The queued requests of one model in this worker, in the order in which they get a slot; pure."""

import asyncio
import time
from bisect import insort
from collections.abc import Sequence

from berth.errors import OverloadedError
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange.request import RequestContext

_RETRY_SOONEST_S = 1.0
_WEIGHT_OF_PAST = 0.9  # in the mean time from one grant to the next


class Ticket:
    """A queued request. `granted` is the replica that it gets; None: no other replica may get it."""

    __slots__ = ("ctx", "granted", "rank", "since", "tried")

    def __init__(
        self, ctx: RequestContext, tried: Sequence[Upstream], granted: "asyncio.Future[Upstream | None]"
    ) -> None:
        self.ctx = ctx
        self.tried = tried  # the replicas that have failed it already
        self.granted = granted
        self.rank = (ctx.priority, ctx.since)
        self.since = time.monotonic()


class Queue:
    def __init__(self, model: str) -> None:
        self.model = model
        self.tickets: list[Ticket] = []  # the next one first
        self._gap_s = 0.0  # mean time from one grant to the next, while requests are queued
        self._last = 0.0

    def join(self, ticket: Ticket) -> None:
        if not self.tickets:
            self._last = ticket.since
        insort(self.tickets, ticket, key=lambda one: one.rank)

    def leave(self, ticket: Ticket) -> None:
        if ticket in self.tickets:
            self.tickets.remove(ticket)

    def served(self, ticket: Ticket) -> None:
        """It leaves with a slot."""
        self.tickets.remove(ticket)
        now = time.monotonic()
        self._gap_s = _WEIGHT_OF_PAST * self._gap_s + (1 - _WEIGHT_OF_PAST) * (now - self._last)
        self._last = now

    def position(self, ticket: Ticket) -> int:
        """1: the next one."""
        return self.tickets.index(ticket) + 1

    def full_error(self, length: int) -> OverloadedError:
        return OverloadedError(
            f"Every engine of model {self.model!r} is at capacity, and {length} requests are queued already "
            "(BERTH_QUEUE_SIZE).",
            code="queue_full",
            retry_after_s=self._retry_after_s(length),
        )

    def timeout_error(self, ticket: Ticket, limit_s: float) -> OverloadedError:
        position = self.position(ticket)
        return OverloadedError(
            f"Every engine of model {self.model!r} was at capacity for {limit_s:g} s (BERTH_QUEUE_TIMEOUT). "
            f"The request was at position {position} of the queue.",
            code="queue_timeout",
            retry_after_s=self._retry_after_s(position),
        )

    def _retry_after_s(self, ahead: int) -> float:
        return max(_RETRY_SOONEST_S, min(ahead * self._gap_s, 60.0))
