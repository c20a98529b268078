"""Requests whose engine makes room for another model, judged by the official clients: streams go on when it is back."""

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from berth.ipc.journal import Names, Reader
from berth.plan import Load, Logs
from berth.state import ReplicaStatus
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state, route
from tests.fakes.streaming_clients import APIS, PATIENCE_S, all_of, chat
from tests.fakes.upstream import HANG, FakeUpstream, Request, Step, chat_answer, chunk, stream_head
from tests.router.clients.test_continuation import HELLO, PIECES, PROMPT_TOKENS, TEXT, frames, goes_on

pytestmark = pytest.mark.timeout(180)
NAME = "chat-vllm"
SAID = 3  # pieces before the preemption
STREAMING = {"model": "chat", "messages": HELLO, "stream": True}


def until(check: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < ends
        time.sleep(0.02)


class Box:
    """Two router workers in front of one engine, whose model takes turns with others."""

    def __init__(self, engine: FakeUpstream, run_dir: str) -> None:
        shared = replace(route("chat", [NAME]), load=Load.ON_REQUEST, room={0: 600})
        limits = replace(LIMITS, first_token_timeout_s=30, token_timeout_s=30, queue_timeout_s=60, queue_size=6)
        plan = make_plan(run_dir, [replica(NAME, engine.url, vocab_size=1000)], [shared], limits)
        listen = replace(plan.listen, workers=2)
        self.plan = replace(plan, listen=listen, room={0: 1000}, logs=Logs(requests=True))
        publish(self.plan)
        self.engine = engine
        self.router = RouterProcess(self.plan)
        self.router.await_answer(PATIENCE_S)
        self.url = self.router.url

    def becomes(self, status: ReplicaStatus, **fields: Any) -> None:
        publish(self.plan, replica_state(NAME, status, **fields))

    def is_back(self) -> None:
        self.becomes(ReplicaStatus.READY)
        until(lambda: "ready" in httpx.get(f"{self.url}/ready").text)

    def leaves(self, *, requests: int) -> None:
        """For another model, whatever its requests do."""
        self.becomes(ReplicaStatus.DRAINING, requested="unloaded", preempts=True)
        until(lambda: self.number("berth_replica_requests_in_flight") == 0)
        until(lambda: self.number("berth_queue_length") == requests)

    def number(self, metric: str, *labels: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(metric + "{") and all(label in line for label in labels)]
        return sum(float(line.split()[-1]) for line in found)

    def outcomes(self) -> dict[str, float]:
        """Once all requests are over: they are counted after their clients have the end."""
        until(lambda: self.number("berth_requests_in_flight") == 0)
        kinds = ("continued", "again", "ended", "stopped")
        return {kind: self.number("berth_requests_preempted_total", f'outcome="{kind}"') for kind in kinds}


@pytest.fixture(scope="module")
def shared_box() -> Iterator[Box]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as engine:
        box = Box(engine, run_dir)
        yield box
        assert box.router.stop() == 0
    shutil.rmtree(run_dir)


@pytest.fixture
def box(shared_box: Box) -> Box:
    shared_box.engine.forget()
    shared_box.engine.answers_with(says_some)
    shared_box.is_back()
    return shared_box


def says_some(request: Request) -> tuple[Step, ...]:
    """The beginning of an answer, and nothing more; what continues one ends it."""
    chat = "messages" in request.json
    continues = request.path == "/tokenize" or request.json.get("continue_final_message")
    if continues or request.json.get("prompt", "hello") != "hello":
        return goes_on(request)
    return stream_head(), chunk(frames(PIECES[:SAID], chat=chat, end=False)), HANG


def test_streams_of_all_apis_go_on_when_their_model_is_back(box: Box) -> None:
    """More of them than the queue has places: they have theirs."""
    before, asks = box.outcomes(), [api(box.url) for api in APIS.values()]

    def swap() -> None:
        box.leaves(requests=len(asks))
        box.becomes(ReplicaStatus.UNLOADED, requested="unloaded")
        box.becomes(ReplicaStatus.STARTING, requested="loaded")
        box.is_back()

    answers = asyncio.run(all_of(asks, swap))

    assert dict(zip(APIS, answers, strict=True)) == dict.fromkeys(APIS, TEXT)
    assert box.outcomes()["continued"] == before["continued"] + len(asks)
    assert {request.json.get("max_tokens", 0) for request in box.engine.requests} <= {0, 97, 100, 397, 400}


def test_streams_that_cannot_be_continued_end_with_the_error_of_their_api(box: Box) -> None:
    def unclear(request: Request) -> tuple[Step, ...]:
        pieces = ["once ", "\ufffd", "upon"]  # it may stand for any bytes
        return stream_head(), chunk(frames(pieces, chat="messages" in request.json, end=False)), HANG

    box.engine.answers_with(unclear)
    before, asks = box.outcomes(), [api(box.url) for api in APIS.values()]

    answers = asyncio.run(all_of(asks, lambda: box.leaves(requests=0)))

    assert [one for one in answers if "cannot be continued (bytes)" not in str(one)] == []
    assert [one for one in answers if not isinstance(one, Exception)] == []
    assert box.outcomes()["ended"] == before["ended"] + len(asks)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n": 2}, "choices"),
        ({"seed": 1}, "seed"),
        ({"response_format": {"type": "json_object"}}, "constraint"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, "tools"),
    ],
)
def test_what_prevents_a_continuation_is_told(box: Box, fields: dict[str, Any], reason: str) -> None:
    (answer,) = asyncio.run(all_of([chat(box.url, **fields)], lambda: box.leaves(requests=0)))

    assert isinstance(answer, openai.APIError)
    assert (answer.code, f"cannot be continued ({reason})" in str(answer)) == ("preempted", True)
    assert "made room for another model" in str(answer)


