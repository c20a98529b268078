"""`concurrency` is a limit that the engine can count on, however many router workers there are.

The engine is the judge: it runs as many requests as the limit says and lets none wait, so it refuses each one too many.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import httpx
import pytest

from berth.plan import DialectName
from berth.state import ReplicaStatus
from tests.chaos.engines import SimEngine
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PLACES, WORKERS = 3, 2
CLIENTS, EACH = 48, 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticator:
    router: RouterProcess

    def attempts(self) -> dict[str, float]:
        """By outcome."""
        found: dict[str, float] = {}
        for line in httpx.get(f"{self.router.url}/metrics", trust_env=False, verify=NO_AUTHORITIES).text.splitlines():
            if line.startswith("berth_attempts_total{"):
                outcome = line.split('outcome="')[1].partition('"')[0]
                found[outcome] = found.get(outcome, 0.0) + float(line.rpartition(" ")[2])
        return {outcome: number for outcome, number in found.items() if number}

    def run_clients(self) -> list[int]:
        """The statuses of the answers to many clients at once, each on a connection of its own."""
        return asyncio.run(self._crowd())

    async def _crowd(self) -> list[int]:
        answers = await asyncio.gather(*(self._client() for _ in range(CLIENTS)))
        return [status for one in answers for status in one]

    async def _client(self) -> list[int]:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES, timeout=60) as client:
            url = f"{self.router.url}/v1/chat/completions"
            return [(await client.post(url, json=body)).status_code for _ in range(EACH)]


@pytest.fixture
def gate() -> Iterator[Authenticator]:
    run_dir = tempfile.TemporaryDirectory(prefix="bc-", ignore_cleanup_errors=True)
    sim = SimEngine("vllm", "--max-running", str(PLACES), "--max-queued", "0", "--ttft", "1ms", "--itl", "1ms")
    with run_dir as path, sim as engine:
        one = replace(replica("m-vllm", engine.url, dialect=DialectName.VLLM, concurrency=PLACES), served_name="sim")
        plan = make_plan(path, [one], limits=replace(LIMITS, queue_timeout_s=60, queue_size=CLIENTS))
        plan = replace(plan, listen=replace(plan.listen, workers=WORKERS))
        publish(plan, replica_state(one.name, ReplicaStatus.READY))
        router = RouterProcess(plan)
        router.await_true(lambda: router.log.count("serving") and len(router.workers()) >= WORKERS)
        router.await_answer()
        yield Authenticator(router=router)
        router.end()


def test_workers_together_respect_the_engines_capacity(gate: Authenticator) -> None:
    gate.router.await_true(lambda: "berth_router_workers 2.0" in httpx.get(f"{gate.router.url}/metrics").text)

    answers = gate.run_clients()

    assert answers == [200] * (CLIENTS * EACH)
    assert gate.attempts() == {"ok": CLIENTS * EACH}
