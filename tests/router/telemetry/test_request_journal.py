"""What is recorded of each request, and of those in progress."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation, Usage
from berth.errors import AuthenticationError
from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat
from berth.ipc.journal import APIS, TABLE_RECORDS, Names, Reader, Record, Trace
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.request import CLIENT_GONE, RequestContext
from berth.router.response_store import ResponseFiles
from berth.router.server.api_routes import formats
from berth.router.telemetry.access_log import api_name
from berth.router.telemetry.request_journal import LISTED_AFTER_S, RequestJournal
from tests.fakes.forwarding import Client, Forwarding, forwarding_to
from tests.fakes.router import make_plan, replica, route
from tests.fakes.router_fixture import RouterFixture
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

pytestmark = pytest.mark.anyio  # of the coroutines

A, B = replica("chat-a", "http://127.0.0.1:1"), replica("chat-b", "http://127.0.0.1:2")
PLAN = make_plan("/run", [A, B])


class Journal(RequestJournal):
    """And what a reader sees."""

    def __init__(self, path: Path, row: int = 0) -> None:
        super().__init__(path, PLAN, row)
        self.reader = Reader(path, Names(PLAN, ()))

    def of(self, ctx: RequestContext, api: int = 1) -> Record:
        self.running[ctx] = api
        self.put(ctx, api)
        return self.reader.finished()[-1]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.close()
    made.reader.close()


async def call(
    body: dict[str, Any] | None = None, *, accepted: bool = True, stream: bool = False, **fields: Any
) -> RequestContext:
    ctx = RequestContext(OpenaiChat(), "abc", InflightRequests().begin(None, None))  # type: ignore[arg-type] # never used
    if accepted:
        request = InferenceRequest(operation=Operation.CHAT, model="gpt", body=body or {}, stream=stream)
        ctx.accept(request, route("chat", ["chat-a"]))
    for name, value in {"status": 200, **fields}.items():
        setattr(ctx, name, value)
    return ctx


async def test_has_the_numbers_and_names_of_the_request(journal: Journal) -> None:
    ctx = await call(
        served_by=B, previous=A, attempts=2, usage=Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3)
    )
    ctx.since -= 2
    ctx.first_token_s, ctx.queue_s, ctx.frames, ctx.moved_at_token = 0.5, 0.25, 6, 4
    ctx.trace = Trace(b"1" * 16, b"2" * 8, b"3" * 8, sampled=True)

    record = journal.of(ctx)

    assert record.start == pytest.approx(time.time() - 2, abs=0.2)
    assert record.duration_s == pytest.approx(2, abs=0.2)
    assert (record.first_token_s, record.queue_s, record.frames, record.moved_at_token) == (0.5, 0.25, 6, 4)
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (7, 5, 3)
    assert (record.model, record.replica, record.previous_replica) == ("chat", "chat-b", "chat-a")
    assert (record.request_id, record.trace, record.flags) == ("abc", ctx.trace, ("queued",))
    assert journal.running == {}


@pytest.mark.parametrize(
    ("body", "fields", "flags"),
    [
        ({}, {}, ()),
        ({}, {"stream": True}, ("stream",)),
        ({}, {"status": CLIENT_GONE}, ("client_gone",)),
        ({"response_format": {"type": "json_object"}}, {}, ("schema",)),
        ({"response_format": {"type": "text"}}, {}, ()),
        ({"response_format": "json"}, {}, ()),
        ({"response_format": None}, {}, ()),
    ],
)
async def test_flags(journal: Journal, body: dict[str, Any], fields: dict[str, Any], flags: tuple[str, ...]) -> None:
    assert journal.of(await call(body, **fields)).flags == flags


async def test_has_requests_that_no_engine_gets_but_not_those_without_a_key(journal: Journal) -> None:
    record = journal.of(await call(accepted=False, status=404, error_code="model_not_found"))
    assert (record.status, record.error_code, record.model, record.operation) == (404, "model_not_found", "", "chat")

    assert journal.of(await call(accepted=False, status=AuthenticationError.status)) == record


async def test_any_text_of_clients_and_engines_fits(journal: Journal) -> None:
    record = journal.of(await call(request_id="x" * 128, error_code="\ud800" + "é" * 60, attempts=9999))
    assert (record.request_id, record.attempts) == ("x" * 64, 9999)
    assert record.error_code.startswith("?é")


async def test_another_worker_continues_the_ring(journal: Journal, tmp_path: Path) -> None:
    journal.of(await call())
    follower = Journal(tmp_path / "journal")
    assert follower.of(await call()).sequence == 2
    follower.close()
    follower.reader.close()


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes, however slow the machine is."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)


async def aged(seconds: float, **fields: Any) -> RequestContext:
    ctx = await call(**fields)
    ctx.inflight.since -= seconds
    if ctx.accepted:
        ctx.since -= seconds
    return ctx


@pytest.mark.usefixtures("frozen")
async def test_shows_requests_in_progress_that_last(journal: Journal) -> None:
    old = [
        await aged(9, accepted=False),
        await aged(8, queued_at=time.monotonic() - 3),
        await aged(7, served_by=A),
        await aged(6, served_by=A, first_token_s=0.1),
    ]
    for ctx in (*old, await aged(LISTED_AFTER_S - 0.5)):
        journal.running[ctx] = 2

    journal.refresh()
    records = journal.reader.running({0})

    assert [record.phase for record in records] == ["receiving", "queued", "sent", "streaming"]
    assert [round(record.duration_s) for record in records] == [9, 8, 7, 6]
    assert [round(record.queue_s) for record in records] == [0, 3, 0, 0]
    assert {record.api for record in records} == {"anthropic"}
    assert journal.reader.running({1}) == []

    for ctx in old:
        journal.put(ctx, 2)
    journal.refresh()
    assert journal.reader.running({0}) == []
    assert len(journal.reader.finished()) == 4


async def test_age_of_the_oldest_request_of_all_live_workers(journal: Journal, tmp_path: Path) -> None:
    assert journal.oldest_s() == 0
    journal.running[await aged(5)] = 1
    journal.refresh()
    other = Journal(tmp_path / "journal", row=1)
    other.running[await aged(7)] = 1
    other.refresh()

    journal._heartbeats = tmp_path / "heartbeats"
    beats = [Heartbeat(journal._heartbeats, FIRST_WORKER)]
    assert journal.oldest_s() == pytest.approx(5, abs=0.5)
    beats.append(Heartbeat(journal._heartbeats, FIRST_WORKER + 1))
    assert journal.oldest_s() == pytest.approx(7, abs=0.5)
    for beat in beats:
        beat.close()
    other.close()
    other.reader.close()


async def test_age_of_the_oldest_request_in_each_queue(journal: Journal, tmp_path: Path) -> None:
    journal._heartbeats = tmp_path / "heartbeats"
    beat = Heartbeat(journal._heartbeats, FIRST_WORKER)
    assert journal.queued_s() == {}
    for seconds, fields in ((9000, {}), (800, {"queued_at": 1.0}), (70, {"queued_at": 2.0})):
        journal.running[await aged(seconds, served_by=A, **fields)] = 1
    journal.refresh()
    waits = journal.queued_s()
    assert waits.keys() == {"chat"}
    assert 800 <= waits["chat"] < 8000  # not the one that is served
    beat.close()


@pytest.mark.usefixtures("frozen")
async def test_the_oldest_are_shown_where_there_are_too_many(journal: Journal, tmp_path: Path) -> None:
    for number in range(TABLE_RECORDS + 5):
        journal.running[await aged(1000 - number)] = 1
    journal.refresh()
    assert [round(record.duration_s) for record in journal.reader.running({0})] == list(
        range(1000, 1000 - TABLE_RECORDS, -1)
    )

    follower = Journal(tmp_path / "journal")  # of a worker that was killed: its requests are gone
    assert follower.reader.running({0}) == []
    follower.close()
    follower.reader.close()


def test_every_path_has_an_api(tmp_path: Path) -> None:
    known = formats(ResponseFiles(tmp_path, writers=1, open_access=True))
    assert {api_name(type(api)) for api in known.values()} == set(APIS) - {""}


# on its way through the router


@pytest.fixture
def engines() -> Iterator[tuple[FakeUpstream, FakeUpstream]]:
    with FakeUpstream() as first, FakeUpstream() as second:
        yield first, second


@pytest.fixture
async def forwarding(tmp_path: Path, engines: tuple[FakeUpstream, FakeUpstream]) -> AsyncIterator[Forwarding]:
    made = forwarding_to(tmp_path, engines)
    yield made
    made.close()
    await asyncio.sleep(0)  # its connections are closed in the next round of the loop


CHAT = orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": "hello"}]})
STREAM = orjson.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": "hello"}]})


async def test_fallback(journal: Journal, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]) -> None:
    engines[0].answers(error_answer("no", status=500))
    engines[1].answers(chat_answer())
    record = journal.of(await forwarding.ask(OpenaiChat(), CHAT, Client()))
    assert (record.replica, record.previous_replica, record.attempts) == ("chat-b", "chat-a", 2)
    assert (record.flags, record.status) == (("fallback",), 200)
    assert record.completion_tokens > 0


SAMPLED = Trace(b"1" * 16, b"2" * 8, b"3" * 8, sampled=True)


async def test_an_only_attempt_needs_no_record_of_its_own(
    forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(chat_answer(), error_answer("no", status=500))
    engines[1].answers(chat_answer())
    reader = Reader(forwarding.plan.paths.journal, Names(forwarding.plan, ()), attempts=True)
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)
    (record,) = reader.finished()
    assert record.attempt is not None
    after_s, took_s = record.attempt
    assert 0 <= after_s <= after_s + took_s <= record.duration_s
    assert took_s > 0
    reader.close()


async def test_attempts_of_which_one_failed_have_records(
    forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(error_answer("no", status=500))
    engines[1].answers(chat_answer())
    reader = Reader(forwarding.plan.paths.journal, Names(forwarding.plan, ()), attempts=True)
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)
    *attempts, record = reader.finished()
    assert [(one.flags, one.replica) for one in attempts] == [
        (("attempt",), "chat-a"),
        (("fallback", "attempt"), "chat-b"),
    ]
    assert record.attempt is None
    reader.close()


async def test_continuation(
    journal: Journal, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(stream_head(), chunk(chat_frame(role=True) + chat_frame("he") + chat_frame("ll")), RESET)
    engines[1].answers(*chat_stream("o"))
    record = journal.of(await forwarding.ask(OpenaiChat(), STREAM, Client()))
    assert (record.replica, record.previous_replica, record.moved_at_token) == ("chat-b", "chat-a", 2)
    assert record.flags == ("stream", "continued")
    assert record.frames >= 3


async def test_broken_stream(
    journal: Journal, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(stream_head(), chunk(chat_frame(role=True) + chat_frame("he")), RESET)
    body = orjson.dumps({**orjson.loads(STREAM), "seed": 1})  # which no other engine continues
    record = journal.of(await forwarding.ask(OpenaiChat(), body, Client()))
    assert record.flags == ("stream", "broken")
    assert (record.status, record.error_code) == (200, "engine_failed")


async def test_queue(journal: Journal, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]) -> None:
    contexts = await forwarding.ask_until_queued(
        engines, *(forwarding.ask(OpenaiChat(), CHAT, Client()) for _ in range(3))
    )
    (waited,) = [record for ctx in contexts if (record := journal.of(ctx)).queue_s]
    assert waited.flags == ("queued",)
    assert 0 < waited.queue_s < waited.duration_s
    assert {ctx.queued_at for ctx in contexts} == {0.0}


def test_requests_of_clients_are_in_the_journal_of_the_run_directory(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer())
    plan = router_fixture.router.plan
    reader = Reader(plan.paths.journal, Names(plan, ()))
    reader.new()

    for path, model in (
        ("/v1/chat/completions", "chat"),
        ("/models/chat/v1/chat/completions", "x"),
        ("/v1/chat/completions", "none"),
    ):
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        httpx.post(f"{router_fixture.url}{path}", json=body)

    records: list[Record] = []
    while len(records) < 3:  # they are recorded after the response
        records += reader.new()[0]
    reader.close()
    assert [(record.model, record.status, record.api) for record in records] == [
        ("chat", 200, "openai"),
        ("chat", 200, "openai"),
        ("", 404, "openai"),
    ]


def test_a_client_that_leaves_with_the_last_byte_has_its_whole_response(router_fixture: RouterFixture) -> None:
    """The engine has sent everything but the end of its own response, for which the router waits a little."""
    *frames, done, last = chat_stream("o")
    router_fixture.first.answers(*frames, 0.2, done, 1.0, last)  # requests that last are watched by then
    plan, url = router_fixture.router.plan, httpx.URL(router_fixture.url)
    reader = Reader(plan.paths.journal, Names(plan, ()))
    reader.new()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(f"{head}content-length: {len(STREAM)}\r\n\r\n".encode() + STREAM)
        received = b""
        while b"[DONE]" not in received:
            received += client.recv(65536)

    records: list[Record] = []
    while not records:
        records += reader.new()[0]
    reader.close()
    assert [(record.status, record.flags) for record in records] == [(200, ("stream",))]
