"""Requests that may stop the servers that they are sent to: which servers are spared.

A request may carry what a server cannot bear: a prompt that ends its only generating thread, a grammar that ends its
process. Sent from one server to the next after each failure, it would stop them all.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from berth.log import log
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange.outcomes import Outcome
from berth.router.exchange.request import RequestContext
from berth.router.upstream.connection import UpstreamFailureError

_MOST_BROKEN: Final = 2  # connections that one request may cost
_STOPPED: Final = frozenset({Outcome.BROKEN, Outcome.ENGINE, Outcome.TIMEOUT})  # how a stopped server looks
_HEALTH_S: Final = 2.0


async def spared(
    ctx: RequestContext, upstreams: Upstreams, upstream: Upstream, tried: Sequence[Upstream]
) -> Sequence[Upstream]:
    """The replicas that must not get the request, after its attempt on this one has failed:

    1. all others, if two have lost their connection while they worked on it;
    2. those of the same kind, if this one is an attached server that a bad request can stop, and it has stopped.
    """
    if sum(attempt.outcome is Outcome.BROKEN for attempt in ctx.failures) >= _MOST_BROKEN:
        found = upstreams.ready(ctx.route)
    elif await has_stopped(ctx, upstream):
        found = upstreams.alike(ctx.route, upstream)
    else:
        return ()
    found = [one for one in found if one not in tried]
    if found:
        names, last = ", ".join(one.replica.name for one in found), ctx.failures[-1]
        log.warning("request withheld", request=ctx.request_id, model=ctx.model, after=last.replica, spared=names)
        message = f"{last.failure.message}; not sent to {names}, which the request might stop too"
        ctx.failures[-1] = replace(last, failure=replace(last.failure, message=message))
    return found


async def has_stopped(ctx: RequestContext, upstream: Upstream) -> bool:
    """The request may have stopped this server: it was well when the request came, and is not any more."""
    if not upstream.fragile or ctx.failures[-1].outcome not in _STOPPED or upstream.broken_since < ctx.began:
        return False
    for path in (upstream.replica.alive.path, *upstream.replica.alive.otherwise):
        try:
            connection = await upstream.pool.request(path, b"", {}, _HEALTH_S, method="GET")
        except UpstreamFailureError:
            return True
        status = connection.status
        upstream.pool.release(connection)
        if status == 503 or 200 <= status < 300:
            return status == 503
    return False
