"""GET /events: who gets it, how it ends, and that it neither holds anything up nor costs anything."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message, Scope

from berth.ipc.journal import Names, Reader
from berth.plan import Keys
from berth.router.app import App
from berth.router.events import hub
from berth.router.server import events
from berth.router.server.events import wants_of
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import ReplicaStatus
from tests.fakes.api_keys import api_keys
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state

pytestmark = pytest.mark.anyio


class Client:
    def __init__(self, query: bytes = b"", *, reads: bool = True, **headers: str) -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: Scope = {"type": "http", "method": "GET", "path": "/events", "headers": named, "root_path": ""}
        self.scope |= {"query_string": query, "client": ("127.0.0.1", 40000)}
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.begun = asyncio.Event()
        self._reads = reads

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if "body" in message:
            self.begun.set()
        if not self._reads and "body" in message:
            await asyncio.Event().wait()

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


@pytest.fixture
async def worker(run_dir: str) -> AsyncIterator[Worker]:
    plan = make_plan(run_dir, [replica("chat-a", "http://127.0.0.1:1")])
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    worker = Worker(plan, Keys())
    running = asyncio.ensure_future(worker.events.run())
    yield worker
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    worker.events.close()
    worker.journal.close()
    worker.upstreams.close()
    worker.board.close()
    await asyncio.sleep(0)


async def joined(worker: Worker, client: Client) -> "asyncio.Task[None]":
    task = asyncio.ensure_future(App(worker)(client.scope, client.receive, client.send))
    await asyncio.wait_for(client.begun.wait(), 5)
    return task


async def test_ends_when_its_client_is_gone(worker: Worker) -> None:
    client = Client()
    task = await joined(worker, client)
    assert client.status == 200
    assert client.body.startswith(b"retry: 3000\n\nevent: state\nid: ")
    assert len(worker.inflight) == 0  # it takes no capacity
    client.gone.set()
    await task
    assert not worker.events.has_listeners


async def test_ends_when_its_connection_fails(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    client = Client()

    async def broken() -> Message:
        await client.gone.wait()
        raise RuntimeError("broken")

    task = asyncio.ensure_future(App(worker)(client.scope, broken, client.send))
    client.gone.set()
    await asyncio.wait_for(task, 1)
    assert "client connection failed" in caplog.text
    assert not worker.events.has_listeners


async def test_ends_at_once_when_the_worker_drains(worker: Worker) -> None:
    client = Client()
    task = await joined(worker, client)
    worker.events.end_all()
    await asyncio.wait_for(task, 1)
    assert client.sent[-1] == {"type": "http.response.body", "body": b""}  # complete, so that the client returns


async def test_client_that_reads_nothing_is_dropped(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STALL_S", 0.05)
    client = Client(reads=False)
    task = await joined(worker, client)
    await asyncio.wait_for(task, 2)
    assert client.sent[-1]["more_body"]  # an incomplete response closes the connection
    assert not worker.events.has_listeners


async def test_too_many_are_asked_to_return(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_LISTENERS", 1)
    first, second = Client(), Client()
    task = await joined(worker, first)
    await joined(worker, second)
    assert second.status == 503
    assert (b"retry-after", b"5") in second.sent[0]["headers"]
    first.gone.set()
    await task


@pytest.mark.parametrize(
    ("query", "last_id", "requests", "logs", "since"),
    [
        (b"", b"", False, "", None),
        (b"requests=1&logs=chat-a", b"100.250", True, "chat-a", 100.25),
        (b"requests=0", b"nonsense", False, "", None),
        (b"logs=a&logs=b", b"", False, "b", None),
    ],
)
def test_what_a_client_wants(query: bytes, last_id: bytes, requests: bool, logs: str, since: float | None) -> None:
    wants = wants_of(query, last_id)
    assert (wants.requests, wants.logs, wants.since) == (requests, logs, since)


async def test_unknown_replica_is_a_404_and_head_has_no_body(worker: Worker) -> None:
    client = Client(b"logs=../../etc/passwd")
    await joined(worker, client)
    assert client.status == 404

    head = Client()
    head.scope["method"] = "HEAD"
    await joined(worker, head)
    assert (head.status, head.body) == (200, b"")


def next_event(lines: Any, kind: str) -> str:
    """The data of the next event of this kind."""
    for line in lines:
        if line == f"event: {kind}":
            next(lines)
            return str(next(lines))
    raise AssertionError(f"the stream ended before {kind}")


def killed_and_started_again(router: RouterProcess, keys: Keys) -> RouterProcess:
    workers = router.workers()
    router.process.kill()
    router.process.wait()
    for worker in workers:
        worker.kill()
    again = RouterProcess(router.plan, keys)
    again.await_answer()
    return again


def test_shows_a_request_outlives_the_router_and_does_not_hold_up_its_end(run_dir: str) -> None:
    limits = replace(LIMITS, key_slots=2, drain_timeout_s=30.0)
    plan = make_plan(run_dir, [replica("chat-a", "http://127.0.0.1:1")], limits=limits)
    publish(plan, replica_state("chat-a", ReplicaStatus.FAILED, reason="gone"))
    keys = Keys(api_keys=api_keys("foo"))
    router = RouterProcess(plan, keys)
    router.await_answer()
    assert httpx.get(f"{router.url}/events").status_code == 401
    key = {"authorization": "Bearer foo"}
    chat = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    assert httpx.post(f"{router.url}/v1/chat/completions", json=chat, headers=key).status_code == 503
    reader = Reader(plan.paths.journal, Names(plan, ()))
    router.await_true(reader.finished)  # after the response
    router = killed_and_started_again(router, keys)
    with httpx.stream("GET", f"{router.url}/events?requests=1", headers=key, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert '"kind":"model_down"' in next_event(lines, "state")
        assert '"status":503' in next_event(lines, "requests")  # from before
        assert httpx.post(f"{router.url}/v1/chat/completions", json=chat, headers=key).status_code == 503
        assert '"status":503' in next_event(lines, "requests")
        assert '"errors_s":0.' in next_event(lines, "traffic")
        begun = time.monotonic()
        assert router.stop() == 0
        assert time.monotonic() - begun < plan.limits.drain_timeout_s
        assert list(lines)[-1] == ""  # the stream ended in order
    assert [record.sequence for record in reader.finished()] == [1, 2]
    reader.close()
