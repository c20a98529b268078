"""One request's way: engine after engine until one answers, then its answer to the client.

Until the first bytes for the client there is another engine to ask. After them another one can only go on where this
one stopped (continuation); where it cannot, the stream ends with the error frame of the client's API, because clients
take a stream that just stops for a complete answer.
"""

import time
from collections.abc import Sequence
from contextlib import suppress

from berth.canonical import Transcript
from berth.errors import ApiError, NotReadyError
from berth.log import log
from berth.plan import Plan
from berth.router.balancing.admission import Admission
from berth.router.balancing.circuit_breaker import RetryBudget
from berth.router.balancing.selection import Balance
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange import outcomes
from berth.router.exchange.headers import RequestIds
from berth.router.exchange.inflight import StopReason
from berth.router.exchange.outcomes import ContinuationBlocker, Outcome
from berth.router.exchange.request import RequestContext
from berth.router.forwarding import continuation
from berth.router.forwarding.attempt import ILL, AttemptFailedError, Attempts, Result, attempt_of
from berth.router.forwarding.stream import UpstreamStream
from berth.router.telemetry.access_log import AccessLog
from berth.router.telemetry.metrics import CLIENT_GONE, Meter


class Proxy:
    def __init__(self, plan: Plan, upstreams: Upstreams, meter: Meter, request_ids: RequestIds) -> None:
        self._upstreams = upstreams
        self._meter = meter
        self._budget = RetryBudget()
        self._balance = Balance(upstreams, meter)
        self.admission = Admission(plan, self._balance, meter)
        self._attempts = Attempts(upstreams, self.admission, plan.limits, meter, request_ids)
        self._log = AccessLog(plan.logs)

    async def serve(self, call: RequestContext) -> None:
        """Answers the request in any case; ends early when the client leaves."""
        model = call.route.name
        self._meter.in_flight(model, 1)
        try:
            await call.flight.guard(self._answer(call))
            if call.flight.stopped is not None:
                await self._stopped(call, call.flight.stopped)
        finally:
            self._meter.in_flight(model, -1)
            self._meter.request(model, call.request.operation, call.status)
            taken_s = time.monotonic() - call.since
            self._meter.duration(model, taken_s)
            if self._log.wanted:
                self._log.add(call, taken_s)

    def flush_log(self) -> None:
        self._log.flush()

    async def _answer(self, call: RequestContext) -> None:
        try:
            await self._ask(call)
        except ApiError as error:
            if call.attempts:
                _log_refused(call, error)
            await call.fail(error)
        except Exception:  # noqa: BLE001 - the boundary of a request: logged, and the client is told
            log.exception("the router failed", request=call.request_id, model=call.route.name)
            await call.fail(ApiError(f"Berth failed on request {call.request_id!r}: its log says more."))

    async def _stopped(self, call: RequestContext, reason: StopReason) -> None:
        if reason is StopReason.DRAIN:
            await call.fail(NotReadyError("Berth is being stopped.", retry_after_s=5))
            return
        call.status = CLIENT_GONE
        if reason is StopReason.STALLED:  # the unfinished answer closes the connection
            log.warning("the client takes nothing any more", request=call.request_id, model=call.route.name)

    async def _ask(self, call: RequestContext) -> None:
        """One candidate after another. ApiError when none of them answered."""
        self._budget.deposit()
        asked: list[Upstream] = []
        while (upstream := await self.admission.next(call, asked)) is not None:
            if asked and not self._may_fall_back(call, asked[-1], upstream):
                break
            asked.append(upstream)
            try:
                result = await self._attempts.make(call, upstream, call.request)
            except AttemptFailedError as exc:
                if exc.failure.final:
                    raise outcomes.refusal(exc.failure) from None
            else:
                if result.cut is not None:
                    await self._rescue(call, upstream, result)
                return
        raise outcomes.verdict(call.route, call.failures)

    def _may_fall_back(self, call: RequestContext, upstream: Upstream, following: Upstream) -> bool:
        if call.failures[-1].outcome in ILL and not self._budget.withdraw():
            log.warning(
                "no fallback: too many of the last requests failed", request=call.request_id, model=call.route.name
            )
            return False
        self._meter.fallback(upstream.replica)
        _log_fallback(call, following)
        return True

    async def _rescue(self, call: RequestContext, upstream: Upstream, result: Result) -> None:
        """A stream that had begun was cut: another replica goes on with it, or it ends with an error frame that names
        the first cause.
        """
        assert result.cut is not None  # noqa: S101 - else there is nothing to rescue
        attempt = attempt_of(upstream, Outcome.CUT, result.cut)
        obstacle = await self._continue(call, upstream, result.relay)
        if obstacle is None:
            return
        self._meter.broken_stream(call.route.name, obstacle)
        log.warning(
            "stream broken",
            request=call.request_id,
            model=call.route.name,
            replica=attempt.replica,
            reason=attempt.failure.message,
            not_continued=obstacle,
        )
        await call.fail(outcomes.broken_stream(attempt))

    async def _continue(
        self, call: RequestContext, upstream: Upstream, relay: UpstreamStream | None
    ) -> ContinuationBlocker | None:
        """None when the client has a whole answer now."""
        so_far = relay.transcript() if relay is not None and self._upstreams.has_twin(upstream) else None
        obstacle = continuation.obstacle(call.request)
        if obstacle is None and so_far is not None:
            obstacle = continuation.obstacle_in(so_far)
        if obstacle is not None or so_far is None:
            return obstacle or ContinuationBlocker.ENGINE
        twins = self._balance.twins(call, upstream)
        if twins:
            so_far = await self._attempts.counted(twins[0], so_far)
        if not continuation.is_complete(call.request, so_far):
            return await self._go_on(call, upstream, twins, so_far)
        if call.request.include_usage:
            return ContinuationBlocker.USAGE
        await call.end(continuation.ending(call.request, call.route.name, so_far))
        return None

    async def _go_on(
        self, call: RequestContext, upstream: Upstream, twins: Sequence[Upstream], so_far: Transcript
    ) -> ContinuationBlocker | None:
        """Asks the replicas of the same weights for the rest, until one has begun with it."""
        rest = continuation.continued(call.request, so_far)
        for twin in twins:
            await call.more(continuation.notice(upstream.replica, twin.replica, so_far))
            with suppress(AttemptFailedError):  # it is in call.failures; the next one may do better
                result = await self._attempts.make(call, twin, rest)
                if result.cut is not None:
                    return ContinuationBlocker.AGAIN
                call.continued = True
                self._meter.continued(call.route.name)
                _log_continued(call, upstream, twin, so_far)
                return None
        return ContinuationBlocker.ENGINE


def _log_continued(call: RequestContext, upstream: Upstream, twin: Upstream, so_far: Transcript) -> None:
    log.warning(
        "stream continued",
        request=call.request_id,
        model=call.route.name,
        **{"from": upstream.replica.name, "to": twin.replica.name},
        at_token=so_far.tokens,
    )


def _log_fallback(call: RequestContext, following: Upstream) -> None:
    attempt = call.failures[-1]
    log.warning(
        "fallback",
        request=call.request_id,
        model=call.route.name,
        **{"from": attempt.replica, "to": following.replica.name},
        outcome=attempt.outcome.value,
        reason=attempt.failure.message,
    )


def _log_refused(call: RequestContext, error: ApiError) -> None:
    write = log.info if error.status < 500 else log.warning
    write(
        "request failed",
        request=call.request_id,
        model=call.route.name,
        status=error.status,
        attempts=call.attempts,
        reason=error.message,
    )
