"""Gives each request a replica that has room for it; those for which there is none wait for their turn.

How many requests a replica has is counted over all workers, in the scoreboard, which they read as they decide: it is
memory that they share. A worker counts a request first, looks at the sum then, and takes it back where that is over the
limit: so of several that want the last place at the same moment none overlooks the others, and an engine gets no more
than its limit. There are two exceptions:

1. a request that another replica has failed is counted when it is sent: at most one more for each other worker, where
   all of them do that within the same microseconds;
2. a replica that goes on with another one's stream does so at once: the client is in the middle of its answer.

A replica whose last answers all said that it is full is asked again after a pause only. Meanwhile requests wait as if
it had no room; those of a model without a limit, which has no queue, are told to come again.
"""

import asyncio
import threading
import time
from collections.abc import Sequence

from berth.errors import ApiError, NotReadyError
from berth.plan import Plan
from berth.router.balancing import selection
from berth.router.balancing.queue import Queue, Ticket
from berth.router.balancing.selection import Balance
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter, Refusal

_SHORTEST_S = 0.001  # timers may be early by less
HEARTBEAT_S = 5.0  # a stream that waits longer begins, and says so as often


class Admission:
    def __init__(self, plan: Plan, balance: Balance, meter: Meter) -> None:
        limited = {replica.model: Queue(replica.model) for replica in plan.replicas if replica.concurrency}
        bases = {route.name: route.base or route.name for route in plan.routes}  # adapters share their model's places
        self._queues = {name: limited[base] for name, base in bases.items() if base in limited}
        self._all_queues = tuple(limited.values())
        self._limits = plan.limits
        self._balance = balance
        self._meter = meter
        self._fence = threading.Lock()

    async def next(self, call: RequestContext, asked: Sequence[Upstream]) -> Upstream | None:
        """The replica to ask now: `taken` comes next. None: all were asked, or will not be asked now. ApiError where
        there is none, or none in time.
        """
        candidates = self._balance.candidates(call, asked)
        queue = self._queues.get(call.route.name)
        if queue is None or not candidates:
            return self._any(call, candidates)
        upstream = None if queue.tickets else self._with_room(candidates)
        if upstream is None:
            upstream = await self._wait(queue, call, asked)
        if asked and upstream is not None:  # who was failed by another may still be refused: see RetryBudget
            self._let_go(upstream)
        return upstream

    def taken(self, upstream: Upstream) -> None:
        """A request is sent to the replica; where a place was kept for it, it counts already."""
        if upstream.promised:
            upstream.promised -= 1
        else:
            self._meter.on_replica(upstream.replica, 1)

    def spare(self, upstream: Upstream) -> bool:
        """Keeps a place on a replica that has a limit, to see whether it lives: `taken` comes next, and `left` in the
        end. False where there is none; the next one that comes free is not given away then, until this is called again
        or `spared` is set back.
        """
        upstream.spared = 0
        if self._with_room([upstream]) is None:
            upstream.spared = 1
        return not upstream.spared

    def left(self, upstream: Upstream) -> None:
        """A request has left the replica."""
        self._meter.on_replica(upstream.replica, -1)
        self.freed(upstream.replica.model)

    def freed(self, model: str) -> None:
        """A replica of the model has a request less. `model`: or an adapter of it."""
        queue = self._queues.get(model)
        if queue is not None and queue.tickets:
            self._grant(queue)

    def look(self) -> None:
        """Called every few dozen milliseconds: for the places that other workers have freed."""
        for queue in self._all_queues:
            if queue.tickets:
                self._grant(queue, in_turn=True)

    async def _wait(self, queue: Queue, call: RequestContext, asked: Sequence[Upstream]) -> Upstream | None:
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
        return ticket.granted.result()

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
        if ticket.granted.done() and not ticket.granted.exception() and (upstream := ticket.granted.result()):
            self._let_go(upstream)
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
                ticket.granted.set_result(upstream)
            elif not ticket.asked:
                return  # nobody behind it has more replicas to choose from

    def _any(self, call: RequestContext, candidates: Sequence[Upstream]) -> Upstream | None:
        """The first that is not full by its own words, where there is no limit to keep."""
        for upstream in candidates:
            if not _is_full(upstream):
                return upstream
        if not candidates or call.failures:
            return None
        self._meter.refused(call.route.name, Refusal.FULL)
        raise selection.full(call.route, [upstream.breaker for upstream in candidates], time.monotonic())

    def _with_room(self, candidates: Sequence[Upstream], *, in_turn: bool = False) -> Upstream | None:
        """The first with room. A place there is kept until the request takes it."""
        for upstream in candidates:
            if not _is_full(upstream) and (not upstream.limit or self._keep(upstream, in_turn=in_turn)):
                return upstream
        return None

    def _keep(self, upstream: Upstream, *, in_turn: bool) -> bool:
        """A place, if there is one: first it counts, then the sum tells whether it may."""
        replica, limit = upstream.replica, upstream.limit - upstream.spared
        if self._meter.load(replica) >= limit or not self._is_its_turn(upstream, in_turn=in_turn):
            return False
        self._meter.on_replica(replica, 1)
        with self._fence:  # an atomic operation: processors do not read ahead of it what others count
            pass
        if self._meter.load(replica) > limit:
            self._meter.on_replica(replica, -1)
            return False
        upstream.promised += 1
        return True

    def _let_go(self, upstream: Upstream) -> None:
        """A place that was kept and is not taken now."""
        if upstream.promised:
            upstream.promised -= 1
            self._meter.on_replica(upstream.replica, -1)

    def _is_its_turn(self, upstream: Upstream, *, in_turn: bool) -> bool:
        """When requests wait in other workers too, each worker fills its part of the places at once (`in_turn`: a place
        that is left over goes to the worker which looks first), so that none of them is served alone.
        """
        others = self._meter.other_queues(upstream.replica.model)
        if not others:
            return True
        own, part = self._meter.own_load(upstream.replica), upstream.limit / (others + 1)
        return own < part if in_turn else own + 1 <= part


def _is_full(upstream: Upstream) -> bool:
    """By its own words, so that it is not asked now; nor when one request is about to try."""
    breaker = upstream.breaker
    return breaker.full and (upstream.promised > 0 or breaker.asks_in_vain(time.monotonic()))


def _end(queue: Queue, ticket: Ticket, error: ApiError | None = None) -> None:
    queue.leave(ticket)
    if error is None:
        ticket.granted.set_result(None)
    else:
        ticket.granted.set_exception(error)


async def _heartbeat(call: RequestContext, position: int) -> None:
    """Tells the client of a stream that it is waited for, in its API's own way."""
    if call.request.stream:
        await call.beat(f"queued, position {position}")
