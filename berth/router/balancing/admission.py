"""Gives each request a replica with a free slot; requests for which there is none are queued.

The requests of a replica are counted over all workers, in the shared counters, which they read when they decide. A
worker counts a request first, reads the sum then, and takes it back if the sum is over the limit: so of several workers
that want the last slot at the same moment none overlooks the others, and an engine never gets more than its limit.
There are two exceptions:

1. a request that another replica has failed is counted when it is sent: at most one more for each other worker, if all
   of them do that within the same microseconds;
2. a replica that continues another one's stream does so at once: the client is in the middle of its response.

A replica that is ejected for overload gets no requests until its pause is over. Until then requests wait as if it had
no free slot; those of a model without a limit, which has no queue, are rejected.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence

from berth.apis.stream_events import HEARTBEAT_S
from berth.errors import ApiError, NotReadyError
from berth.plan import Plan, Standby
from berth.router.balancing import selection
from berth.router.balancing.fairness import Turns
from berth.router.balancing.prefixes import Prefixes
from berth.router.balancing.queue import Queue, Ticket
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange import outcomes
from berth.router.exchange.headers import SIDE, load_wait_s
from berth.router.exchange.heartbeats import FIRST_S
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter, Rejection

_HOT = Standby.HOT  # see berth.canonical.CHAT
_SHORTEST_S = 0.001  # timers may be early by less
_HELD_S = 1.0  # so much longer at a time, while a migration queues requests: control limits how long it does


class Admission:
    def __init__(
        self, plan: Plan, upstreams: Upstreams, meter: Meter, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        """`on_wait` is called when a request is queued: from then on `poll` has to be called while any is `waiting`."""
        # an attached server that is not known yet may say later how many requests it takes
        may_limit = [one.model for one in plan.replicas if one.concurrency or (one.detects and one.unreached)]
        numbers = {route.name: number for number, route in enumerate(plan.models)}
        limited = {
            model: Queue(model, plan.limits.queue_timeout_s, Turns(meter.keys, numbers[model])) for model in may_limit
        }
        bases = {route.name: route.base or route.name for route in plan.routes}  # adapters share their model's slots
        self._queues = {name: limited[base] for name, base in bases.items() if base in limited}
        self._all_queues = tuple(limited.values())
        self._prefixes = {route.name: Prefixes() for route in plan.routes}
        self._limits = plan.limits
        self._upstreams = upstreams
        self._meter = meter
        self._fence = threading.Lock()
        self._on_wait = on_wait
        # requests of models that are being loaded by request, in the order in which they came
        self._returning: dict[str, dict[RequestContext, asyncio.Future[ApiError | None]]] = {}

    def candidates(self, ctx: RequestContext, tried: Sequence[Upstream] = ()) -> Sequence[Upstream]:
        """The replicas that may get the request, best first, without those that were tried. NotReadyError if the model
        has no ready replica.
        """
        ready: Sequence[Upstream] = self._upstreams.ready(ctx.route)
        if tried:
            ready = [upstream for upstream in ready if upstream not in tried]
        elif not ready:
            return self._upstreams.measured(ctx.route, ctx.headers)
        if self._upstreams.ejected:
            ready = selection.healthy(ready, time.monotonic())
        if (canaries := self._upstreams.canaries) and (split := canaries.get(ctx.route.name)) is not None:
            return selection.split(ready, split, ctx.session or ctx.request_id.encode(), ctx.headers.get(SIDE, b""))
        return self._balanced(ctx, ready) if ctx.route.standby is _HOT and len(ready) > 1 else ready

    def peers(self, ctx: RequestContext, upstream: Upstream) -> Sequence[Upstream]:
        """The replicas that can continue what this one has begun, best first."""
        peers = self._upstreams.peers(ctx.route, upstream, ctx.request.operation)
        if ctx.route.standby is Standby.HOT and len(peers) > 1:
            peers = self._balanced(ctx, peers)
        return selection.healthy_first(peers, time.monotonic()) if self._upstreams.ejected else peers

    def at_once(self, ctx: RequestContext, tried: Sequence[Upstream]) -> Upstream | None:
        """As `next` where nothing has to be waited for, which is nearly always; None: ask `next`."""
        try:
            candidates = self.candidates(ctx, tried)
        except NotReadyError:
            return None
        queue = self._queues.get(ctx.route.name)
        if queue is None:
            for candidate in candidates:
                if not (candidate.breaker.overloaded and _rejects(candidate)):
                    return candidate
            return None
        upstream = None if queue.length or not candidates else self._reserve(candidates)
        if upstream is not None:
            if ctx.grant is not None:
                queue.pay(ctx)
            if tried:  # the retry budget may still reject a fallback
                self._release(upstream)
        return upstream

    async def next(self, ctx: RequestContext, tried: Sequence[Upstream]) -> Upstream | None:
        """The replica for the next attempt: call `begin` at once. None: no other replica may get the request now.
        ApiError if there is no replica, or none in time.
        """
        try:
            candidates = self.candidates(ctx, tried)
        except NotReadyError:
            candidates = await self._until_back(ctx)
        if (upstream := self.at_once(ctx, tried)) is not None:
            return upstream
        queue = self._queues.get(ctx.route.name)
        if not candidates or (queue is None and ctx.failures):
            return None
        if queue is None:
            self._meter.rejected(ctx.route.name, Rejection.FULL)
            raise selection.overloaded(ctx.route, [one.breaker for one in candidates], time.monotonic())
        upstream = await self._wait(queue, ctx, tried)
        if tried and upstream is not None:  # as in `at_once`
            self._release(upstream)
        return upstream

    def settle(self, ctx: RequestContext, cost: float) -> None:
        """The request is over: what it cost, for the turns of its client."""
        queue = self._queues.get(ctx.route.name)
        if queue is not None and ctx.grant is not None and ctx.grant.queued:
            queue.turns.correct(ctx.key.slot, cost / ctx.key.share - ctx.grant.price)

    def begin(self, upstream: Upstream) -> None:
        """A request is on the replica until `end`. It uses the slot that is reserved for it, if one is."""
        if upstream.reserved:
            upstream.reserved -= 1
        else:
            self._meter.on_replica(upstream.replica, 1)

    def end(self, upstream: Upstream) -> None:
        self._meter.on_replica(upstream.replica, -1)
        queue = self._queues.get(upstream.replica.model)
        if queue is not None and queue.length:
            self._grant(queue)

    def reserve_for_check(self, upstream: Upstream) -> bool:
        """Reserves a slot for a liveness check of a replica that has a limit: call `begin` at once. False if none is
        free: the next free one then stays free, until this is called again or `cancel_check`.
        """
        upstream.check_slots = 0
        if self._reserve([upstream]) is None:
            upstream.check_slots = 1
        return not upstream.check_slots

    def cancel_check(self, upstream: Upstream) -> None:
        upstream.check_slots = 0

    def poll(self) -> None:
        """For the slots that other workers have freed: called every few dozen ms while requests are queued."""
        for queue in self._all_queues:
            if queue.length:
                self._grant(queue, fair=True)
        for waiting in self._returning.values():
            for ctx, ends in waiting.items():
                if not ends.done() and (self._upstreams.ready(ctx.route) or not self._upstreams.comes_back(ctx.route)):
                    ends.set_result(None)

    @property
    def waiting(self) -> bool:
        """Requests are queued in this worker, or wait for a model."""
        return any(queue.length for queue in self._all_queues) or any(self._returning.values())

    def _balanced(self, ctx: RequestContext, upstreams: Sequence[Upstream]) -> Sequence[Upstream]:
        groups = [upstreams]
        if (engine := ctx.route.engine) and not ctx.route.only:
            first = [one for one in upstreams if engine in one.called]
            groups = [first, [one for one in upstreams if one not in first]]
        table, statuses = self._prefixes[ctx.route.name], self._upstreams.statuses
        holders = table.holders(ctx.session, ctx.beginnings) if ctx.beginnings else ()
        order: list[Upstream] = []
        for group in filter(None, groups):
            loads = [self._meter.load(upstream.replica) for upstream in group]
            names = (one.replica.name for one in group) if holders else ()
            holding = [index for index, name in enumerate(names) if (name, statuses[name].since) in holders]
            order += selection.balanced(group, loads, ctx.session, holding)
        if ctx.beginnings:
            name = order[0].replica.name
            table.sent(ctx.session, ctx.beginnings, (name, statuses[name].since))
        return order

    # the queue

    async def _wait(self, queue: Queue, ctx: RequestContext, tried: Sequence[Upstream]) -> Upstream | None:
        if (length := self._meter.queue_length(queue.model)) >= self._limits.queue_size:
            self._take_place(queue, ctx, length)
        ticket = Ticket(ctx, tuple(tried), asyncio.get_running_loop().create_future(), queue.step_s)
        ctx.queued_at = ticket.since
        queue.join(ticket)
        self._on_wait()
        self._meter.queued(queue.model, 1)
        try:
            self._grant(queue)
            await self._until_granted(queue, ticket)
        except BaseException:  # the client disconnected, or the queue timeout is over
            queue.leave(ticket)
            if ticket.granted.done() and not ticket.granted.exception() and (upstream := ticket.granted.result()):
                self._release(upstream)
                self._grant(queue)
            raise
        finally:
            self._meter.queued(queue.model, -1)
            waited_s, ctx.queued_at = time.monotonic() - ticket.since, 0.0
            ctx.queue_s += waited_s
        self._meter.waited(queue.model, waited_s)
        if ticket.owner:
            self._meter.keys.waited(ticket.owner, waited_s)
        return ticket.granted.result()

    def _take_place(self, queue: Queue, ctx: RequestContext, length: int) -> None:
        """In a full queue: from a request of a lower class, or of one with many. OverloadedError if there is none."""
        self._meter.rejected(queue.model, Rejection.FULL)
        error = queue.full_error(length)
        if (other := queue.outranked_by(ctx.priority)) is not None:
            error = queue.outranked_error(length)
        elif (other := queue.crowded_out_by(ctx.key.slot)) is None:
            raise error
        _end(queue, other, error)

    async def _until_granted(self, queue: Queue, ticket: Ticket) -> None:
        """A stream that is queued for longer than HEARTBEAT_S begins, and gets a heartbeat as often."""
        limit_s = self._limits.queue_timeout_s
        ends, heartbeat = ticket.since + limit_s, ticket.since + HEARTBEAT_S
        while not ticket.granted.done():
            now = time.monotonic()
            if now >= ends and queue.model in self._upstreams.held:
                ends = now + _HELD_S
            if now >= ends:
                self._meter.rejected(queue.model, Rejection.TIMEOUT)
                raise queue.timeout_error(ticket, limit_s)
            if now >= heartbeat:
                heartbeat += HEARTBEAT_S
                if ticket.ctx.request.stream:
                    await ticket.ctx.heartbeat(f"queued, position {queue.position(ticket)}")
            await asyncio.wait([ticket.granted], timeout=max(min(ends, heartbeat) - now, _SHORTEST_S))

    def _grant(self, queue: Queue, *, fair: bool = False) -> None:
        """Gives the free slots to the queued requests, in the order of the queue."""
        for ticket in queue.in_order(time.monotonic()):
            try:
                candidates = self.candidates(ticket.ctx, ticket.tried)
            except NotReadyError as error:
                if not self._upstreams.comes_back(ticket.ctx.route):
                    _end(queue, ticket, error)
                continue
            if not candidates:
                _end(queue, ticket)
            elif upstream := self._reserve(candidates, fair=fair):
                queue.served(ticket)
                ticket.granted.set_result(upstream)
            elif not (ticket.tried or ticket.ctx.route.only):
                return  # no request behind it has more candidates

    async def _until_back(self, ctx: RequestContext) -> Sequence[Upstream]:
        """The candidates once the model is ready. Streams get heartbeats as in the queue, and so may wait as long as
        the load takes.
        """
        if ctx.request.stream:
            await self.until_ready(ctx, beats=True)
        else:
            await self.until_ready(ctx, self._limits.queue_timeout_s)
        return self.candidates(ctx)

    async def until_ready(self, ctx: RequestContext, limit_s: float = math.inf, *, beats: bool = False) -> None:
        """Until the model has been restarted, loaded or woken by request. NotReadyError if that is not under way, or if
        the model does not come back in time; OverloadedError if too many requests wait already. The client's headers
        may say otherwise, and that no load is wanted.
        """
        upstreams, route, model = self._upstreams, ctx.route, ctx.route.base or ctx.route.name
        waiting = self._returning.setdefault(model, {})
        upstreams.poll()  # what is said here is not older than what another worker has said
        if upstreams.ready(route):
            return
        since = ctx.queued_at = time.monotonic()
        ends, heartbeat = since + self._longest_wait_s(ctx, model, limit_s), since + _first_heartbeat_s(ctx)
        waiting[ctx] = back = asyncio.get_running_loop().create_future()
        self._on_wait()
        self._meter.queued(model, 1)
        try:
            while not upstreams.ready(route):
                ends = max(ends, time.monotonic() + _HELD_S) if model in upstreams.held else ends
                if not upstreams.comes_back(route) or time.monotonic() >= ends:
                    raise upstreams.not_ready(route)
                if back.done():
                    waiting[ctx] = back = asyncio.get_running_loop().create_future()  # it was back, and is away again
                await asyncio.wait([back], timeout=max(min(ends, heartbeat) - time.monotonic(), _SHORTEST_S))
                if back.done() and (error := back.result()) is not None:
                    raise error
                if beats and time.monotonic() >= heartbeat:
                    heartbeat += HEARTBEAT_S
                    await ctx.heartbeat(upstreams.progress(route))
        finally:
            del waiting[ctx]
            self._meter.queued(model, -1)
            waited_s, ctx.queued_at = time.monotonic() - since, 0.0
            ctx.queue_s, ctx.load_s = ctx.queue_s + waited_s, ctx.load_s + waited_s
            self._meter.waited(model, waited_s)

    def _longest_wait_s(self, ctx: RequestContext, model: str, limit_s: float) -> float:
        """NotReadyError or OverloadedError if the request does not wait at all. One that was served already has a place
        in the queue, however long that is.
        """
        upstreams, wait_s = self._upstreams, load_wait_s(ctx.headers)
        if not upstreams.comes_back(ctx.route) or wait_s == 0:
            raise upstreams.not_ready(ctx.route)
        if not ctx.preemptions and (length := self._meter.queue_length(model)) >= self._limits.queue_size:
            self._meter.rejected(model, Rejection.FULL)
            loading = upstreams.not_ready(ctx.route)
            if not self._outranks(ctx, model, loading):
                raise outcomes.loading_queue_full(model, length, loading)
        return limit_s if wait_s is None else wait_s

    def _outranks(self, ctx: RequestContext, model: str, loading: NotReadyError) -> bool:
        """Of the requests that wait for the load, the last one of the lowest priority gives its place up, if that is a
        lower one.
        """
        waiting = [(other, back) for other, back in self._returning.get(model, {}).items() if not back.done()]
        last, back = max(reversed(waiting), key=lambda one: one[0].priority, default=(None, None))
        if last is None or back is None or last.priority <= ctx.priority:
            return False
        back.set_result(outcomes.outranked(model, loading.retry_after_s or outcomes.RETRY_OVERLOADED_S))
        return True

    # the slots

    def _reserve(self, candidates: Sequence[Upstream], *, fair: bool = False) -> Upstream | None:
        """The first with a free slot, which is reserved until `begin`."""
        for upstream in candidates:
            if upstream.breaker.overloaded and _rejects(upstream):
                continue
            if not upstream.limit or self._reserve_slot(upstream, fair=fair):
                return upstream
        return None

    def _reserve_slot(self, upstream: Upstream, *, fair: bool) -> bool:
        """When requests are queued in other workers too, each worker uses its share of the slots at once, so that no
        worker gets all of them. `fair`: a slot that is left over goes to the worker that polls first.
        """
        replica, limit = upstream.replica, upstream.limit - upstream.check_slots
        if self._meter.load(replica) >= limit:
            return False
        if others := self._meter.other_queues(replica.model):
            own, share = self._meter.own_load(replica), upstream.limit / (others + 1)
            if own >= share if fair else own + 1 > share:
                return False
        # counts first; then the sum decides
        self._meter.on_replica(replica, 1)
        with self._fence:  # an atomic operation: processors do not read ahead of it what others count
            pass
        if self._meter.load(replica) > limit:
            self._meter.on_replica(replica, -1)
            return False
        upstream.reserved += 1
        return True

    def _release(self, upstream: Upstream) -> None:
        """A reserved slot that is not used."""
        if upstream.reserved:
            upstream.reserved -= 1
            self._meter.on_replica(upstream.replica, -1)


def _first_heartbeat_s(ctx: RequestContext) -> float:
    """The client of a stream that has begun may have had nothing for a while already."""
    return FIRST_S if ctx.inflight.started else HEARTBEAT_S


def _rejects(upstream: Upstream) -> bool:
    """An overloaded replica gets no request now: its pause is not over, or another request is about to probe it."""
    return upstream.reserved > 0 or upstream.breaker.rejects(time.monotonic())


def _end(queue: Queue, ticket: Ticket, error: ApiError | None = None) -> None:
    queue.leave(ticket)
    if error is None:
        ticket.granted.set_result(None)
    else:
        ticket.granted.set_exception(error)