def test_it_may_be_preempted_again_and_its_usage_is_counted_once(box: Box) -> None:
    def in_parts(request: Request) -> tuple[Step, ...]:
        if request.path == "/tokenize" or not request.json.get("continue_final_message"):
            return says_some(request)
        said = request.json["messages"][-1]["content"]
        if len(said) > 5 * SAID:
            return goes_on(request)
        return stream_head(), chunk(frames([TEXT[len(said) : len(said) + 5]], end=False)), HANG

    box.engine.answers_with(in_parts)
    before, tokens = box.outcomes(), {kind: box.number("berth_tokens_total", kind) for kind in ("prompt", "completion")}

    heard: list[str] = []

    async def listened() -> AsyncIterator[str]:
        async for text in chat(box.url):
            heard.append(text)
            yield text

    def swap_twice() -> None:
        for count in (SAID, SAID + 1):
            until(lambda count=count: len("".join(heard)) == 5 * count)  # type: ignore[misc]
            box.leaves(requests=1)
            box.is_back()

    (answer,) = asyncio.run(all_of([listened()], swap_twice))

    assert answer == TEXT
    assert box.outcomes()["continued"] == before["continued"] + 2
    said = 5 * (SAID + 1)
    pieces = 2  # of the last engine's answer
    assert box.number("berth_tokens_total", "prompt") == tokens["prompt"] + PROMPT_TOKENS - said // 5
    assert box.number("berth_tokens_total", "completion") == tokens["completion"] + pieces + said // 5


def test_continuation_that_is_preempted_before_it_says_anything_waits_again(box: Box) -> None:
    asked = threading.Event()

    def silent_at_first(request: Request) -> tuple[Step, ...]:
        if request.path == "/tokenize" or not request.json.get("continue_final_message") or asked.is_set():
            return says_some(request)
        asked.set()
        return stream_head(), HANG

    box.engine.answers_with(silent_at_first)
    before = box.outcomes()

    def swap_twice() -> None:
        box.leaves(requests=1)
        box.is_back()
        assert asked.wait(PATIENCE_S)
        box.leaves(requests=1)
        box.is_back()

    (answer,) = asyncio.run(all_of([chat(box.url)], swap_twice))

    assert answer == TEXT
    assert box.outcomes()["continued"] == before["continued"] + 1


def test_stream_of_which_only_the_end_is_missing_needs_no_engine(box: Box) -> None:
    before = box.outcomes()

    (answer,) = asyncio.run(all_of([chat(box.url, max_tokens=SAID)], lambda: box.leaves(requests=0)))

    assert answer == "".join(PIECES[:SAID])
    assert box.outcomes()["continued"] == before["continued"] + 1


