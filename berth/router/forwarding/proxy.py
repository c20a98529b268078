"""The way of one request: attempt after attempt until one succeeds, and continuation of a stream that was cut.

Until the first bytes for the client the request can be sent to another engine. After them other engines can only
continue where one stopped (recovery). If none can, the stream ends with the error frame of the client's API, because
clients take a stream that just stops for a complete response.
"""

from berth.canonical import Failure
from berth.errors import LoopDetectedError
from berth.ipc.journal import FALLBACK, PREEMPTED
from berth.log import log
from berth.router.balancing.admission import Admission
from berth.router.balancing.circuit_breaker import RetryBudget
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange import outcomes
from berth.router.exchange.headers import MOST_HOPS
from berth.router.exchange.outcomes import UNHEALTHY, Outcome, Preemption
from berth.router.exchange.request import RequestContext
from berth.router.forwarding import withholding
from berth.router.forwarding.attempt import AttemptFailedError, Attempts, Result, failed_attempt
from berth.router.forwarding.recovery import Recovery
from berth.router.telemetry.metrics import Meter


class Proxy:
    def __init__(self, upstreams: Upstreams, admission: Admission, attempts: Attempts, meter: Meter) -> None:
        self._upstreams = upstreams
        self._admission = admission
        self._attempts = attempts
        self._meter = meter
        self._budget = RetryBudget()

    async def serve(self, ctx: RequestContext) -> None:
        """Responds to the request. ApiError if all candidates failed before they began to respond."""
        self._budget.deposit()
        tried: list[Upstream] = []
        admission = self._admission
        while (upstream := admission.at_once(ctx, tried) or await admission.next(ctx, tried)) is not None:
            if tried and not self._may_fall_back(ctx, tried[-1], upstream):
                break
            tried.append(upstream)
            try:
                result = await self._attempts.make(ctx, upstream, ctx.request)
            except AttemptFailedError as exc:
                if exc.outcome is Outcome.PREEMPTED:
                    self._queue_again(ctx, tried.pop())
                    continue
                if exc.failure.final:
                    raise outcomes.rejection(exc.failure) from None
                if exc.failure.code == LoopDetectedError.code:  # other Berths may serve it, but not pass it on
                    ctx.hops = MOST_HOPS - 1
                if exc.outcome in UNHEALTHY:
                    # in front: the last of `tried` is the one that failed
                    tried[:0] = await withholding.spared(ctx, self._upstreams, upstream, tried)
                continue
            if result.cut is not None:
                await self._recover(ctx, upstream, result.cut, result)
            return
        raise outcomes.final_error(ctx.route, ctx.failures)

    def _may_fall_back(self, ctx: RequestContext, upstream: Upstream, following: Upstream) -> bool:
        failed = ctx.failures[-1]
        if failed.outcome in UNHEALTHY and not self._budget.withdraw():
            log.warning("retry budget exhausted, no fallback", request=ctx.request_id, model=ctx.model)
            return False
        self._meter.fallback(upstream.replica)
        ctx.previous = upstream.replica
        ctx.flags |= FALLBACK
        log.warning(
            "fallback",
            request=ctx.request_id,
            model=ctx.model,
            **{"from": failed.replica, "to": following.replica.name},
            outcome=failed.outcome.value,
            reason=failed.failure.message,
        )
        return True

    def _queue_again(self, ctx: RequestContext, upstream: Upstream) -> None:
        """Nothing of the response has reached the client. Once only: an answer that takes longer than its model stays
        would begin for ever.
        """
        attempt = ctx.failures.pop()
        if ctx.preemptions:
            self._meter.preempted(ctx.model, Preemption.ENDED)
            raise outcomes.preempted(attempt)
        self._meter.preempted(ctx.model, Preemption.AGAIN)
        ctx.preemptions, ctx.flags = 1, ctx.flags | PREEMPTED
        log.info("request preempted", request=ctx.request_id, model=ctx.model, replica=upstream.replica.name)

    async def _recover(self, ctx: RequestContext, upstream: Upstream, cut: Failure, result: Result) -> None:
        """A stream was cut: peers continue it, or it ends with an error frame that has the first cause, or says that it
        was preempted.
        """
        recovery = Recovery(ctx, self._upstreams, self._admission, self._attempts, self._meter)
        blocker = await recovery.complete(upstream, result)
        if blocker is None:
            return
        self._meter.broken_stream(ctx.model, blocker)
        log.warning(
            "stream broken",
            request=ctx.request_id,
            model=ctx.model,
            replica=upstream.replica.name,
            reason=cut.message,
            not_continued=blocker,
        )
        error = recovery.error or outcomes.broken_stream(failed_attempt(upstream, Outcome.CUT, cut))
        if recovery.preempted is not None and recovery.error is None:
            error = outcomes.preempted(failed_attempt(upstream, Outcome.PREEMPTED, recovery.preempted), blocker)
        await ctx.fail(error)
