"""A stream that was cut: replicas with the same weights continue it, one after another, until it is complete.

From a cut to the first text of the next replica there is a gap, in which the client gets heartbeats. There are three
cases:

1. another replica is ready: it is asked at once, and the next one if it fails;
2. none is, or none succeeded, but one may be back within seconds, the one that was cut included: for WAIT_S in a gap
   those that could not be reached are asked again, and those that become ready;
3. otherwise the stream ends with an error.

A stream that was preempted, because its model makes room for another one, waits in the queue of its model like a new
request, and loads it again: as long as that takes, or as its client allows.

A request may be what breaks engines. So the stream also ends when MOST_BROKEN of them broke in one gap, before they
said anything, and after MOST_CONTINUATIONS in all.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final

from berth.canonical import Failure, Transcript
from berth.errors import ApiError
from berth.ipc.journal import CONTINUED, PREEMPTED
from berth.log import log
from berth.router.balancing.admission import Admission
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange.heartbeats import Heartbeats
from berth.router.exchange.outcomes import ContinuationBlocker, Outcome, Preemption
from berth.router.exchange.request import RequestContext
from berth.router.forwarding import continuation
from berth.router.forwarding.attempt import AttemptFailedError, Attempts, Result
from berth.router.telemetry.metrics import Meter

WAIT_S: Final = 10.0
AGAIN_S: Final = 1.0  # until a replica that could not be reached is asked again
MOST_CONTINUATIONS: Final = 8
MOST_BROKEN: Final = 2
_POLL_S: Final = 0.1
_PASSING: Final = frozenset({Outcome.CONNECT, Outcome.BROKEN, Outcome.OVERLOADED})  # may be over in a moment


class Recovery:
    """Of one stream."""

    def __init__(
        self, ctx: RequestContext, upstreams: Upstreams, admission: Admission, attempts: Attempts, meter: Meter
    ) -> None:
        self._ctx = ctx
        self._upstreams = upstreams
        self._admission = admission
        self._attempts = attempts
        self._meter = meter
        self.preempted: Failure | None = None  # why the stream waits now: it was preempted
        self.error: ApiError | None = None  # why the model does not come back
        self._so_far = Transcript(id="", created=0, text="", tokens=0)  # before the cut
        self._continuations = 0
        self._frames = 0  # that the client had when it was preempted

    async def complete(self, upstream: Upstream, result: Result) -> ContinuationBlocker | None:
        """`upstream` has begun the stream, and `result` is its end. None: the client has a complete response now."""
        outcome = Preemption.STOPPED
        try:
            blocker = await self._complete(upstream, result)
            outcome = Preemption.ENDED
        finally:
            if self.preempted is not None:
                if outcome is Preemption.STOPPED and self._ctx.frames > self._frames:  # by its client, at its end
                    outcome = Preemption.CONTINUED
                self._meter.preempted(self._ctx.model, outcome)
        return blocker

    async def _complete(self, upstream: Upstream, result: Result) -> ContinuationBlocker | None:
        ctx = self._ctx
        while result.cut is not None:
            if result.outcome is Outcome.PREEMPTED:
                self.preempted, self._frames = result.cut, ctx.frames
                ctx.preemptions, ctx.flags = ctx.preemptions + 1, ctx.flags | PREEMPTED
            if (blocker := result.blocker or continuation.blocker(ctx.request)) is not None:
                return blocker
            by_itself = self.preempted is not None and self._upstreams.continues(upstream, ctx.request.operation)
            decoder = result.decoder if by_itself or self._upstreams.has_peer(upstream) else None
            if decoder is None:
                return ContinuationBlocker.ENGINE
            self._so_far = continuation.joined(self._so_far, decoder.transcript())
            if (blocker := continuation.blocker_in(self._so_far)) is not None:
                return blocker
            gap = _Gap(upstream, hangs=result.hangs, preempted=self.preempted is not None)
            if gap.preempted:
                name, at = upstream.replica.name, self._so_far.tokens
                log.info("stream preempted", request=ctx.request_id, model=ctx.model, replica=name, at_token=at)
            found = await self._bridge(gap)
            if not isinstance(found, tuple):
                return found
            upstream, result = found
        return None

    async def _bridge(self, gap: "_Gap") -> tuple[Upstream, Result] | ContinuationBlocker | None:
        """The replica that said something after the cut, and the end of that. None: only the end was missing."""
        ctx, heartbeats = self._ctx, Heartbeats(self._ctx)
        while self._continuations < MOST_CONTINUATIONS:
            peer = await self._next(gap, heartbeats)
            if peer is not None:
                self._so_far = await self._attempts.count_tokens(peer, self._so_far)
            if continuation.is_complete(ctx.request, self._so_far):  # nothing but the end is missing
                if ctx.request.include_usage:
                    return ContinuationBlocker.USAGE
                await ctx.end(continuation.ending(ctx.request, ctx.model, self._so_far))
                self._resumed()
                return None
            if peer is None:
                return ContinuationBlocker.ENGINE
            if (result := await self._continue(gap, peer)) is not None:
                return peer, result
        return ContinuationBlocker.AGAIN

    async def _next(self, gap: "_Gap", heartbeats: Heartbeats) -> Upstream | None:
        """The replica to ask, once there is one. None: there is none, nor will there be soon."""
        ctx = self._ctx
        while gap.broken < MOST_BROKEN:
            if gap.away:
                if continuation.is_complete(ctx.request, self._so_far):
                    return None
                try:
                    await self._admission.until_ready(ctx, beats=True)
                except ApiError as error:
                    self.error = error
                    return None
                gap.back(time.monotonic())
            peers = self._admission.peers(ctx, gap.cut)
            again = self._upstreams.continues(gap.cut, ctx.request.operation)
            if again and gap.cut in self._upstreams.ready(ctx.route):
                peers = [*peers, gap.cut]
            now = time.monotonic()
            if (peer := gap.choose(peers, now)) is not None:
                return peer
            if not gap.waits(peers, now, returning=self._upstreams.returning(ctx.route, gap.cut)):
                return None
            async with heartbeats:
                await asyncio.sleep(_POLL_S)
        return None

    async def _continue(self, gap: "_Gap", peer: Upstream) -> Result | None:
        """None: nothing of it has reached the client."""
        ctx, so_far = self._ctx, self._so_far
        await ctx.more(continuation.notice(gap.cut.replica, peer.replica, so_far))
        try:
            result = await self._attempts.make(ctx, peer, continuation.continued(ctx.request, so_far))
        except AttemptFailedError as exc:  # it is in ctx.failures
            gap.failed(peer, exc.outcome, time.monotonic())
            return None
        self._continuations += not gap.preempted
        self._resumed()
        ctx.previous, ctx.moved_at_token = gap.cut.replica, so_far.tokens
        ctx.flags |= CONTINUED
        ctx.continued = result.cut is None
        write = log.info if gap.preempted else log.warning
        write(
            "stream continued",
            request=ctx.request_id,
            model=ctx.model,
            **{"from": gap.cut.replica.name, "to": peer.replica.name},
            at_token=so_far.tokens,
            complete=ctx.continued,
        )
        return result

    def _resumed(self) -> None:
        if self.preempted is not None:
            self.preempted = None
            self._meter.preempted(self._ctx.model, Preemption.CONTINUED)


class _Gap:
    """Who may be asked next, and for how long it is waited for one; pure."""

    def __init__(self, cut: Upstream, *, hangs: bool, preempted: bool = False) -> None:
        """`hangs`: the replica is still there, but silent."""
        now = time.monotonic()
        self.cut = cut
        self.preempted = self.away = preempted  # `away`: the model has to come back first
        self.broken = 0
        self._ends = now + WAIT_S
        self._again_at = {cut: math.inf if hangs else now + AGAIN_S}  # of those that failed

    def back(self, now: float) -> None:
        self.away, self._ends, self._again_at = False, now + WAIT_S, {}

    def failed(self, peer: Upstream, outcome: Outcome, now: float) -> None:
        self.broken += outcome is Outcome.BROKEN
        self.away = outcome is Outcome.PREEMPTED
        self._again_at[peer] = now + AGAIN_S if outcome in _PASSING else math.inf

    def choose(self, peers: Sequence[Upstream], now: float) -> Upstream | None:
        """The first that was not asked yet, or that may be asked again."""
        latest = now if now < self._ends else -math.inf
        return next((peer for peer in peers if self._again_at.get(peer, -math.inf) <= latest), None)

    def waits(self, peers: Sequence[Upstream], now: float, *, returning: bool) -> bool:
        """`returning`: another one may soon be ready."""
        return now < self._ends and (returning or any(self._again_at[peer] < math.inf for peer in peers))
