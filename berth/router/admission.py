"""Gives each request a replica that has room for it; those for which there is none wait for their turn.

How many requests a replica has is counted over all workers, in the scoreboard. Two workers may give away the same last
place at the same moment: an engine then gets a request more than its limit, which waits inside it.
"""

import asyncio
import time
from collections.abc import Sequence

from berth.errors import ApiError, NotReadyError
from berth.plan import Plan
from berth.router.balance import Balance
from berth.router.call import Call
from berth.router.metrics import Meter, Refusal
from berth.router.queue import Queue, Ticket
from berth.router.upstreams import Upstream

_SHORTEST_S = 0.001  # timers may be early by less
HEARTBEAT_S = 5.0  # a stream that waits longer begins, and says so as often


class Admission:
    def __init__(self, plan: Plan, balance: Balance, meter: Meter) -> None:
        limited = {replica.model for replica in plan.replicas if replica.concurrency}
        self._queues = {name: Queue(name) for name in limited}
        self._limits = plan.limits
        self._balance = balance
        self._meter = meter

    async def next(self, call: Call, asked: Sequence[Upstream]) -> Upstream | None:
        """The replica to ask now. None: all were asked. ApiError where there is none, or none in time."""
        candidates = self._balance.candidates(call, asked)
        queue = self._queues.get(call.route.name)
        if queue is None or not candidates:
            return candidates[0] if candidates else None
        if not queue.tickets and (upstream := self._with_room(candidates)):
            return upstream
        return await self._wait(queue, call, asked)

    def freed(self, model: str) -> None:
        """A replica of the model has a request less."""
        queue = self._queues.get(model)
        if queue is not None and queue.tickets:
            self._grant(queue)

    def look(self) -> None:
        """Called every few dozen milliseconds: for the places that other workers have freed."""
        for queue in self._queues.values():
            if queue.tickets:
                self._grant(queue, in_turn=True)

    async def _wait(self, queue: Queue, call: Call, asked: Sequence[Upstream]) -> Upstream | None:
        waiting = self._meter.queue_length(queue.model)
        if waiting >= self._limits.queue_size:
            self._meter.refused(queue.model, Refusal.FULL)
            raise queue.full(waiting)
        ticket = Ticket(call, tuple(asked), asyncio.get_running_loop().create_future())
        queue.join(ticket)
        self._meter.queued(queue.model, 1)
        try:
            self._grant(queue)
            await self._until_granted(queue, ticket)
        except BaseException:  # the client left, or it is too late
            queue.leave(ticket)
            self._give_back(queue, ticket)
            raise
        finally:
            self._meter.queued(queue.model, -1)
        self._meter.waited(queue.model, time.monotonic() - ticket.since)
        return ticket.take()

    async def _until_granted(self, queue: Queue, ticket: Ticket) -> None:
        limit_s = self._limits.queue_timeout_s
        ends, beat = ticket.since + limit_s, ticket.since + HEARTBEAT_S
        while not ticket.granted.done():
            now = time.monotonic()
            if now >= ends:
                self._meter.refused(queue.model, Refusal.TIMEOUT)
                raise queue.too_late(ticket, limit_s)
            if now >= beat:
                beat += HEARTBEAT_S
                await _heartbeat(ticket.call, queue.position(ticket))
            await asyncio.wait([ticket.granted], timeout=max(min(ends, beat) - now, _SHORTEST_S))

    def _give_back(self, queue: Queue, ticket: Ticket) -> None:
        """A place that was granted and will not be taken."""
        if ticket.granted.done() and not ticket.granted.exception() and ticket.take():
            self._grant(queue)

    def _grant(self, queue: Queue, *, in_turn: bool = False) -> None:
        """Gives the room that there is to those that wait, the first of them first."""
        for ticket in tuple(queue.tickets):
            try:
                candidates = self._balance.candidates(ticket.call, ticket.asked)
            except NotReadyError as error:
                _end(queue, ticket, error)
                continue
            if not candidates:
                _end(queue, ticket)
            elif upstream := self._with_room(candidates, in_turn=in_turn):
                queue.served(ticket)
                ticket.grant(upstream)
            elif not ticket.asked:
                return  # nobody behind it has more replicas to choose from

    def _with_room(self, candidates: Sequence[Upstream], *, in_turn: bool = False) -> Upstream | None:
        for upstream in candidates:
            if self._has_room(upstream, in_turn=in_turn):
                return upstream
        return None

    def _has_room(self, upstream: Upstream, *, in_turn: bool) -> bool:
        """When requests wait in other workers too, each worker fills its part of the places at once (`in_turn`: a place
        that is left over goes to the worker which looks first), so that none of them is served alone.
        """
        limit, replica = upstream.limit, upstream.replica
        if not limit:
            return True
        if self._meter.load(replica) + upstream.promised >= limit:
            return False
        others = self._meter.other_queues(replica.model)
        if not others:
            return True
        own, part = self._meter.own_load(replica) + upstream.promised, limit / (others + 1)
        return own < part if in_turn else own + 1 <= part


def _end(queue: Queue, ticket: Ticket, error: ApiError | None = None) -> None:
    queue.leave(ticket)
    if error is None:
        ticket.granted.set_result(None)
    else:
        ticket.granted.set_exception(error)


async def _heartbeat(call: Call, position: int) -> None:
    """Tells the client of a stream that it is waited for, in its API's own way."""
    if call.request.stream:
        await call.beat(f"queued, position {position}")
