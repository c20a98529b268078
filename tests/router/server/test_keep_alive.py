"""Ollama's requests without a prompt, and its `keep_alive`, for a model that requests load."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest

from berth.ipc.operations import Keep, Reply, Request
from berth.plan import Keys, Load
from berth.router.app import App
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import ReplicaStatus
from tests.fakes.asgi import Answer, ask
from tests.fakes.router import make_plan, publish, replica, replica_state, route

pytestmark = pytest.mark.anyio

S = ReplicaStatus


class Control:
    """Answers on its socket, and publishes what the test says."""

    def __init__(self, run_dir: str) -> None:
        routes = [replace(route("m", ["m-vllm"]), load=Load.ON_REQUEST), route("always", ["always-vllm"])]
        replicas = [replica("m-vllm", "http://127.0.0.1:1"), replica("always-vllm", "http://127.0.0.1:1")]
        self.plan = make_plan(run_dir, replicas, routes)
        self.kept: list[Keep] = []
        self.on_keep: Callable[[], None] = lambda: None
        self.sequence = 0
        Scoreboard.create(self.plan.paths.scoreboard, layout(self.plan), rows=1)
        self.worker = Worker(self.plan, Keys())
        self.app = App(self.worker)

    def shows(self, status: ReplicaStatus, requested: str = "") -> None:
        self.sequence += 1
        publish(self.plan, replica_state("m-vllm", status, requested=requested), sequence=self.sequence)
        self.worker.upstreams.poll()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = msgspec.json.decode(await reader.readline(), type=Request)
        assert (request.change, request.operation) == (None, ""), "a client requests no operation"
        if request.keep is not None:
            self.kept.append(request.keep)
            self.on_keep()
        writer.write(msgspec.json.encode(Reply()) + b"\n")
        writer.close()

    async def generate(self, model: str = "m", **fields: object) -> Answer:
        headers = {"x-berth-load": "no"} if fields.pop("no_load", False) else {}
        return await ask(self.app, "/api/generate", method="POST", headers=headers, body={"model": model, **fields})


@asynccontextmanager
async def control_of(run_dir: str) -> AsyncIterator[Control]:
    control = Control(run_dir)
    async with await asyncio.start_unix_server(control.answer, control.plan.paths.control_socket):
        yield control
    control.worker.upstreams.close()
    control.worker.board.close()


@pytest.mark.parametrize(
    ("status", "requested"),
    [
        (S.DRAINING, "unloaded"),
        (S.STOPPING, "unloaded"),
        (S.UNLOADED, "unloaded"),
        (S.DRAINING, "asleep"),
        (S.FALLING_ASLEEP, "asleep"),
        (S.ASLEEP, "asleep"),
        (S.STOPPING, "loaded"),
        (S.WAITING, ""),
        (S.STARTING, ""),
        (S.WAKING, ""),
    ],
)
async def test_load_waits_whatever_is_done_to_the_model(run_dir: str, status: ReplicaStatus, requested: str) -> None:
    async with control_of(run_dir) as control:
        control.shows(status, requested)
        loads = asyncio.ensure_future(control.generate(keep_alive="1h"))
        while not control.worker.meter.queue_length("m"):  # noqa: ASYNC110 - this worker's own counter
            await asyncio.sleep(0)
        assert control.kept == []

        control.shows(S.READY)
        answer = await loads
        assert (answer.status, answer.json["done_reason"]) == (200, "load")
        assert control.kept == [Keep(model="m", seconds=3600)]
        assert control.worker.meter.queue_length("m") == 0


async def test_model_that_leaves_as_it_is_to_stay_is_loaded_again(run_dir: str) -> None:
    async with control_of(run_dir) as control:
        control.shows(S.READY)
        control.on_keep = lambda: control.shows(S.STOPPING, "unloaded") if len(control.kept) == 1 else None
        loads = asyncio.ensure_future(control.generate(keep_alive=-1))
        while not control.worker.meter.queue_length("m"):  # noqa: ASYNC110 - this worker's own counter
            await asyncio.sleep(0)
        control.shows(S.READY)
        assert (await loads).status == 200
        assert control.kept == [Keep(model="m")] * 2


async def test_response_says_how_long_its_model_took(run_dir: str) -> None:
    async with control_of(run_dir) as control:
        for status in (S.STARTING, S.READY):
            control.shows(status)
            body = {"model": "m", "prompt": "x", "stream": False, "keep_alive": "1h"}
            request = asyncio.ensure_future(ask(control.app, "/api/generate", method="POST", body=body))
            while status is S.STARTING and not control.worker.meter.queue_length("m"):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            control.shows(S.READY)
            answer = await request  # nothing listens there
            shown = [answer.headers.get(f"x-berth-{name}") for name in ("load-ms", "queue-ms", "loaded")]
            assert [one is not None for one in shown] == [status is S.STARTING] * 3
            assert shown[2] in (None, "m")
        assert answer.status == 503
        while len(control.kept) < 2:  # noqa: ASYNC110 - it is passed on after the response
            await asyncio.sleep(0.01)


async def test_load_that_is_not_to_load_is_refused_and_one_that_fails_says_why(run_dir: str) -> None:
    async with control_of(run_dir) as control:
        control.shows(S.UNLOADED, "unloaded")
        refused = await control.generate(no_load=True)
        assert (refused.status, "is not loaded yet" in refused.json["error"]) == (503, True)
        control.shows(S.FAILED)
        failed = await control.generate()
        assert (failed.status, "is not available" in failed.json["error"]) == (503, True)


async def test_unload_only_says_how_long_it_stays(run_dir: str) -> None:
    async with control_of(run_dir) as control:
        control.shows(S.READY)
        answer = await control.generate(keep_alive=0)
        assert (answer.json["done_reason"], control.kept) == ("unload", [Keep(model="m", seconds=0)])
        assert (await control.generate("always", keep_alive=0)).status == 200
        assert len(control.kept) == 1


async def test_silent_control_does_not_fail_a_load(run_dir: str) -> None:
    async with control_of(run_dir) as control:
        control.shows(S.READY)
        control.plan.paths.control_socket.unlink()
        assert (await control.generate(keep_alive="5m")).status == 200
