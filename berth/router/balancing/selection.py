"""The order in which the replicas of a model get a request; pure.

There are two kinds of models:

1. Their replicas are fallbacks of each other: the order is that of the plan.
2. Their replicas all serve (standby: hot): the least loaded one is first, but a conversation stays with its replica as
   long as that one is not much busier than the others. A new one goes to a replica that has the beginning of its prompt
   in its cache, under the same condition.

In both, ejected replicas get requests only when no replica is healthy.
"""

import hashlib
from collections.abc import Collection, Sequence

from berth.errors import OverloadedError
from berth.plan import ModelRoute
from berth.router.balancing import affinity
from berth.router.balancing.circuit_breaker import CircuitBreaker
from berth.router.balancing.upstreams import Split, Upstream
from berth.router.exchange.outcomes import RETRY_OVERLOADED_S

BUSIER = 1.25  # times the average load that a replica may have for a conversation to stay with it,
SPARE = 2  # and so many requests more


def healthy(upstreams: Sequence[Upstream], now: float) -> Sequence[Upstream]:
    """Those that are not ejected. If all are, all of them, the one that returns soonest first."""
    return [one for one in upstreams if not one.breaker.ejected_until(now)] or healthy_first(upstreams, now)


def healthy_first(upstreams: Sequence[Upstream], now: float) -> Sequence[Upstream]:
    """All of them, the ejected ones last."""
    return sorted(upstreams, key=lambda upstream: upstream.breaker.ejected_until(now))


def split(upstreams: Sequence[Upstream], canary: Split, conversation: bytes, side: bytes) -> Sequence[Upstream]:
    """The candidate of a migration is the first for its share of the conversations, and the last for all others. The
    hash is compared with the share, so that a conversation moves at most once while that grows. `side`: which one the
    client wants; b"": either.
    """
    candidate = canary.upstream
    if candidate not in upstreams:
        return upstreams
    others = [one for one in upstreams if one is not candidate]
    if side in (b"candidate", b"stable"):
        is_chosen = side == b"candidate"
    else:
        drawn = hashlib.blake2b(conversation, digest_size=4, key=canary.salt).digest()
        is_chosen = int.from_bytes(drawn, "big") < canary.share
    return [candidate, *others] if is_chosen else [*others, candidate]


def balanced(
    upstreams: Sequence[Upstream], loads: Sequence[float], session: bytes, holding: Collection[int] = ()
) -> Sequence[Upstream]:
    """`loads`: their requests, in the same order. `session`: of the conversation; b"": none. `holding`: the indexes of
    those that have the beginning of the prompt in their caches.
    """
    shares = [upstream.replica.share for upstream in upstreams]
    order = by_load(loads, shares)
    if session:
        ranked = affinity.ranked(session, [upstream.replica.name for upstream in upstreams], shares)
        if holding:
            ranked = [*(one for one in order if one in holding), *(one for one in ranked if one not in holding)]
        limits = [upstream.limit for upstream in upstreams]
        order = preferring(ranked, order, loads, shares, limits)
    return [upstreams[index] for index in order]


def by_load(loads: Sequence[float], shares: Sequence[float]) -> list[int]:
    """The indexes of the replicas, the least loaded for its share first; otherwise in their order."""
    return sorted(range(len(loads)), key=lambda index: loads[index] / shares[index])


def preferring(
    ranked: Sequence[int],
    order: Sequence[int],
    loads: Sequence[float],
    shares: Sequence[float],
    limits: Sequence[int],
) -> list[int]:
    """`order`, but first the first of `ranked` that is not much busier than the others and has capacity."""
    average = sum(loads) / sum(shares)
    for index in ranked:
        load = loads[index]
        if load <= BUSIER * average * shares[index] + SPARE and not 0 < limits[index] <= load:
            return [index, *(other for other in order if other != index)]
    return list(order)


def overloaded(route: ModelRoute, breakers: Sequence[CircuitBreaker], now: float) -> OverloadedError:
    """The error when all replicas are ejected for overload."""
    return OverloadedError(
        f"Every engine of model {route.name!r} is at capacity: it rejected the last requests.",
        retry_after_s=max(RETRY_OVERLOADED_S, min(breaker.opened_until for breaker in breakers) - now),
    )
