"""Engines whose health path is well and that generate nothing."""

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from berth.control.hangs.tokens import Reading, silent_s, tokens
from berth.control.probes import Prober
from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat
from berth.ipc.traffic import TrafficReport
from berth.plan import DialectName, Launch
from berth.state import ReplicaStatus
from tests.control.harness import FAST, appliance, plan_of
from tests.fakes.plans import make_replica
from tests.fakes.ports import free_port
from tests.sim.harness import running, send_request

S = ReplicaStatus


def reading(count: float | None, since: float, starts: int = 1) -> Reading:
    return Reading(starts=starts, tokens=count, since=since)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, reading(7, 100), 0),
        (reading(7, 100), reading(7, 130), 30),
        (reading(7, 100), reading(8, 130), 0),
        (reading(7, 100), reading(0, 130), 0),
        (reading(7, 100), reading(7, 130, starts=2), 0),
        (reading(7, 100), reading(None, 130), 0),
        (reading(None, 100), reading(None, 130), 0),  # it is not judged
    ],
)
def test_silence_is_a_counter_that_stands_still(before: Reading | None, now: Reading, expected: float) -> None:
    assert silent_s(before, now) == expected


@pytest.mark.anyio
@pytest.mark.parametrize(("dialect", "counts"), [("vllm", True), ("sglang", True), ("trtllm", False)])
async def test_reads_the_counter_of_each_engine(dialect: str, counts: bool) -> None:
    with running(dialect, names=("chat",)) as server:
        replica = replace(make_replica(launch=None, port=server.port), dialect=DialectName(dialect))
        async with Prober() as prober:
            first = await tokens(prober, replica)
            reply = send_request(server.port, "/v1/completions", {"model": "chat", "prompt": ".", "max_tokens": 3})
            second = await tokens(prober, replica)
    assert reply.status == 200
    assert (second or 0) - (first or 0) >= 4 if counts else (first, second) == (None, None)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(60)
async def test_engine_that_stops_generating_is_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    argv = (sys.executable, "-m", "berth", "sim", "--port", str(port), "--served-model-name", "chat")
    plan = plan_of(tmp_path, make_replica("chat-a", launch=Launch(argv=argv), port=port, stop_timeout_s=1))
    plan = replace(plan, limits=replace(plan.limits, token_timeout_s=0.6, first_token_timeout_s=0.5))
    worker = TrafficReport(plan.paths.traffic, 0, 1, 1)
    heartbeat = Heartbeat(plan.paths.heartbeats, FIRST_WORKER)
    with ExitStack() as stack:
        stack.callback(worker.close)
        stack.callback(heartbeat.close)
        async with appliance(plan) as box, box.control(replace(FAST, tokens_poll_s=0.1)), httpx.AsyncClient() as http:
            await box.until_status("chat-a", S.READY)
            worker.write(1, 1, 0, [1, 1, 0])  # a request that never ends
            async with asyncio.timeout(20), Prober() as prober:
                replica = plan.replicas[0]
                while not await tokens(prober, replica):  # noqa: ASYNC110 - until it has answered the canary
                    await asyncio.sleep(0.02)
            answers = box.states()["chat-a"]
            (await http.post(f"http://127.0.0.1:{port}/sim/faults", json={"wedged": True})).raise_for_status()
            health = await http.get(f"http://127.0.0.1:{port}/health")
            down = await box.until(lambda states: states["chat-a"].status not in (S.READY, S.UNHEALTHY))
            again = await box.until_status("chat-a", S.READY)

    assert (answers.status, answers.restarts) == (S.READY, 0)  # silent, but it answers when asked
    assert "engine silent" in caplog.text
    assert health.status_code == 200
    assert "it hangs: no token for" in down["chat-a"].reason
    assert again.restarts == 1
