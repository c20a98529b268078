"""An engine that hangs under whole answers: nobody waits for as long as such an answer may take. One that is only slow
is waited for.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from berth.plan import DialectName
from berth.state import ReplicaStatus
from tests.chaos.engines import SimEngine
from tests.chaos.observation import WAYS, Observation, Outcome, ask, make_client
from tests.chaos.sim_router import DIALECTS, ENOUGH
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.parametrize("dialect", DIALECTS)]

PLACES = 16
WHOLE_WAYS = [way for way in WAYS if not way.stream]


@contextmanager
def running_router(*engines: SimEngine) -> Iterator[RouterProcess]:
    """A router whose model `m` is served by these engines, the first as long as it is well."""
    with ExitStack() as stack:
        run_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="bc-", ignore_cleanup_errors=True))
        replicas = [
            replace(
                replica(f"m-{place}", engine.url, dialect=DialectName(engine.dialect), concurrency=PLACES),
                served_name="sim",
            )
            for place, engine in enumerate(map(stack.enter_context, engines))
        ]
        plan = make_plan(run_dir, replicas, limits=LIMITS)
        publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
        router = RouterProcess(plan)
        stack.callback(router.end)
        router.await_answer()
        yield router


def ask_whole(router: RouterProcess, times: int = 1) -> list[Observation]:
    """As many tokens as it takes: such an answer may take longer than the client has patience for."""

    async def asks() -> list[Observation]:
        async with make_client(router.url) as client:
            each = (ask(client, "m", way, max_tokens=ENOUGH) for way in WHOLE_WAYS * times)
            return await asyncio.gather(*each)

    return asyncio.run(asks())


@pytest.mark.parametrize("fault", [{"wedged": True}, {"hang-before": True}, {"stall-after": 1}])
def test_full_responses_fail_over_from_a_hanging_engine(dialect: str, fault: dict[str, Any]) -> None:
    hanging, well = SimEngine(dialect), SimEngine(dialect)
    with running_router(hanging, well) as router:
        hanging.fails(fault)

        seen = ask_whole(router, times=3)

        assert {one.outcome() for one in seen} == {Outcome.WHOLE}, seen
        assert "replica hangs" in router.log


def test_ejects_an_engine_that_hangs_and_accepts_no_connections(dialect: str) -> None:
    hanging, well = SimEngine(dialect), SimEngine(dialect)
    with running_router(hanging, well) as router:
        hanging.freeze()

        seen = ask_whole(router)

        assert {one.outcome() for one in seen} == {Outcome.WHOLE}, seen


def test_waits_for_a_slow_engine(dialect: str) -> None:
    """The answer takes longer than one that hangs is given."""
    with running_router(SimEngine(dialect, "--itl", "120ms")) as router:
        seen = ask_whole(router)

        assert {one.outcome() for one in seen} == {Outcome.WHOLE}, seen
        assert "replica hangs" not in router.log
