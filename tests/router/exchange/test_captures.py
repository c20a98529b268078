"""Requests of all APIs on their way through a worker to control, while they are captured and while they are not."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from berth.control.operations.captures import Captures as Store
from berth.control.operations.server import serve
from berth.ipc.capture import Capture, CaptureAction, CaptureRequest, Exchange, Only
from berth.ipc.operations import Reply, Request
from berth.plan import DialectName, Keys, Task
from berth.plan.keys import digest
from berth.redaction import MASK
from berth.router.app import App
from berth.router.exchange.captures import MOST_WAITING, ROOM_BYTES, Captures
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import ReplicaStatus
from tests.fakes.api_keys import api_keys
from tests.fakes.asgi import Answer, ask
from tests.fakes.router import make_plan, publish, replica, replica_state, route
from tests.fakes.upstream import (
    RESET,
    FakeUpstream,
    chat_answer,
    chat_frame,
    chat_stream,
    chunk,
    error_answer,
    stream_head,
)

pytestmark = pytest.mark.anyio

KEY, ENGINE_KEY = "the-key-of-a-client", "the-key-of-an-engine"
KEYS = Keys(
    api_keys=api_keys(KEY), upstream_keys={"chat-vllm": ENGINE_KEY}, admin_key_digest=digest("the-key-of-the-admin")
)
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Hello there"}]}
APIS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "stream": True},
    "/v1/messages": {**CHAT, "max_tokens": 9, "stream": True},
    "/v1/responses": {"model": "chat", "input": "Hello there", "stream": True},
    "/api/chat": CHAT,
    "/api/generate": {"model": "chat", "prompt": "Hello there"},
    "/models/chat/v1/chat/completions": {**CHAT, "stream": True},
}


class Box:
    """A worker, its two engines, and what control has captured."""

    def __init__(self, worker: Worker, app: App, store: Store, first: FakeUpstream, second: FakeUpstream) -> None:
        self.worker, self.app, self.store, self.first, self.second = worker, app, store, first, second
        self.added: asyncio.Queue[Exchange] = asyncio.Queue()

    async def ask(self, path: str, body: object, **headers: str) -> Answer:
        return await ask(self.app, path, method="POST", body=body, headers={"x-api-key": KEY, **headers})

    async def captured(self) -> Exchange:
        async with asyncio.timeout(60):
            return await self.added.get()

    async def settled(self) -> None:
        """Nothing is held any more for requests that are over."""
        async with asyncio.timeout(60):
            while self.worker.captures.room_bytes != ROOM_BYTES:  # noqa: ASYNC110 - a number
                await asyncio.sleep(0.001)


@pytest.fixture
async def box(run_dir: str) -> AsyncIterator[Box]:
    with FakeUpstream() as first, FakeUpstream() as second:
        async with box_of(run_dir, first, second) as box:
            yield box


@asynccontextmanager
async def box_of(
    run_dir: str,
    first: FakeUpstream,
    second: FakeUpstream,
    *,
    url: str = "",
    dialect: DialectName = DialectName.VLLM,
    task: Task = Task.GENERATE,
) -> AsyncIterator[Box]:
    """`dialect`: of the first engine; `url`: of the engine that takes its place."""
    replicas = [
        replica("chat-vllm", url or first.url, dialect=dialect, task=task),
        replica("chat-sglang", second.url, dialect=DialectName.SGLANG, task=task),
    ]
    plan = make_plan(run_dir, replicas, [route("chat", [one.name for one in replicas], task=task)])
    plan.paths.keys.write_bytes(KEYS.to_json())
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
    worker = Worker(plan, KEYS)
    worker.upstreams.poll()
    box = Box(worker, App(worker), Store(plan, lambda *_: None), first, second)

    async def answer(request: Request) -> Reply:
        wanted = request.capture
        assert wanted is not None
        if wanted.exchange is not None:
            box.added.put_nowait(wanted.exchange)
        return box.store.ask(wanted)

    async with running(serve(plan.paths.control_socket, answer)), running(worker.captures.run()):
        yield box
    worker.upstreams.close()
    worker.board.close()


@asynccontextmanager
async def running(endless: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(endless)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def capture(**fields: Any) -> Capture:
    return Capture(ends=time.time() + 600, **fields)


@pytest.mark.parametrize("path", APIS)
async def test_both_sides_of_every_api_are_captured(box: Box, path: str) -> None:
    box.first.answers(*chat_stream("Good", " day"))
    plain = await box.ask(path, APIS[path])
    box.worker.captures.current = capture()
    answer = await box.ask(path, APIS[path])

    found = await box.captured()

    assert (answer.status, answer.headers["x-berth-captured"]) == (200, "1")
    assert (plain.status, "x-berth-captured" in plain.headers) == (200, False)
    assert (found.id, found.model, found.key, found.status) == (answer.headers["x-request-id"], "chat", "key-1", 200)
    assert orjson.loads(found.request.body) == APIS[path]
    assert found.request.line == f"POST {path}"
    assert found.response is not None
    assert found.response.body == answer.body.decode()
    (attempt,) = found.attempts
    assert orjson.loads(attempt.request.body) == box.first.requests[-1].json
    assert attempt.response is not None
    assert "data: [DONE]" in attempt.response.body
    assert '"content":" day"' in attempt.response.body
    await box.settled()


async def test_whole_responses_and_fallbacks_are_captured(box: Box) -> None:
    box.worker.captures.current = capture()
    box.first.answers(error_answer("no memory", status=500))
    box.second.answers(chat_answer("hello"))

    await box.ask("/v1/chat/completions", CHAT)
    found = await box.captured()

    assert [(one.replica, one.response.line if one.response else "") for one in found.attempts] == [
        ("chat-vllm", "500"),
        ("chat-sglang", "200"),
    ]
    assert "no memory" in found.failures[0]
    assert found.attempts[1].response is not None
    assert "hello" in found.attempts[1].response.body


async def test_a_stream_that_another_engine_continues_is_captured_from_both(box: Box) -> None:
    box.worker.captures.current = capture(only=Only.ALL)
    box.first.answers(stream_head(), chunk(chat_frame(role=True)), chunk(chat_frame("one")), RESET)
    box.second.answers(*chat_stream(" two"))

    answer = await box.ask("/v1/chat/completions", {**CHAT, "stream": True})
    found = await box.captured()

    bodies = [one.response.body if one.response else "" for one in found.attempts]
    assert '"content":"one"' in bodies[0]
    assert found.response is not None
    assert found.response.body == answer.body.decode()


async def test_nothing_secret_is_captured(box: Box) -> None:
    box.worker.captures.current = capture()
    said = f"{KEY} {ENGINE_KEY} the-key-of-the-admin sk-abcdefghijklmnop http://me:s3same@host/"
    box.first.answers(error_answer(f"wrong key {said}", status=400))
    body = {**CHAT, "messages": [{"role": "user", "content": f"my key is {said}"}]}

    await box.ask("/v1/chat/completions?api_key=s3same", body, authorization=f"Bearer {KEY}", cookie="a=s3same")
    found = await box.captured()

    text = repr(found)
    for secret in (KEY, ENGINE_KEY, "the-key-of-the-admin", "abcdefgh", "s3same"):
        assert secret not in text
    assert ("authorization", MASK) in found.request.headers
    assert "my key is *** *** *** sk-*** http://***@host/" in found.request.body


async def test_invalid_requests_are_captured_with_their_bodies(box: Box) -> None:
    box.worker.captures.current = capture(only=Only.ERRORS)
    await box.ask("/v1/chat/completions", b'{"model": ')
    refused = await ask(box.app, "/v1/chat/completions", method="POST", body=CHAT, headers={"x-api-key": "wrong-key"})

    first, second = await box.captured(), await box.captured()

    assert (first.status, first.request.body, first.attempts) == (400, '{"model": ', ())
    assert (refused.status, second.status, second.key, second.request.size) == (401, 401, "anonymous", 0)


@pytest.mark.parametrize(
    "other",
    [capture(model="other"), capture(key="key-2"), capture(only=Only.ERRORS), capture(only=Only.SLOW, slow_s=99)],
    ids=["model", "key", "errors", "slow"],
)
async def test_other_requests_are_not_captured(box: Box, other: Capture) -> None:
    box.first.answers(chat_answer())
    box.worker.captures.current = other
    await box.ask("/v1/chat/completions", CHAT)
    box.worker.captures.current = capture(model="chat", key="key-1", only=Only.SLOW, slow_s=0.000_001)
    answer = await box.ask("/v1/chat/completions", CHAT)

    assert (await box.captured()).id == answer.headers["x-request-id"]  # in order: nothing was before it
    await box.settled()


async def test_a_capture_whose_time_is_over_captures_nothing_even_without_control(box: Box) -> None:
    box.first.answers(chat_answer())
    box.worker.captures.current = Capture(ends=time.time() - 1)
    answer = await box.ask("/v1/chat/completions", CHAT)
    assert "x-berth-captured" not in answer.headers


async def test_what_control_does_not_take_is_lost_and_said(run_dir: str, caplog: pytest.LogCaptureFixture) -> None:
    """More than wait for it: the room of the others is free at once."""
    with FakeUpstream() as engine, caplog.at_level(logging.WARNING):
        engine.answers(chat_answer())
        async with box_of(run_dir, engine, engine) as box:
            box.worker.captures = Captures(Path("/nowhere/control.sock"), box.worker.keys)
            box.worker.captures.current = capture()
            for _ in range(MOST_WAITING + 5):
                assert (await box.ask("/v1/chat/completions", CHAT)).status == 200
            async with running(box.worker.captures.run()):
                await box.settled()
    assert caplog.text.count("captured request lost") == MOST_WAITING


async def test_the_store_lists_without_texts_and_shows_one(box: Box) -> None:
    started = box.store.ask(_request(CaptureAction.START, capture=capture(model="chat")))
    assert started.denial is None
    box.worker.captures.current = box.store.current
    box.first.answers(chat_answer())
    answer = await box.ask("/v1/chat/completions", CHAT)
    await box.captured()

    listed = box.store.ask(_request(CaptureAction.LIST)).captured
    shown = box.store.ask(_request(CaptureAction.SHOW, id=answer.headers["x-request-id"])).captured

    assert listed is not None
    assert shown is not None
    assert [one.request.body for one in listed.exchanges] == [""]
    assert "Hello there" in shown.exchanges[0].request.body


def _request(action: CaptureAction, **fields: Any) -> CaptureRequest:
    return CaptureRequest(action=action, **fields)
