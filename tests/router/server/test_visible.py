"""What a client sees with a key for one of two models: over all paths that can be read."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import orjson
import pytest
from starlette.types import Message, Scope

from berth.ipc.key_counters import Use
from berth.plan import Adapter, EngineName, Keys, MemoryEstimate, ModelRoute, Plan, Preload, Task
from berth.processes import replace_file
from berth.records import usage
from berth.router.app import App
from berth.router.events.hub import Wants
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import GpuState, ReplicaStatus, State
from tests.fakes.api_keys import api_keys
from tests.fakes.router import LIMITS, make_plan, replica, replica_state

pytestmark = pytest.mark.anyio

OPEN_PATHS = {  # -> why it may name all models
    "/metrics": "for a Prometheus, which has no key: names and numbers",
    "/metrics/vllm": "the same",
    "/ready": "for load balancers, which have none",
}
MEMORY = MemoryEstimate(weights_bytes=10, kv_bytes_per_token=1, kv_bytes=20, overhead_bytes=5, largest_context=9)
SHOWN = ("/status", "/plan", "/v1/models", "/api/tags", "/api/ps", "/events")  # with a key for all models


def plan_of(run_dir: str) -> Plan:
    replicas = [replica(f"{name}-vllm", "http://127.0.0.1:1") for name in ("own", "hidden")]
    replicas = [replace(one, gpus=(0,), memory=MEMORY) for one in replicas]
    adapter = Adapter(name="hidden-lora", source="org/hidden-lora")
    routes = [
        ModelRoute(name="own", source="org/own", task=Task.GENERATE, replicas=("own-vllm",), adapters=(adapter,)),
        ModelRoute(
            name="hidden", aliases=("hidden-too",), source="org/hidden", task=Task.GENERATE, replicas=("hidden-vllm",)
        ),
    ]
    made = make_plan(run_dir, replicas, routes, replace(LIMITS, key_slots=3))
    both = ("own-vllm", "hidden-vllm")
    preload = Preload(name="vllm.preload", engine=EngineName.VLLM, like="a", replicas=both, modules=(), differing=())
    return replace(made, open_access=False, preloads=(preload,), warnings=("hidden: its context length is unknown",))


@pytest.fixture
async def worker(run_dir: str) -> AsyncIterator[Worker]:
    plan = plan_of(run_dir)
    plan.paths.plan.write_bytes(plan.to_json())
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    states = tuple(replica_state(one.name, ReplicaStatus.READY) for one in plan.replicas)
    gpu = GpuState(index=0, memory_used_bytes=90, memory_total_bytes=99)
    state = State(sequence=1, published_at=time.time(), control_pid=1, replicas=states, gpus=(gpu,))
    replace_file(plan.paths.state, state.to_json())
    first, second = api_keys("some", "all")
    keys = (
        replace(first, name="one", slot=1, models=("own",)),
        replace(second, name="other", slot=2, expires=1e10),
    )
    worker = Worker(plan, Keys(api_keys=keys))
    worker.upstreams.poll()
    running = asyncio.ensure_future(worker.events.run())
    yield worker
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    for part in (worker.events, worker.journal, worker.upstreams, worker.board):
        part.close()
    await asyncio.sleep(0)


def paths(app: App) -> list[str]:
    """All that GET has, with a model's name where one stands."""
    gets = [route.path for route in app._routes if "GET" in (route.methods or ())]
    names = ("{name:path}", "own"), ("{name}", "own"), ("{id}", "x")
    for part, value in names:
        gets = [path.replace(part, value) for path in gets]
    return [path for path in gets if not path.startswith(("/admin", "/ui"))]


async def body_of(worker: Worker, path: str, key: str) -> bytes:
    headers = {"authorization": f"Bearer {key}"}
    if path == "/events":
        return await first_events(worker, headers)
    transport = httpx.ASGITransport(App(worker), client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
        return (await client.get(path, headers=headers)).content


async def first_events(worker: Worker, headers: dict[str, str]) -> bytes:
    """Up to the first traffic."""
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {"type": "http", "method": "GET", "path": "/events", "headers": named, "root_path": ""}
    scope["query_string"], scope["client"] = b"requests=1", ("127.0.0.1", 1)
    sent, gone, traffic = bytearray(), asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.extend(message.get("body", b""))
        if b"event: traffic" in sent:
            traffic.set()

    task = asyncio.ensure_future(App(worker)(scope, receive, send))
    await asyncio.wait_for(traffic.wait(), 60)
    gone.set()
    await task
    return bytes(sent)


async def test_a_key_for_one_model_sees_nothing_of_the_others(worker: Worker) -> None:
    known = paths(App(worker))
    assert set(SHOWN) <= set(known)
    for path in known:
        body = await body_of(worker, path, "some")
        if path not in OPEN_PATHS:
            assert b"hidden" not in body, path
        if path in SHOWN:
            assert b"own" in body, path


async def test_a_key_for_all_models_sees_them(worker: Worker) -> None:
    for path in SHOWN:
        assert b"hidden" in await body_of(worker, path, "all"), path


async def test_notices_about_keys_are_for_their_clients_and_operators(worker: Worker) -> None:
    keys = worker.keys.current.api_keys
    worker.keys.current = Keys(api_keys=tuple(replace(key, expires=2e9, tokens_per_day=1, day_from=-5) for key in keys))

    async def seen(key: str) -> set[str]:
        document = orjson.loads(await body_of(worker, "/status", key))
        return {one["key"] for one in document["notices"] if one["kind"] == "budget_high"}

    assert await seen("some") == {"one"}
    assert await seen("all") == {"other"}
    assert {one.key for one in worker.notices(0.0) if one.kind == "budget_high"} == {"one", "other"}


async def test_other_models_on_a_gpu_have_no_name(worker: Worker) -> None:
    (gpu,) = orjson.loads(await body_of(worker, "/status", "some"))["gpus"]
    assert [one["replica"] for one in gpu["memory_by_engine"]] == ["own-vllm", ""]
    assert gpu["memory_foreign_bytes"] == 20


async def test_a_listener_whose_key_has_changed_connects_again(worker: Worker) -> None:
    hub, keys = worker.events, worker.keys.current
    one, other = keys.api_keys
    listeners = {key.name: hub.join(Wants(granted=key)) for key in keys.api_keys}
    hub.replace(replace(keys, api_keys=(replace(one, models=("hidden",)), replace(other, day_from=9.0))))
    await listeners["one"].next()
    assert await listeners["one"].next() == b"", "it ends"
    assert not listeners["other"]._ended
    hub.replace(replace(keys, api_keys=()))
    await listeners["other"].next()
    assert await listeners["other"].next() == b""


async def test_a_client_sees_its_own_usage_and_budgets(worker: Worker) -> None:
    one, other = worker.keys.current.api_keys
    plan = worker.plan
    data = b"".join(
        usage.line_of(int(time.time()), "boot", number, (key.name, "own"), Use(requests=number, prompt=7 * number))
        for number, key in enumerate((one, other), 1)
    )
    file = usage.path(plan, usage.month_of(time.time()))
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    worker.auth.replace((replace(one, tokens_per_day=100, day_from=-20.0), other))

    document = orjson.loads(await body_of(worker, "/usage", "some"))

    assert document["key"] == "one"
    assert [(row["model"], row["requests"], row["prompt"]) for row in document["rows"]] == [("own", 1, 7)]
    assert document["budgets"] == [{"period": "day", "used": 20, "limit": 100}]
    assert orjson.loads(await body_of(worker, "/usage", "all"))["rows"][0]["requests"] == 2