def test_waiting_client_gets_heartbeats_and_everybody_sees_that_it_was_preempted(box: Box) -> None:
    with httpx.stream("POST", f"{box.url}/v1/chat/completions", json=STREAMING, timeout=PATIENCE_S) as answer:
        parts = answer.iter_text()
        text = next(parts)
        request_id = answer.headers["x-request-id"]
        box.leaves(requests=1)
        while ": model loading" not in text:
            text += next(parts)
        reader = Reader(box.plan.paths.journal, Names(box.plan, ()))
        until(lambda: [one.phase for one in running(reader, request_id)] == ["queued"])
        assert {"preempted", "stream"} <= set(running(reader, request_id)[0].flags)
        box.is_back()
        text += "".join(parts)

    assert f": berth continues {NAME} at token {SAID}" in text
    assert text.endswith("data: [DONE]\n\n")
    until(lambda: f"| request request={request_id}" in box.router.log)
    (line,) = (line for line in box.router.log.splitlines() if f"| request request={request_id}" in line)
    assert " preempted=1" in line
    assert f"stream preempted request={request_id} model=chat replica={NAME} at_token={SAID}" in box.router.log
    reader.close()


def running(reader: Reader, request_id: str) -> list[Any]:
    return [one for row in range(8) for one in reader.running([row]) if one.request_id == request_id]


def test_client_that_leaves_meanwhile_is_no_demand_any_more(box: Box) -> None:
    before = box.outcomes()
    with httpx.stream("POST", f"{box.url}/v1/chat/completions", json=STREAMING, timeout=PATIENCE_S) as answer:
        parts = answer.iter_text()
        next(parts)
        box.leaves(requests=1)
    until(lambda: box.number("berth_queue_length") == 0)
    assert box.outcomes()["stopped"] == before["stopped"] + 1


@pytest.mark.parametrize(
    ("state", "headers", "code"),
    [
        ({"status": ReplicaStatus.FAILED, "reason": "out of GPU memory"}, {}, "model_failed"),
        ({"status": ReplicaStatus.UNLOADED, "no_room": "GPU 0: held by b, pinned", "obstructed": True}, {}, "no_room"),
        (None, {"x-berth-load": "no"}, "model_loading"),
        (None, {"x-berth-wait": "1s"}, "model_loading"),
    ],
)
def test_model_that_does_not_come_back_ends_the_stream(
    box: Box, state: dict[str, Any] | None, headers: dict[str, str], code: str
) -> None:
    before = box.outcomes()

    def gone() -> None:
        if state is None:
            box.leaves(requests=0)
        else:
            box.leaves(requests=1)
            box.becomes(**state)

    (answer,) = asyncio.run(all_of([chat(box.url, extra_headers=headers)], gone))

    assert isinstance(answer, openai.APIError)
    assert answer.code == code
    assert box.outcomes()["ended"] == before["ended"] + 1


def test_whole_answer_is_made_again_but_not_for_ever(box: Box) -> None:
    before, begun = box.outcomes(), threading.Event()

    def hangs(_: Request) -> tuple[Step, ...]:
        begun.set()
        return (HANG,)

    box.engine.answers_with(hangs)
    answers: list[httpx.Response] = []
    body = {"model": "chat", "messages": HELLO}

    def post() -> None:
        answers.append(httpx.post(f"{box.url}/v1/chat/completions", json=body, timeout=PATIENCE_S))

    for again in (True, False):
        begun.clear()
        thread = threading.Thread(target=post)
        thread.start()
        assert begun.wait(PATIENCE_S)
        box.leaves(requests=1)
        begun.clear()
        if again:
            box.engine.answers(chat_answer("hello"))
        box.is_back()
        if not again:
            assert begun.wait(PATIENCE_S)
            box.leaves(requests=0)
        thread.join(PATIENCE_S)
        box.engine.answers_with(hangs)
        box.is_back()

    first, second = answers
    assert (first.status_code, first.json()["choices"][0]["message"]["content"]) == (200, "hello")
    assert (second.status_code, second.json()["error"]["code"]) == (503, "preempted")
    after = box.outcomes()
    assert (after["again"] - before["again"], after["ended"] - before["ended"]) == (2, 1)


def test_request_without_an_answer_yet_is_only_queued_again(box: Box) -> None:
    begun = threading.Event()

    def silent(_: Request) -> tuple[Step, ...]:
        begun.set()
        return stream_head(), HANG

    box.engine.answers_with(silent)

    def swap() -> None:
        assert begun.wait(PATIENCE_S)
        box.leaves(requests=1)
        box.engine.answers(stream_head(), chunk(frames(PIECES)), b"0\r\n\r\n")
        box.is_back()

    thread = threading.Thread(target=swap)
    thread.start()
    (answer,) = asyncio.run(all_of([chat(box.url)], lambda: None))
    thread.join(PATIENCE_S)
    assert answer == TEXT
