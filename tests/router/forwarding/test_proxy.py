"""A request's way through the router, over real connections, where the client is not an SDK."""

import socket
import threading
import time
from typing import Any

import httpx
import orjson
import pytest

from tests.fakes.router import RouterProcess
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import (
    HANG,
    LAST_CHUNK,
    RESET,
    Step,
    chat_answer,
    chat_frame,
    chat_stream,
    chunk,
    error_answer,
    stream_head,
)

ERROR = b'data: {"error":'


def chat(model: str = "chat", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}


def ask(router_fixture: RouterFixture, body: dict[str, Any], path: str = "/v1/chat/completions") -> httpx.Response:
    return httpx.post(f"{router_fixture.url}{path}", json=body, timeout=10)


def connect(router: RouterProcess, body: dict[str, Any]) -> socket.socket:
    """A client that has sent a chat and reads as it likes."""
    content = orjson.dumps(body)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", router.plan.listen.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    client.sendall(head.encode() + content)
    return client


def read_until(client: socket.socket, marker: bytes) -> bytes:
    """What came up to the marker, or up to the end."""
    data = b""
    while marker not in data and (more := client.recv(65536)):
        data += more
    return data


def metric(router_fixture: RouterFixture, name: str, *labels: str) -> float:
    lines = httpx.get(f"{router_fixture.url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{") and all(f'="{label}"' in line for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((HANG,), id="while it waits for the head"),
        pytest.param((stream_head(), HANG), id="while it waits for a token"),
        pytest.param((stream_head(), chunk(chat_frame("a")), HANG), id="in the stream"),
        pytest.param((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", HANG), id="in a whole answer"),
    ],
)
def test_disconnect_of_client_closes_the_engine_connection(
    router_fixture: RouterFixture, steps: tuple[Step, ...]
) -> None:
    gone = metric(router_fixture, "berth_attempts_total", "stopped")
    router_fixture.first.answers(*steps)
    with connect(router_fixture.router, chat(stream=True)):
        assert router_fixture.first.arrived.wait(5)

    assert router_fixture.first.left.wait(5)
    router_fixture.router.await_true(lambda: metric(router_fixture, "berth_attempts_total", "stopped") == gone + 1)
    assert metric(router_fixture, "berth_requests_in_flight", "chat") == 0
    assert metric(router_fixture, "berth_replica_requests_in_flight", "chat-vllm") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_engine_connection_closes_within_100_ms(router_fixture: RouterFixture, stream: bool) -> None:
    """The best of several: the machine may be busy with something else."""
    router_fixture.first.answers(*((stream_head(), chunk(chat_frame("a"))) if stream else ()), HANG)

    assert min(until_let_go(router_fixture, chat(stream=stream)) for _ in range(5)) < 0.1


def until_let_go(router_fixture: RouterFixture, body: dict[str, Any]) -> float:
    """Seconds from the moment a client leaves."""
    router_fixture.first.arrived.clear()
    router_fixture.first.left.clear()
    with connect(router_fixture.router, body):
        assert router_fixture.first.arrived.wait(5)
    left_at = time.monotonic()
    assert router_fixture.first.left.wait(5)
    return time.monotonic() - left_at


def test_stalled_client_is_aborted_and_the_engine_connection_closed(router_fixture: RouterFixture) -> None:
    big = chunk(chat_frame("x" * 100_000))
    router_fixture.first.answers(stream_head(), *([big] * 400), HANG)
    with connect(router_fixture.router, chat(stream=True)):
        router_fixture.router.await_true(lambda: "client stalled, request aborted" in router_fixture.router.log)

    assert metric(router_fixture, "berth_requests_in_flight", "chat") == 0


def test_tokens_received_together_are_sent_together(router_fixture: RouterFixture) -> None:
    frames = b"".join(chat_frame(text) for text in "abc")
    router_fixture.first.answers(
        stream_head(), chunk(frames + chat_frame(finish="stop") + b"data: [DONE]\n\n"), LAST_CHUNK
    )

    answer = ask(router_fixture, chat(stream=True))

    assert answer.content == frames + chat_frame(finish="stop") + b"data: [DONE]\n\n"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_role_is_held_back_until_content_comes(router_fixture: RouterFixture) -> None:
    go = threading.Event()
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), go, *chat_stream("a")[2:])
    with connect(router_fixture.router, chat(stream=True)) as client:
        assert router_fixture.first.arrived.wait(5)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        go.set()
        client.settimeout(5)
        assert b'"role":"assistant"' in read_until(client, b"data: ")


