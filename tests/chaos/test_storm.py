"""An engine answers everything with an error: the other one serves, and this one is left in peace until it is over.

Each engine counts what it got: a fault that is over after so many requests tells how many of them are left.
"""

import time

import httpx
import openai
import pytest

from berth.router.balancing.circuit_breaker import CONSECUTIVE, JITTER, PAUSE_FIRST_S, REJECTIONS
from tests.chaos.engines import SimEngine
from tests.chaos.observation import WAYS, Outcome, verdicts
from tests.chaos.sim_router import DIALECTS, SimRouter
from tests.chaos.test_wire import TEXT_OF_3
from tests.fakes.plain_http import NO_AUTHORITIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.parametrize("dialect", DIALECTS)]

MANY = 100_000
ROUNDS = 40  # each of them one request in every way
WHOLE, TOLD = {Outcome.WHOLE}, {Outcome.TOLD}


class Storm:
    """Every request is answered with `status`, until it ends."""

    def __init__(self, engine: SimEngine, status: int) -> None:
        self._engine = engine
        self._since = time.monotonic()
        engine.fails({"status": {"value": status, "requests": MANY}})

    def received(self) -> int:
        """The requests that the engine has had in it."""
        faults = httpx.get(f"{self._engine.url}/sim/faults", trust_env=False, verify=NO_AUTHORITIES, timeout=30).json()
        return MANY - int(faults["on"]["status"]["requests_left"])

    def trials(self) -> float:
        """So many may have come of waiting for the pauses to end, the shortest there are."""
        return 1 + (time.monotonic() - self._since) / (PAUSE_FIRST_S * (1 - JITTER))


@pytest.mark.parametrize(("status", "patience"), [(500, CONSECUTIVE), (503, REJECTIONS), (429, REJECTIONS)])
def test_other_engine_serves_until_a_storm_ends(
    sim_router: SimRouter, dialect: str, status: int, patience: int
) -> None:
    model, engine = f"pair-{dialect}", sim_router.engines[dialect]
    storm = Storm(engine, status)

    seen = [one for _ in range(ROUNDS) for one in sim_router.ask(model, max_tokens=3)]
    received, allowed = storm.received(), patience + len(WAYS) + storm.trials()
    assert verdicts(seen, TEXT_OF_3, "length") == {model: WHOLE}, [one.error for one in seen if one.error]
    assert patience <= received <= allowed

    engine.is_well()
    sim_router.router.await_true(lambda: served_by(sim_router, f"{model}-{dialect}", model), patience_s=60)


@pytest.mark.parametrize("status", [503, 429])
def test_single_hanging_engine_gets_no_further_requests(sim_router: SimRouter, dialect: str, status: int) -> None:
    model, engine = f"solo-{dialect}", sim_router.engines[dialect]
    storm = Storm(engine, status)

    seen = [one for _ in range(ROUNDS) for one in sim_router.ask(model, max_tokens=3)]
    received, allowed = storm.received(), REJECTIONS + len(WAYS) + storm.trials()
    assert verdicts(seen) == {model: TOLD}
    assert REJECTIONS <= received <= allowed
    told = seen[-1].error
    assert isinstance(told, openai.RateLimitError), told
    assert int(told.response.headers["retry-after"]) >= 1

    engine.is_well()
    sim_router.router.await_true(lambda: verdicts(sim_router.ask(model)) == {model: WHOLE}, patience_s=60)


def served_by(sim_router: SimRouter, replica: str, model: str) -> bool:
    """One of the next requests is answered by this replica."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    answer = httpx.post(
        f"{sim_router.router.url}/v1/chat/completions", json=body, trust_env=False, verify=NO_AUTHORITIES, timeout=30
    )
    return answer.raise_for_status().headers["x-berth-replica"] == replica
