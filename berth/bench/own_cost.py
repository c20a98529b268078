"""Berth's own cost: the same request straight to the engine and through the router, one at a time, in turn.

Each prompt is first sent once to fill the engine's cache: then both ways find the same there. Which way is first
changes from pair to pair, so what drifts concerns both alike. What is compared are differences within pairs, whose
mean has an interval by Student. The time is limited: a bench does not last much longer for it.
"""

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import httpx

from berth.bench.client import EngineClient
from berth.bench.generator import Target
from berth.bench.measure import Conditions
from berth.bench.window import Sample
from berth.bench.workload import Ask, asks
from berth.intervals import mean_interval
from berth.plan import API_PATH, Plan
from berth.records.results import Difference, OwnCost

_SEEDS = 9000  # seeds of its prompts begin here
LEAST_PAIRS = 5
MOST_PAIRS = 100
LONGER_S = 10.0  # than what is wanted, for LEAST_PAIRS of them
_TRIES = 100  # until the router has heard of the lease
_AGAIN_S = 0.1
_LEVEL = 0.95


async def measured(direct: EngineClient, key: str, plan: Plan, model: str, conditions: Conditions) -> OwnCost:
    """On an engine that runs, by the router of the plan. `key` is that of the lease."""
    listen, replica = plan.listen, direct.replica
    url = listen.client_url("127.0.0.1")
    if listen.tls_cert and not is_loopback(httpx.URL(url).host):
        return OwnCost(
            problem=f"the router speaks TLS on {listen.host} alone, where its certificate cannot be left unverified"
        )
    router = EngineClient(
        replace(replica, url=url, served_name=model, api_path=API_PATH),
        key,
        unverified() if listen.tls_cert else None,
    )
    prompts = asks(conditions.workload, conditions.seed * 10_000 + _SEEDS, conditions.vocab_size)
    try:
        return await own_cost(direct, router, prompts, conditions.profile.closed_s)
    finally:
        router.close()


def is_loopback(host: str) -> bool:
    """It leads to this machine, whatever answers for names elsewhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unverified() -> ssl.SSLContext:
    """For the router's own port on the loopback interface: its certificate is for the names that clients use."""
    found = ssl.create_default_context()
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    return found


async def own_cost(direct: Target, router: Target, asks: Iterator[Ask], limit_s: float) -> OwnCost:
    """It has a problem where a request fails, or where there are not enough of them within the time."""
    first = next(asks)
    if (sample := await admitted(router, first)).error:
        return OwnCost(problem=f"the router does not pass a request on: {sample.error}")
    pairs, began = list[tuple[Sample, Sample]](), time.monotonic()
    for number in range(MOST_PAIRS):
        if time.monotonic() - began >= limit_s + (LONGER_S if number < LEAST_PAIRS else 0):
            break
        ask, ways = next(asks), (direct, router)
        samples = [await _sent(one, ask) for one in (direct, *(reversed(ways) if number % 2 else ways))][1:]
        if bad := next((one.error or "no tokens" for one in samples if not one.ok), ""):
            return OwnCost(pairs=len(pairs), problem=f"a request failed: {bad}")
        straight, through = reversed(samples) if number % 2 else samples
        pairs.append((straight, through))
    if len(pairs) < LEAST_PAIRS:
        text = f"{len(pairs)} pairs of requests within {limit_s + LONGER_S:g} s, {LEAST_PAIRS} are needed"
        return OwnCost(pairs=len(pairs), problem=text)
    return OwnCost(
        pairs=len(pairs),
        ttft=_difference([through.ttft - straight.ttft for straight, through in pairs]),
        tpot=_difference([two.tpot - one.tpot for one, two in pairs if one.tokens > 1]),
        e2e=_difference([two.ended - two.scheduled - one.ended + one.scheduled for one, two in pairs]),
    )


async def admitted(router: Target, ask: Ask) -> Sample:
    """Once the router lets it through, or its last error."""
    sample = await _sent(router, ask)
    for _ in range(_TRIES):
        if not sample.error:
            break
        await asyncio.sleep(_AGAIN_S)
        sample = await _sent(router, ask)
    return sample


async def _sent(target: Target, ask: Ask) -> Sample:
    now = time.monotonic()  # the clock of an engine's frames
    sample = Sample(scheduled=now, sent=now, asked_prompt=len(ask.prompt), asked_tokens=ask.tokens)
    await target.ask(ask, sample)
    sample.ended = time.monotonic()
    return sample


def _difference(values: Sequence[float]) -> Difference | None:
    found = mean_interval(len(values), sum(values), sum(value * value for value in values), _LEVEL)
    return Difference(mean=found[0], low=found[1], high=found[2]) if found else None