@pytest.mark.parametrize("end", [LAST_CHUNK, HANG])
def test_complete_stream_needs_no_proper_end_of_connection(router_fixture: RouterFixture, end: Step) -> None:
    router_fixture.first.answers(*chat_stream("a")[:-1], end)

    answer = ask(router_fixture, chat(stream=True))

    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert ERROR not in answer.content


@pytest.mark.parametrize("end", [LAST_CHUNK, RESET])
def test_adds_missing_done_to_complete_stream(router_fixture: RouterFixture, end: Step) -> None:
    router_fixture.first.answers(*chat_stream("a")[:-2], end)

    answer = ask(router_fixture, chat(stream=True))

    assert answer.content.count(b"data: [DONE]\n\n") == 1
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert ERROR not in answer.content


def test_broken_stream_ends_with_error_and_without_done(router_fixture: RouterFixture) -> None:
    broken = metric(router_fixture, "berth_streams_broken_total", "chat")
    begun = threading.Event()
    router_fixture.first.answers(stream_head(), chunk(chat_frame("a")), begun, LAST_CHUNK)
    with connect(router_fixture.router, chat(stream=True)) as client:
        read_until(client, b'"a"')
        begun.set()
        rest = read_until(client, b"0\r\n\r\n")

    assert ERROR in rest
    assert b"[DONE]" not in rest
    assert metric(router_fixture, "berth_streams_broken_total", "chat") == broken + 1
    assert "stream broken" in router_fixture.router.log


def test_non_streaming_response_to_streamed_request_is_a_failure(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer())
    router_fixture.second.answers(*chat_stream("a"))

    assert ask(router_fixture, chat(stream=True)).headers["x-berth-replica"] == "chat-sglang"


def test_fallback_is_logged_and_counted(router_fixture: RouterFixture) -> None:
    before = metric(router_fixture, "berth_fallbacks_total", "chat-vllm")
    router_fixture.first.answers(error_answer("boom", status=500))
    router_fixture.second.answers(chat_answer())

    answer = ask(router_fixture, chat())

    line = next(line for line in router_fixture.router.log.splitlines() if answer.headers["x-request-id"] in line)
    assert "fallback" in line
    assert "from=chat-vllm to=chat-sglang outcome=engine reason=boom" in line
    assert metric(router_fixture, "berth_fallbacks_total", "chat-vllm") == before + 1


@pytest.mark.parametrize(
    ("first", "second", "status", "words"),
    [
        (error_answer("boom", status=500), error_answer("bang", status=500), 502, "chat-vllm: boom; chat-sglang: bang"),
        (error_answer("full", status=429), error_answer("busy", status=503), 429, "chat-vllm: full; chat-sglang: busy"),
    ],
)
def test_error_has_the_cause_of_each_attempt(
    router_fixture: RouterFixture, first: bytes, second: bytes, status: int, words: str
) -> None:
    router_fixture.first.answers(first)
    router_fixture.second.answers(second)

    answer = ask(router_fixture, chat())

    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-berth-attempts"] == "2"


def test_unsupported_request_falls_back(router_fixture: RouterFixture) -> None:
    """SGLang has no bad_words, vLLM has."""
    router_fixture.first.answers(error_answer("boom", status=500))
    alone = ask(router_fixture, chat("chat", bad_words=["x"]))
    router_fixture.first.answers(chat_answer())
    both = ask(router_fixture, chat("mixed", bad_words=["x"]))

    assert (alone.status_code, alone.headers["x-should-retry"]) == (502, "false")
    assert "chat-sglang: SGLang does not support 'bad_words'" in alone.json()["error"]["message"]
    assert (both.status_code, both.headers["x-berth-replica"], both.headers["x-berth-attempts"]) == (
        200,
        "mixed-vllm",
        "2",
    )


