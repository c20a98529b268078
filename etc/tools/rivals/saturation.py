"""Berth with more to do than it can: what one worker and what two get done, and whether /health still answers."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from etc.tools.rivals import loads, routers
from etc.tools.rivals.compare import Say, in_turn
from etc.tools.rivals.figures import Spread
from etc.tools.rivals.measure import Measurement, measure
from etc.tools.rivals.probe import Probe
from etc.tools.rivals.routers import Router

WORKERS = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturated:
    measurement: Measurement
    health: Spread | None
    health_failures: int


def saturate(*, rounds: int, seconds: float, say: Say) -> list[list[Saturated]]:
    """Rounds, and in each of them one for each number of workers."""
    with ExitStack() as stack:
        url, upstream = stack.enter_context(routers.upstream())
        starts = [partial(routers.berth_with, url, workers) for workers in WORKERS]
        started = [stack.enter_context(start()) for start in starts]
        found = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: {loads.SATURATION_CONNECTIONS} connections, with /health beside ...")
            found.append([_saturated(router, seconds, upstream) for router in in_turn(started, number)])
        return found


def _saturated(router: Router, seconds: float, upstream: Sequence[int]) -> Saturated:
    with Probe(router.url) as probe:
        measurement = measure(router, loads.saturation(seconds), upstream)
    return Saturated(measurement=measurement, health=Spread.of(probe.seconds), health_failures=probe.failures)
