"""The boundary of the application, in this process: what happens when the router itself is at fault."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from starlette.types import Message, Scope

from berth.boot.config.routes import OWN_PATHS
from berth.ipc.heartbeats import FIRST_WORKER, read_rows
from berth.plan import Keys, Plan
from berth.router.app import App, plain_path
from berth.router.exchange.addresses import Addresses
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import POLL_S, Worker
from tests.fakes.router import LIMITS, make_plan, replica
from tests.fakes.upstream import FakeUpstream, chat_answer, chat_stream

pytestmark = pytest.mark.anyio

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}

TEN_BYTES = replace(LIMITS, max_body_bytes=10)


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as engine:
        engine.answers(chat_answer())
        yield engine


@pytest.fixture
def plan(run_dir: str, engine: FakeUpstream) -> Plan:
    return make_plan(run_dir, [replica("chat-vllm", engine.url)])


@pytest.fixture
async def worker(plan: Plan) -> AsyncIterator[Worker]:
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    worker = Worker(plan, Keys())
    yield worker
    worker.upstreams.close()
    worker.board.close()
    await asyncio.sleep(0)  # transports close in the next round of the loop


class Client:
    """One request over ASGI. With `breaks_at` the n-th thing sent to it raises."""

    def __init__(self, path: str, body: dict[str, Any] | None = None, *, breaks_at: int = -1) -> None:
        self.scope: Scope = {"type": "http", "method": "POST" if body else "GET", "path": path, "headers": []}
        self.scope |= {"query_string": b"", "root_path": "", "client": ("127.0.0.1", 40000)}
        self.sent: list[Message] = []
        self._body: Message | None = {"type": "http.request", "body": orjson.dumps(body)}
        self._breaks_at = breaks_at

    async def receive(self) -> Message:
        if self._body is None:  # it stays and waits
            await asyncio.Event().wait()
        message, self._body = self._body, None
        assert message is not None
        return message

    async def send(self, message: Message) -> None:
        if len(self.sent) == self._breaks_at:
            self._breaks_at = -1
            raise RuntimeError("the server is at fault")
        self.sent.append(message)

    async def ask(self, worker: Worker) -> None:
        await App(worker)(self.scope, self.receive, self.send)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = orjson.loads(self.sent[1]["body"])["error"]
        return error


def fails(*_: object) -> Any:
    raise KeyError("secret of the code")


async def test_internal_error_of_a_page_is_a_500_without_details(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "catalog", SimpleNamespace(listing=fails))
    client = Client("/v1/models")

    await client.ask(worker)

    assert client.sent[0]["status"] == 500
    assert "See Berth's log" in client.error["message"]
    assert "secret" not in client.error["message"]
    assert "internal error" in caplog.text


async def test_internal_error_of_a_request_is_a_500(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "proxy", SimpleNamespace(serve=fails))
    client = Client("/v1/chat/completions", CHAT)

    await client.ask(worker)

    assert (client.sent[0]["status"], client.error["type"]) == (500, "server_error")


async def test_internal_error_in_a_stream_ends_it_with_an_error_frame(
    worker: Worker, engine: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    engine.answers(*chat_stream("a"))
    client = Client("/v1/chat/completions", {**CHAT, "stream": True}, breaks_at=1)

    await client.ask(worker)

    assert client.sent[-1]["body"].startswith(b'data: {"error":')
    assert "internal error" in caplog.text


async def test_failing_send_aborts_the_response(
    worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client("/v1/chat/completions", CHAT)
    monkeypatch.setattr(client, "send", fails)

    await client.ask(worker)

    assert "response aborted" in caplog.text


async def test_offline_server_rejects_urls(plan: Plan) -> None:
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    worker = Worker(replace(plan, offline=True), Keys())
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    client = Client("/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": [image]}]})

    await client.ask(worker)

    assert client.sent[0]["status"] == 400
    assert b"BERTH_OFFLINE=1" in client.sent[1]["body"]
    worker.upstreams.close()
    worker.board.close()


async def test_fetches_nothing_from_a_host_with_a_private_address(worker: Worker) -> None:
    worker.addresses = Addresses(lambda _: ["10.0.0.1"])
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    client = Client("/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": [image]}]})

    await client.ask(worker)

    assert client.sent[0]["status"] == 400
    assert b"'example.com' has a private address" in client.sent[1]["body"]


async def test_internal_error_before_the_response_is_a_500(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "meter", SimpleNamespace(in_flight=fails, observe=worker.meter.observe))
    client = Client("/v1/chat/completions", CHAT)

    await client.ask(worker)

    assert client.sent[0]["status"] == 500


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("//v1///models//", "/v1/models"),
        ("/", "/"),
        ("//", "/"),
    ],
)
def test_removes_superfluous_slashes(path: str, plain: str) -> None:
    assert plain_path(path) == plain


async def test_a_blocked_loop_has_no_heartbeat(worker: Worker, plan: Plan) -> None:
    def beats() -> int:
        return read_rows(plan.paths.heartbeats)[FIRST_WORKER].beats

    async with asyncio.TaskGroup() as group:
        background = group.create_task(worker._background(asyncio.get_running_loop()))
        while beats() < 2:  # noqa: ASYNC110 - the heartbeats are in a file
            await asyncio.sleep(0.01)
        before = beats()
        time.sleep(3 * POLL_S)  # noqa: ASYNC251 - it blocks the loop
        assert beats() == before
        while beats() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        background.cancel()


async def test_no_prefix_of_a_rule_hides_a_path_of_berth(worker: Worker) -> None:
    paths = {route.path.split("/")[1] for route in App(worker)._routes} - {""}

    assert paths == OWN_PATHS - {"docs", "openapi.json"}