def test_engine_fault_reported_as_client_error_falls_back(router_fixture: RouterFixture) -> None:
    """TensorRT-LLM makes a 400 of every exception; only what reads like a validator's word is believed."""
    router_fixture.strict.answers(error_answer("CUDA error: an illegal memory access was encountered", status=400))
    router_fixture.first.answers(chat_answer())
    moved = ask(router_fixture, chat("mixed"))
    router_fixture.strict.answers(error_answer("temperature: input should be less than 2", status=400))
    refused = ask(router_fixture, chat("mixed"))

    assert (moved.status_code, moved.headers["x-berth-replica"]) == (200, "mixed-vllm")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (400, "false")
    assert len(router_fixture.first.requests) == 1


@pytest.mark.parametrize(
    "frame",
    [
        b'data: {"error": {"message": "The request queue is full.", "type": "SERVICE_UNAVAILABLE", "code": 503}}\n\n',
        b"data: null\n\n",
    ],
)
def test_error_in_stream_before_content_falls_back(router_fixture: RouterFixture, frame: bytes) -> None:
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), chunk(frame), LAST_CHUNK)
    router_fixture.second.answers(*chat_stream("a"))

    answer = ask(router_fixture, chat(stream=True))

    assert (answer.headers["x-berth-replica"], answer.headers["x-berth-attempts"]) == ("chat-sglang", "2")
    assert ERROR not in answer.content


def test_unreachable_engine_is_skipped(router_fixture: RouterFixture) -> None:
    router_fixture.second.answers(chat_answer())

    attempts = [ask(router_fixture, chat("limping")).headers["x-berth-attempts"] for _ in range(3)]

    assert attempts == ["2", "1", "1"]  # after the first it is asked last for a while


def test_model_with_unreachable_engines_is_503(router_fixture: RouterFixture) -> None:
    answer = ask(router_fixture, chat("dead"))

    assert answer.status_code == 503
    assert "dead-a: no connection" in answer.json()["error"]["message"]


def test_unsupported_request_error_names_field_and_engine(router_fixture: RouterFixture) -> None:
    answer = ask(router_fixture, chat("strict", regex="a+b", structured_outputs={"structural_tag": {"a": 1}}))

    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"]
    assert "strict-trtllm" in error["message"]
    assert router_fixture.strict.requests == []


@pytest.mark.parametrize(
    ("body", "path", "param"),
    [
        ({"model": "chat", "prompt": [5, 1000]}, "/v1/completions", "prompt"),
        ({"model": "chat", "prompt": "x", "logprobs": 1001}, "/v1/completions", "logprobs"),
        (chat("org/embed"), "/v1/chat/completions", "model"),
        ({"model": "chat", "input": "x"}, "/v1/embeddings", "model"),
    ],
)
def test_dangerous_requests_do_not_reach_engines(
    router_fixture: RouterFixture, body: dict[str, Any], path: str, param: str
) -> None:
    answer = ask(router_fixture, body, path)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert router_fixture.first.requests == router_fixture.second.requests == router_fixture.embedder.requests == []


def test_engines_get_the_request_id_but_not_the_clients_key(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer())
    headers = {"authorization": "Bearer secret", "x-request-id": "mine"}

    httpx.post(f"{router_fixture.url}/v1/chat/completions", json=chat(), headers=headers)

    seen = router_fixture.first.requests[0].headers
    assert seen["x-request-id"].startswith("mine")
    assert "authorization" not in seen


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_counted_at_the_end(router_fixture: RouterFixture, *, stream: bool) -> None:
    prompt = metric(router_fixture, "berth_tokens_total", "chat", "prompt")
    router_fixture.first.answers(*(chat_stream("a") if stream else (chat_answer(),)))

    ask(router_fixture, chat(stream=stream))

    assert metric(router_fixture, "berth_tokens_total", "chat", "prompt") == prompt + 3


def test_requests_do_not_wait_for_each_other(router_fixture: RouterFixture) -> None:
    go = threading.Event()
    router_fixture.first.answers_once(go, chat_answer("slow"))
    router_fixture.first.answers(chat_answer("quick"))
    with connect(router_fixture.router, chat()) as slow:
        assert router_fixture.first.arrived.wait(5)
        quick = ask(router_fixture, chat())
        go.set()
        assert b"slow" in slow.recv(65536)

    assert b"quick" in quick.content


def test_engine_restart_between_requests_fails_none(router_fixture: RouterFixture) -> None:
    """Its idle connections are dead: that is no lost request."""
    router_fixture.first.answers(chat_answer("again"))
    ask(router_fixture, chat())
    router_fixture.first.drop_connections()

    assert b"again" in ask(router_fixture, chat()).content
