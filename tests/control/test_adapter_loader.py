"""Adapters are loaded into simulated engines over a socket, and unloaded again."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control import adapter_loader
from berth.control.adapter_loader import AdapterLoader
from berth.control.decisions.records import Record, Timing
from berth.control.probes import Prober
from berth.control.runtime import Runtime
from berth.control.supervisord_client import SupervisordClient
from berth.host.gpu_usage import Gpus
from berth.plan import Adapter, DialectName, Launch
from berth.state import ReplicaStatus
from tests.fakes.plans import make_plan, make_replica
from tests.sim.harness import get, running

pytestmark = pytest.mark.anyio
LAW, TONE = Adapter(name="law", source="/law"), Adapter(name="tone", source="/tone")


def runtime_of(run_dir: Path, port: int, dialect: str) -> Runtime:
    replica = replace(make_replica("r", launch=Launch(argv=("x",)), port=port), dialect=DialectName(dialect))
    plan = make_plan(str(run_dir), replica)
    record = Record(replica=replica, status=ReplicaStatus.READY, since=0, starts=1)
    client = SupervisordClient(plan.paths.supervisord_socket)
    return Runtime(plan=plan, timing=Timing(), supervisord=client, gpus=Gpus([]), records={"r": record}, followers={})


def want(runtime: Runtime, *adapters: Adapter) -> None:
    kept = runtime.operations.kept
    runtime.operations.kept = replace(kept, adapters={"chat": adapters})


async def settle(loader: AdapterLoader) -> None:
    loader.follow_up()
    await asyncio.gather(*loader._running.values())
    loader.follow_up()
    assert not loader._running, "it has settled"


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_engine_gets_what_is_wanted_and_loses_what_is_not(
    dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_loader, "UNLOAD_AFTER_S", 0.0)

    def loaded() -> list[str]:
        return [card["id"] for card in get(server.port, "/v1/models").json["data"]][1:]

    with running(dialect, adapters=["law"], adapter_slots=2) as server:  # law: as if it had slept with it
        runtime = runtime_of(tmp_path, server.port, dialect)
        async with Prober() as prober, asyncio.TaskGroup() as tasks:
            loader = AdapterLoader(runtime, prober, tasks)
            want(runtime, LAW, TONE)
            await settle(loader)
            assert (sorted(loaded()), runtime.records["r"].adapters) == (["law", "tone"], ("law", "tone"))
            want(runtime, TONE)
            await settle(loader)
            assert (loaded(), runtime.records["r"].adapters) == (["tone"], ("tone",))


async def test_engine_that_cannot_load_one_is_asked_thrice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter_loader, "RETRY_S", 0.0)
    with running("vllm") as server:
        runtime = runtime_of(tmp_path, server.port, "vllm")
        async with Prober() as prober, asyncio.TaskGroup() as tasks:
            loader = AdapterLoader(runtime, prober, tasks)
            want(runtime, LAW)
            await settle(loader)
            assert "/v1/load_lora_adapter returned 404" in runtime.records["r"].adapter_errors["law"]
            want(runtime)
            await settle(loader)
    assert runtime.records["r"].adapter_errors == {}
    assert caplog.text.count("adapter not loaded") == 1
