"""Requests that wait for an engine, judged by the official client and by what the engine gets to see."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.fakes.blocked_requests import BlockedRequests, await_true
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica
from tests.fakes.upstream import FakeUpstream, chat_answer, chat_stream

HELLO: Any = [{"role": "user", "content": "hello"}]


class Door:
    """A router of two workers in front of one engine that takes one request at a time."""

    def __init__(self, engine: FakeUpstream, run_dir: str, **limits: Any) -> None:
        plan = make_plan(run_dir, [replica("one-a", engine.url, concurrency=1)], limits=replace(LIMITS, **limits))
        plan = replace(plan, listen=replace(plan.listen, workers=2))
        publish(plan)
        self.engine = engine
        self.router = RouterProcess(plan)
        self.router.await_answer()

    def blocked(self) -> BlockedRequests:
        await_true(lambda: self.number("berth_requests_in_flight") == 0)
        return BlockedRequests(self.router.url, [self.engine])

    def number(self, metric: str, *labels: str) -> float:
        lines = httpx.get(f"{self.router.url}/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(metric + "{") and all(label in line for label in labels)]
        return sum(float(line.split()[-1]) for line in found)

    def await_waiting(self, number: int) -> None:
        self.router.await_true(lambda: self.number("berth_queue_length") == number)

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.router.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as engine:
        door = Door(engine, run_dir, queue_timeout_s=3, queue_size=3)
        yield door
        assert door.router.stop() == 0
    shutil.rmtree(run_dir)


def test_engine_never_exceeds_its_limit_and_all_requests_are_served(door: Door) -> None:
    with door.blocked() as blocked:
        answers = [blocked.send_and_wait("one"), *(blocked.send("one") for _ in range(3))]
        door.await_waiting(3)
        assert blocked.counts() == [1]
        blocked.go.set()
        assert [answer.result().status_code for answer in answers] == [200] * 4

    assert door.number("berth_queue_length") == 0
    assert door.number("berth_queue_wait_seconds_count") >= 3


def test_full_queue_rejects_with_retry_after(door: Door) -> None:
    with door.blocked() as blocked:
        blocked.send_and_wait("one")
        for _ in range(3):
            blocked.send("one")
        door.await_waiting(3)
        with pytest.raises(openai.RateLimitError, match="3 requests are queued already") as refused:
            door.client().chat.completions.create(model="one", messages=HELLO)

    assert refused.value.code == "queue_full"
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert door.number("berth_queue_refused_total", 'reason="full"') >= 1


def test_queue_timeout_error_has_the_position(door: Door) -> None:
    with door.blocked() as blocked:
        blocked.send_and_wait("one")
        late = blocked.send("one").result()

    assert late.status_code == 429
    assert "at position 1" in late.json()["error"]["message"]
    assert late.headers["retry-after"]


def test_disconnected_client_leaves_the_queue(door: Door) -> None:
    with door.blocked() as blocked:
        blocked.send_and_wait("one")
        with pytest.raises(openai.APITimeoutError):
            door.client().with_options(timeout=0.3).chat.completions.create(model="one", messages=HELLO)
        door.await_waiting(0)
        assert blocked.counts() == [1]


def test_higher_priority_is_served_first(door: Door) -> None:
    with door.blocked() as blocked:
        blocked.send_and_wait("one")
        slow = blocked.send("one", "later", x_priority="low")
        door.await_waiting(1)
        quick = blocked.send("one", "first", x_priority="high")
        door.await_waiting(2)
        blocked.go.set()
        assert (slow.result().status_code, quick.result().status_code) == (200, 200)

    assert {request.json["messages"][0]["content"] for request in door.engine.requests[1:]} == {"first", "later"}


def test_rejects_unknown_priority(door: Door) -> None:
    with pytest.raises(openai.BadRequestError, match="high, normal or low"):
        door.client().chat.completions.create(model="one", messages=HELLO, extra_headers={"x-priority": "now"})


@pytest.mark.slow
@pytest.mark.timeout(60)  # it waits for two heartbeats, and out the queue's time
def test_queued_stream_gets_heartbeats_until_it_fails_or_is_served() -> None:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as engine:
        door = Door(engine, run_dir, queue_timeout_s=7)
        with door.blocked() as blocked:
            engine.answers(*chat_stream("a", "b"))
            engine.answers_once(blocked.go, chat_answer())
            blocked.send_and_wait("one")
            with pytest.raises(openai.APIError, match="was at capacity for 7 s"):
                list(door.client().chat.completions.create(model="one", messages=HELLO, stream=True))

            body = {"model": "one", "messages": HELLO, "stream": True}
            with httpx.stream("POST", f"{door.router.url}/v1/chat/completions", json=body, timeout=30) as answer:
                lines = answer.iter_lines()
                assert [next(lines), next(lines)] == [": queued, position 1", ""]
                blocked.go.set()
                assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert door.number("berth_time_to_first_token_seconds_count") == 1
        assert door.router.stop() == 0
    shutil.rmtree(run_dir)
