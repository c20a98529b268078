"""Engines that fail, and requests that wait, as Anthropic's official client sees them."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import pytest

from berth.plan import DialectName
from tests.fakes.blocked_requests import BlockedRequests
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    FakeUpstream,
    Request,
    Step,
    chat_answer,
    chat_frame,
    chat_stream,
    chunk,
    error_answer,
    sse,
    stream_head,
)

HELLO: Any = [{"role": "user", "content": "hello"}]


def client_of(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=10)


@pytest.fixture
def client(router_fixture: RouterFixture) -> Iterator[anthropic.Anthropic]:
    with client_of(router_fixture.url) as client:
        yield client


def streamed(client: anthropic.Anthropic, model: str) -> anthropic.types.Message:
    with client.messages.stream(model=model, max_tokens=200, messages=HELLO) as stream:
        return stream.get_final_message()


def test_overloaded_server_is_an_overloaded_error(router_fixture: RouterFixture, client: anthropic.Anthropic) -> None:
    router_fixture.first.answers(error_answer("full", status=503))
    router_fixture.second.answers(error_answer("full", status=429))

    with pytest.raises(anthropic.OverloadedError) as caught:
        streamed(client, "chat")

    assert caught.value.status_code == 529
    assert caught.value.response.headers["retry-after"]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((RESET,), id="killed"),
        pytest.param((error_answer("boom", status=500),), id="500"),
        pytest.param((stream_head(), chunk(chat_frame(role=True)), RESET), id="killed after the role"),
        pytest.param((stream_head(), chunk(sse({"error": {"message": "boom"}}))), id="error as the first frame"),
        pytest.param((stream_head(), LAST_CHUNK), id="empty stream"),
    ],
)
def test_failure_before_the_first_token_falls_back(
    router_fixture: RouterFixture, client: anthropic.Anthropic, steps: tuple[Step, ...]
) -> None:
    router_fixture.first.answers(*steps)
    router_fixture.second.answers(*chat_stream("a", "b"))

    assert streamed(client, "chat").content[0].to_dict()["text"] == "ab"


def test_failure_before_the_first_token_is_an_http_error_without_other_engine(
    router_fixture: RouterFixture, client: anthropic.Anthropic
) -> None:
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), RESET)

    with pytest.raises(anthropic.InternalServerError) as caught:
        streamed(client, "solo")

    assert caught.value.status_code == 502


@pytest.mark.parametrize(
    "end",
    [
        pytest.param((RESET,), id="killed"),
        pytest.param((CLOSE,), id="closed"),
        pytest.param((LAST_CHUNK,), id="ended without a finish_reason"),
        pytest.param((chunk(sse({"error": {"message": "boom"}})), LAST_CHUNK), id="error in the stream"),
        pytest.param((chunk(chat_frame("b")[:20]), CLOSE), id="cut in a frame"),
    ],
)
def test_broken_stream_is_an_error_and_never_looks_complete(
    router_fixture: RouterFixture, client: anthropic.Anthropic, end: tuple[Step, ...]
) -> None:
    begun = threading.Event()
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), chunk(chat_frame("a")), begun, *end)
    seen = []

    with client.messages.stream(model="chat", max_tokens=9, messages=HELLO) as stream:
        seen.append(next(stream.text_stream))
        begun.set()
        with pytest.raises(anthropic.APIStatusError, match="incomplete") as caught:
            seen += list(stream.text_stream)

    assert seen == ["a"]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "api_error"


def test_cut_stream_is_continued_as_one_message() -> None:
    def goes_on(request: Request) -> tuple[Step, ...]:
        begun = request.json["messages"][-1]["content"]
        return chat_stream(*{"one two": (" three", " four")}[begun])

    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as first, FakeUpstream() as second:
        twins = [replica("chat-a", first.url), replica("chat-b", second.url, dialect=DialectName.SGLANG)]
        plan = make_plan(run_dir, [replace(twin, weights="w") for twin in twins])
        publish(plan)
        router = RouterProcess(plan)
        router.await_answer()
        first.answers(stream_head(), chunk(chat_frame(role=True) + chat_frame("one") + chat_frame(" two")), RESET)
        second.answers_with(goes_on)
        with client_of(router.url) as client:
            answer = streamed(client, "chat")
        assert router.stop() == 0
    shutil.rmtree(run_dir)

    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "one two three four"}]
    assert (answer.id, answer.stop_reason) == ("msg_1", "end_turn")


@pytest.fixture
def narrow() -> Iterator[Callable[[], tuple[RouterProcess, FakeUpstream]]]:
    """A router in front of one engine that takes one request at a time."""
    with ExitStack() as stack:

        def start() -> tuple[RouterProcess, FakeUpstream]:
            run_dir = tempfile.mkdtemp(prefix="br-")
            stack.callback(shutil.rmtree, run_dir)
            engine = stack.enter_context(FakeUpstream())
            limits = replace(LIMITS, queue_timeout_s=30, first_token_timeout_s=30)
            plan = make_plan(run_dir, [replica("one-a", engine.url, concurrency=1)], limits=limits)
            publish(plan)
            router = RouterProcess(plan)
            stack.callback(router.end)
            router.await_answer()
            return router, engine

        yield start


@pytest.mark.slow
def test_queued_stream_gets_pings(
    narrow: Callable[[], tuple[RouterProcess, FakeUpstream]],
) -> None:
    router, engine = narrow()
    wanted = {"model": "one", "max_tokens": 9, "messages": HELLO, "stream": True}
    with BlockedRequests(router.url, [engine]) as blocked:
        engine.answers(*chat_stream("a", "b"))
        engine.answers_once(blocked.go, chat_answer())
        blocked.send_and_wait("one")
        with httpx.stream("POST", f"{router.url}/v1/messages", json=wanted, timeout=30) as answer:
            lines = answer.iter_lines()
            first = [next(lines) for _ in range(4)]
            blocked.go.set()
            rest = [line for line in lines if line.startswith("event: ")]

    assert first == [": queued, position 1", "", "event: ping", 'data: {"type":"ping"}']
    assert rest[0] == "event: message_start"
    assert rest[-1] == "event: message_stop"


@pytest.mark.slow
def test_client_ignores_pings(narrow: Callable[[], tuple[RouterProcess, FakeUpstream]]) -> None:
    router, engine = narrow()
    with BlockedRequests(router.url, [engine]) as blocked, client_of(router.url) as client:
        engine.answers(*chat_stream("a", "b"))
        engine.answers_once(blocked.go, chat_answer())
        blocked.send_and_wait("one")
        with client.messages.stream(model="one", max_tokens=9, messages=HELLO) as stream:  # begins with a ping
            blocked.go.set()
            assert stream.get_final_message().content[0].to_dict()["text"] == "ab"
