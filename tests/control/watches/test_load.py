"""Control asks engines how busy they are; what does not answer is no failure."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.control.decisions.lifecycle import apply
from berth.control.decisions.records import Record, Timing, Transition
from berth.control.probes import Prober
from berth.control.runtime import Runtime
from berth.control.supervisord_client import SupervisordClient
from berth.control.watches.load import LoadWatch
from berth.host.gpu_usage import Gpus
from berth.ipc.traffic import TrafficReport
from berth.plan import DialectName, Launch
from berth.state import ReplicaStatus
from tests.fakes.plans import make_plan, make_replica
from tests.sim.harness import running

pytestmark = pytest.mark.anyio
S = ReplicaStatus


def runtime_of(tmp_path: Path, port: int, dialect: str = "vllm", status: ReplicaStatus = S.READY) -> Runtime:
    one = replace(make_replica(launch=Launch(argv=("x",)), port=port), dialect=DialectName(dialect))
    plan = make_plan(str(tmp_path), one)
    return Runtime(
        plan=plan,
        timing=Timing(load_s=0.01, unseen_load_s=0.03),
        supervisord=SupervisordClient(tmp_path / "none"),
        gpus=Gpus(()),
        records={one.name: Record(replica=one, status=status, since=1.0)},
        followers={},
    )


async def watched(runtime: Runtime, until: Callable[[Record], Any]) -> Record:
    """The record, watched until then."""

    async def wait() -> Record:
        while not until(record := runtime.records["chat-sim"]):  # noqa: ASYNC110 - a record has no event
            await asyncio.sleep(0.005)
        return record

    return await beside_the_watch(runtime, wait)


async def beside_the_watch(runtime: Runtime, work: Callable[[], Awaitable[Record]]) -> Record:
    async with Prober() as prober, asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(LoadWatch(runtime, prober).run(lambda: False))
        found = await work()
        task.cancel()
    return found


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_learns_the_load_of_an_engine_that_serves(tmp_path: Path, dialect: str) -> None:
    with running(dialect, context=1024) as server:
        record = await watched(runtime_of(tmp_path, server.port, dialect), lambda record: record.load)
    assert record.load
    assert (record.load.running, record.load.waiting, record.load.kv_usage, record.load_failures) == (0, 0, 0.0, 0)
    assert abs(record.load.measured_at - time.time()) < 10


async def test_figures_go_away_with_the_engine_and_nothing_else_happens(tmp_path: Path) -> None:
    with running("vllm") as server:
        runtime = runtime_of(tmp_path, server.port)
        await watched(runtime, lambda record: record.load)
    record = await watched(runtime, lambda record: record.load_failures >= 2)
    assert (record.load, record.status, record.health.failures) == (None, S.READY, 0)


async def test_page_that_is_not_there_is_asked_for_once(tmp_path: Path) -> None:
    asked: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[1])
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        runtime = runtime_of(tmp_path, server.sockets[0].getsockname()[1], "sglang")

        async def several_rounds() -> Record:
            await asyncio.sleep(0.3)
            return runtime.records["chat-sim"]

        record = await beside_the_watch(runtime, several_rounds)
    assert asked == ["/v1/loads", "/metrics"]
    assert (record.load, record.load_failures) == (None, 0)


async def test_replica_that_does_not_serve_is_not_asked(tmp_path: Path) -> None:
    with running("vllm") as server:
        runtime = runtime_of(tmp_path, server.port, status=S.ASLEEP)

        async def several_rounds() -> Record:
            await asyncio.sleep(0.1)
            return runtime.records["chat-sim"]

        record = await beside_the_watch(runtime, several_rounds)
    assert record.load is None


@pytest.mark.parametrize(("to", "kept"), [(S.DRAINING, True), (S.UNHEALTHY, False), (S.STOPPING, False)])
async def test_load_is_that_of_an_engine_that_serves(tmp_path: Path, to: ReplicaStatus, *, kept: bool) -> None:
    with running("vllm") as server:
        record = await watched(runtime_of(tmp_path, server.port), lambda record: record.load)
    changed = apply(record, Transition(name="chat-sim", to=to), 2.0)
    assert (changed.load is not None) is kept


async def test_asks_more_often_while_somebody_looks(tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path, 1)
    async with Prober() as prober:
        watch = LoadWatch(runtime, prober)
        assert not watch.is_seen()
        report = TrafficReport(runtime.plan.paths.traffic, 0, 1, 1)
        report.write(1, 1, int(time.monotonic()), [0, 0, 0])
        report.close()
        assert watch.is_seen()
