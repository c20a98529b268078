"""One tree of spans for each request, made of the journal and received over OTLP."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import orjson
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from berth.apis.openai.chat import OpenaiChat
from berth.errors import ControlError
from berth.ipc.journal import Trace
from berth.plan import ApiKey, Keys, Plan, Tracing
from berth.processes import replace_file
from berth.state import TracerState
from berth.tracer import main
from tests.fakes.collector import CLIENT, INTERNAL, SERVER, Collector, Span
from tests.fakes.forwarding import Client, Forwarding, forwarding_to
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

SECRET = "xyzzy-secret-text"  # that no span may have
CHAT = orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": SECRET}]})
STREAM = orjson.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": SECRET}]})
PARENT = b"\x11" * 8
SAMPLED = Trace(b"\x22" * 16, b"\x33" * 8, PARENT, sampled=True, state="a=1")


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


class Traced:
    """The tracer in this process, and its collector."""

    def __init__(self, plan: Plan, collector: Collector) -> None:
        self.collector = collector
        self.plan = plan
        exporter = main.exporter_of(Tracing(endpoint=f"{collector.url}/v1/traces"))
        self.tracer = main.Tracer(plan, Keys(), exporter, Resource.create({"service.name": "box"}))

    async def spans(self, count: int) -> list[Span]:
        self.tracer.read()
        async with asyncio.timeout(60):
            while len(self.collector.spans) < count:  # noqa: ASYNC110 - another thread fills it
                await asyncio.sleep(0.01)
        spans = self.collector.spans
        assert len(spans) == count
        assert not any(SECRET.encode() in body for body in self.collector.bodies)
        return spans


@pytest.fixture
def traced(forwarding: Forwarding) -> Iterator[Traced]:
    with Collector() as collector:
        made = Traced(forwarding.plan, collector)
        yield made
        made.tracer.outbox.close(5)


def tree(spans: Sequence[Span]) -> tuple[Span, list[Span]]:
    """The span of the request, and its children in the order of their starts. All are of one trace."""
    (server,) = [span for span in spans if span.kind == SERVER]
    children = sorted((span for span in spans if span is not server), key=lambda span: span.start)
    assert {span.trace_id for span in spans} == {SAMPLED.trace_id.hex()}
    assert server.parent_id == PARENT.hex()
    assert {child.parent_id for child in children} == {server.span_id}
    assert len({span.span_id for span in spans} | {PARENT.hex()}) == len(spans) + 1
    for child in children:
        assert server.start - 5e6 <= child.start <= child.end <= server.end + 5e6
    return server, children


def parents(engine: FakeUpstream) -> list[str]:
    """Of what the engine would send: the spans of the attempts."""
    sent = [request.headers["traceparent"].split("-") for request in engine.requests if "/chat" in request.path]
    assert {(one[1], one[3]) for one in sent} <= {(SAMPLED.trace_id.hex(), "01")}
    return [one[2] for one in sent]


async def test_plain_request(
    traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(chat_answer())
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)

    server, (attempt,) = tree(await traced.spans(2))

    assert (server.name, attempt.name, attempt.kind) == ("openai chat", "chat chat", CLIENT)
    assert server.attributes["http.response.status_code"] == 200
    assert (server.failed, attempt.failed) == (False, False)
    assert parents(engines[0]) == [attempt.span_id]
    assert engines[0].requests[0].headers["tracestate"] == "a=1"
    assert attempt.attributes["gen_ai.usage.output_tokens"] > 0
    assert attempt.attributes["gen_ai.provider.name"] == "vllm"
    assert attempt.attributes["server.port"] == engines[0].port
    assert server.resource["service.name"] == "box"


async def test_plain_stream(traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]) -> None:
    engines[0].answers(*chat_stream("o"))
    await forwarding.ask(OpenaiChat(), STREAM, Client(), trace=SAMPLED)

    server, (attempt,) = tree(await traced.spans(2))

    assert parents(engines[0]) == [attempt.span_id]
    assert attempt.attributes["gen_ai.request.stream"] is True
    assert attempt.attributes["berth.outcome"] == "ok"
    assert 0 < attempt.attributes["gen_ai.response.time_to_first_chunk"] * 1e9 <= attempt.end - attempt.start
    assert server.start <= attempt.start < attempt.end <= server.end


async def test_spans_have_the_names_of_keys_also_of_later_ones(
    traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(chat_answer())
    replace_file(traced.plan.paths.keys, Keys(api_keys=(ApiKey(name="alice", slot=0),)).to_json())
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)

    server, _ = tree(await traced.spans(2))

    assert server.attributes["berth.key"] == "alice"


async def test_fallback(traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]) -> None:
    engines[0].answers(error_answer("no", status=500))
    engines[1].answers(chat_answer())
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)

    server, attempts = tree(await traced.spans(3))

    assert [one.attributes["berth.replica"] for one in attempts] == ["chat-a", "chat-b"]
    assert [one.attributes["berth.fallback"] for one in attempts] == [False, True]
    assert [one.failed for one in attempts] == [True, False]
    assert (server.attributes["berth.fallback"], server.attributes["berth.attempts"], server.failed) == (True, 2, False)
    assert [parents(engine) for engine in engines] == [[one.span_id] for one in attempts]


async def test_continuation(traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]) -> None:
    engines[0].answers(stream_head(), chunk(chat_frame(role=True) + chat_frame("he") + chat_frame("ll")), RESET)
    engines[1].answers(*chat_stream("o"))
    await forwarding.ask(OpenaiChat(), STREAM, Client(), trace=SAMPLED)

    server, attempts = tree(await traced.spans(3))

    assert [one.attributes["berth.continuation"] for one in attempts] == [False, True]
    assert [one.attributes["berth.outcome"] for one in attempts] == ["cut", "ok"]
    assert (server.attributes["berth.continued"], server.attributes["berth.continued_at_token"]) == (True, 2)
    assert attempts[0].attributes["gen_ai.response.time_to_first_chunk"] >= 0
    assert [parents(engine) for engine in engines] == [[one.span_id] for one in attempts]


async def test_queue(traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]) -> None:
    first = [forwarding.ask(OpenaiChat(), CHAT, Client()) for _ in range(2)]
    await forwarding.ask_until_queued(engines, *first, forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED))
    server, (queue, attempt) = tree(await traced.spans(3))
    assert (queue.name, queue.kind) == ("queue", INTERNAL)
    assert queue.end <= attempt.start + 5e6
    assert not server.failed


async def test_what_is_not_sampled_has_no_span_and_engines_are_told(
    traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(chat_answer())
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED._replace(sampled=False))
    await forwarding.ask(OpenaiChat(), CHAT, Client())
    traced.tracer.read()
    traced.tracer.outbox.close(5)
    assert traced.collector.bodies == []
    unsampled, without = engines[0].requests
    assert unsampled.headers["traceparent"].endswith("-00")
    assert "traceparent" not in without.headers


async def test_state_counts_what_was_sent_and_what_was_lost(
    traced: Traced, forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(chat_answer())
    traced.collector.status = 400
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)
    await read_until(traced, lambda state: state.dropped == 2)
    traced.collector.status = 200
    await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)
    await read_until(traced, lambda state: (state.sent, state.dropped) == (2, 2))


async def read_until(traced: Traced, holds: Callable[[TracerState], bool]) -> None:
    path = traced.plan.paths.tracer
    async with asyncio.timeout(60):
        while not (path.exists() and holds(msgspec.json.decode(path.read_bytes(), type=TracerState))):
            traced.tracer.read()
            await asyncio.sleep(0.01)


class Stuck(SpanExporter):
    """A collector that does not respond, until it is freed."""

    def __init__(self) -> None:
        self.freed = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the interface
        self.freed.wait(10)
        return SpanExportResult.FAILURE


def test_stuck_collector_holds_up_nothing_and_the_oldest_spans_give_way() -> None:
    exporter = Stuck()
    outbox = main.Outbox(exporter)
    begun = time.monotonic()
    span = ReadableSpan(name="x")
    for _ in range(3):
        outbox.put([span] * main.QUEUED)
    assert time.monotonic() - begun < 5
    assert main.QUEUED <= outbox.dropped <= 2 * main.QUEUED
    exporter.freed.set()
    outbox.close(10)
    assert (outbox.sent, outbox.dropped) == (0, 3 * main.QUEUED)


async def test_runs_until_it_is_told_to_stop(
    forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(chat_answer())
    began, ended = threading.Event(), threading.Event()

    def wait(_: float) -> bool:
        began.set()
        return ended.wait(0.01)

    with Collector() as collector:
        exporter = main.exporter_of(Tracing(endpoint=f"{collector.url}/v1/traces"))
        running = asyncio.create_task(asyncio.to_thread(main.run, forwarding.plan, Keys(), exporter, wait))
        await asyncio.to_thread(began.wait, 10)
        await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)
        ended.set()
        await running
        assert len(collector.spans) == 2, "the last ones are sent too"


async def test_without_traces_in_the_plan_there_is_nothing_to_run(forwarding: Forwarding) -> None:
    write_plan(forwarding.plan)
    with pytest.raises(ControlError, match="set OTEL_EXPORTER_OTLP_ENDPOINT and start Berth again"):
        main.serve(forwarding.plan.paths.run_dir)


async def test_the_program_sends_spans_until_it_is_told_to_end(
    forwarding: Forwarding, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    with Collector() as collector:
        plan = replace(forwarding.plan, tracing=Tracing(endpoint=f"{collector.url}/v1/traces"))
        write_plan(plan)
        with started(plan) as program:
            while not collector.spans:  # what came before it looked at the journal is not its own
                assert program.poll() is None
                engines[0].answers(chat_answer())
                await forwarding.ask(OpenaiChat(), CHAT, Client(), trace=SAMPLED)
                await asyncio.sleep(0.1)
            program.terminate()
            assert await asyncio.to_thread(program.wait, 10) == 0
        assert {span.trace_id for span in collector.spans} == {SAMPLED.trace_id.hex()}


def write_plan(plan: Plan) -> None:
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())


@contextmanager
def started(plan: Plan) -> "Iterator[subprocess.Popen[bytes]]":
    """The program; killed where a test ends before it."""
    command = [sys.executable, "-m", "berth", "tracer", "--run-dir", plan.paths.run_dir]
    with subprocess.Popen(command) as program:
        try:
            yield program
        finally:
            program.kill()
