import json
import socket
import time
from typing import Any

import pytest

from berth.sim.options import PARAGRAPH
from tests.sim.harness import CHAT, Client, Reply, get, running, send_request

STREAM = {**CHAT, "stream": True}
DIALECTS = ("vllm", "sglang", "trtllm")
WORDS = ("The", " night", " train", " left")


def one(dialect: str, fault: str, body: dict[str, Any] | None = None, **changes: Any) -> Reply:
    """One request to an engine with one fault."""
    with running(dialect, fault, **changes) as server:
        return send_request(server.port, body=STREAM if body is None else body, silence_s=0.1)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
def test_every_dialect_generates_the_complete_text(dialect: str, stream: bool) -> None:
    with running(dialect) as server:
        reply = send_request(server.port, body={**CHAT, "stream": stream})
    assert reply.whole
    assert (reply.text if stream else reply.json["choices"][0]["message"]["content"]) == PARAGRAPH


@pytest.mark.parametrize(
    ("fault", "end", "whole", "said"),
    [
        ("cut-after=3", "closed", True, "".join(WORDS[:3])),
        ("close-after=3", "closed", False, "".join(WORDS[:3])),
        ("reset-after=3", "reset", False, "".join(WORDS[:3])),
        ("stall-after=3", "silent", False, "".join(WORDS[:3])),
        ("cut-after=0", "closed", True, ""),
        ("stall-after", "silent", False, ""),
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_stream_ends_after_n_tokens(fault: str, end: str, whole: bool, said: str, dialect: str) -> None:
    reply = one(dialect, fault)
    assert (reply.status, reply.end, reply.whole, reply.text) == (200, end, whole, said)
    assert b"[DONE]" not in reply.raw
    assert b'"finish_reason":"' not in reply.raw


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("reset-before", "reset"),
        ("reset-after=2", "reset"),
        ("hang-before", "silent"),
        ("stall-after=2", "silent"),
        ("cut-after=2", "closed"),
        ("close-after=2", "closed"),
        ("wedged", "silent"),
    ],
)
def test_failed_full_response_sends_nothing(fault: str, end: str) -> None:
    reply = one("vllm", fault, CHAT)
    assert (reply.raw, reply.end) == (b"", end)


def test_half_utf8_ends_inside_a_character() -> None:
    reply = one("vllm", "half-utf8")
    last = reply.body.rsplit(b"data: ", 1)[1]
    assert last.endswith(b'{"content":" caf\xc3')
    assert (reply.end, reply.whole) == ("closed", False)


def test_truncated_chunk_announces_more_than_it_sends() -> None:
    reply = one("vllm", "truncated-chunk=1")
    *_, size, got = reply.raw.split(b"\r\n")
    assert (len(got), reply.end) == (int(size, 16) // 2, "closed")
    assert got.startswith(b"data: {")


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_wrong_content_length_is_never_reached(body: dict[str, Any]) -> None:
    reply = one("vllm", "wrong-content-length=25", body)
    assert (reply.end, reply.whole) == ("closed", False)
    assert int(reply.headers["content-length"]) >= len(reply.body) + 25
    assert "transfer-encoding" not in reply.headers


@pytest.mark.parametrize(
    ("dialect", "status", "expected"),
    [
        ("vllm", 503, {"type": "Service Unavailable", "code": 503}),
        ("vllm", 500, {"type": "InternalServerError", "code": 500}),
        ("sglang", 429, {"object": "error", "type": "429", "code": 429}),
        ("trtllm", 400, {"object": "error", "type": "BadRequestError", "code": 400}),
        ("vllm", 599, {"type": "InternalServerError", "code": 599}),
    ],
)
def test_status_fault_has_the_dialects_error_shape(dialect: str, status: int, expected: dict[str, Any]) -> None:
    reply = one(dialect, f"status={status}")
    error = reply.json.get("error", reply.json)
    assert reply.status == status
    assert expected.items() <= error.items()


@pytest.mark.parametrize(
    ("dialect", "said", "frame"),
    [
        ("vllm", "The", b'data: {"error": {"message": "EngineCore encountered an issue.'),
        ("sglang", "The", b'data: {"error": {"object": "error", "message": "Internal server error"'),
    ],
)
def test_error_frame_comes_inside_a_stream_of_status_200(dialect: str, said: str, frame: bytes) -> None:
    reply = one(dialect, "error-frame=1")
    assert (reply.status, reply.text, reply.whole) == (200, said, True)
    assert reply.frames[-2].startswith(frame)
    assert reply.frames[-1] == b"data: [DONE]"


def test_failed_stream_of_tensorrt_llm_has_no_error_frame() -> None:
    reply = one("trtllm", "error-frame=1")
    assert (reply.status, reply.text, reply.whole, reply.end) == (200, "The", False, "closed")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_error_frame_is_a_500_for_a_full_response(dialect: str) -> None:
    assert one(dialect, "error-frame", CHAT).status == 500


def test_null_is_a_json_body_of_status_200() -> None:
    reply = one("trtllm", "null", CHAT)
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"null", "application/json")


def test_garbage_frame_comes_between_valid_ones() -> None:
    frames = one("vllm", "garbage-frame=1").frames
    engine_error = [index for index, frame in enumerate(frames[:-1]) if not frame.endswith(b"}")]
    assert engine_error == [2]
    assert json.loads(frames[3][6:])["choices"][0]["delta"] == {"content": " night"}


def test_full_response_with_garbage_is_cut() -> None:
    reply = one("vllm", "garbage-frame", CHAT)
    assert (reply.end, reply.whole) == ("closed", False)
    assert reply.body.startswith(b'{"id":"chatcmpl-')


def test_splits_chunks_across_frames() -> None:
    reply = one("vllm", "split=11")
    assert {len(chunk) for chunk in reply.chunks[:-1]} == {11}
    assert reply.text == PARAGRAPH


def test_joins_frames_in_chunks() -> None:
    reply = one("vllm", "join=3", {**STREAM, "max_tokens": 6})
    assert [chunk.count(b"data: ") for chunk in reply.chunks] == [3, 3, 2]
    assert reply.whole


def test_slow_drip_sends_byte_by_byte() -> None:
    with running("vllm", "slow-drip=100ms") as server, Client(server.port) as client:
        client.send("POST", "/v1/chat/completions", CHAT)
        assert client.socket.recv(100) == b"H"
        assert client.socket.recv(100) == b"T"


def test_fault_can_be_limited_to_the_next_requests() -> None:
    with running("vllm", "status=503@2") as server:
        get(server.port, "/health")
        assert [send_request(server.port, body=CHAT).status for _ in range(3)] == [503, 503, 200]


def test_sends_tokens_when_they_are_due() -> None:
    with running("vllm", ttft_s=1, itl_s=0.02) as server, Client(server.port) as client:
        started = time.monotonic()
        client.send("POST", "/v1/chat/completions", {**STREAM, "max_tokens": 11})
        assert client.socket.recv(64, socket.MSG_PEEK).startswith(b"HTTP/1.1 200 OK")
        head_s = time.monotonic() - started
        reply = client.read()
        whole_s = time.monotonic() - started
    assert head_s < 1
    assert whole_s >= 1.2
    assert reply.raw.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_full_response_takes_as_long_as_its_stream() -> None:
    with running("vllm", ttft_s=0.05, itl_s=0.01) as server:
        started = time.monotonic()
        send_request(server.port, body={**CHAT, "max_tokens": 16})
        assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(("dialect", "kind"), [("vllm", "Service Unavailable"), ("sglang", "503")])
def test_rejects_requests_if_the_queue_is_full(dialect: str, kind: str) -> None:
    with running(dialect, "stall-after=1@1", max_running=1, max_queued=0) as server, Client(server.port) as first:
        first.send("POST", "/v1/chat/completions", STREAM)
        first.socket.recv(10)
        reply = send_request(server.port, body=CHAT)
        assert (reply.status, (reply.json.get("error", reply.json))["type"]) == (503, kind)


def test_sglangs_full_queue_is_an_error_inside_a_stream() -> None:
    with running("sglang", "stall-after=1@1", max_running=1, max_queued=0) as server, Client(server.port) as first:
        first.send("POST", "/v1/chat/completions", STREAM)
        first.socket.recv(10)
        reply = send_request(server.port, body=STREAM)
    error = {"object": "error", "message": "The request queue is full.", "type": "SERVICE_UNAVAILABLE", "param": None}
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert reply.frames == [b"data: " + json.dumps({"error": {**error, "code": 503}}).encode(), b"data: [DONE]"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_queued_request_starts_when_a_client_disconnects(dialect: str) -> None:
    with running(dialect, "stall-after=1@1", max_running=1) as server, Client(server.port) as waiting:
        first = Client(server.port)
        first.send("POST", "/v1/chat/completions", STREAM)
        first.socket.recv(10)
        waiting.send("POST", "/v1/chat/completions", CHAT)
        wait_for(server.port, dialect, running=1, waiting=1)
        first.reset()
        assert waiting.read().status == 200
        wait_for(server.port, dialect, running=0, waiting=0)


def test_removes_disconnected_clients_from_the_queue() -> None:
    with running("vllm", "stall-after=1@1", max_running=1) as server, Client(server.port) as first:
        first.send("POST", "/v1/chat/completions", STREAM)
        first.socket.recv(10)
        second = Client(server.port)
        second.send("POST", "/v1/chat/completions", CHAT)
        wait_for(server.port, "vllm", running=1, waiting=1)
        second.reset()
        wait_for(server.port, "vllm", running=1, waiting=0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("call", [{"rid": "mine"}, {"rid": "", "abort_all": True}])
def test_sglang_aborts_on_request(call: dict[str, Any], stream: bool) -> None:
    with running("sglang", ttft_s=0.0, itl_s=0.05) as server, Client(server.port) as client:
        client.send("POST", "/v1/chat/completions", {**CHAT, "rid": "mine", "stream": stream, "ignore_eos": True})
        wait_for(server.port, "sglang", running=1, waiting=0)
        assert send_request(server.port, "/abort_request", {"rid": "unknown"}).body == b""
        assert send_request(server.port, "/abort_request", call).status == 200
        reply = client.read()
    assert reply.whole
    finish = json.loads(reply.frames[-2][6:]) if stream else reply.json
    assert (finish["choices"][0]["finish_reason"], finish["choices"][0]["matched_stop"]) == ("abort", None)


def test_aborted_completion_has_its_finish_reason() -> None:
    with running("sglang", itl_s=0.05) as server, Client(server.port) as client:
        body = {"prompt": "x", "max_tokens": 500, "ignore_eos": True, "stream": True, "rid": "mine"}
        client.send("POST", "/v1/completions", body)
        wait_for(server.port, "sglang", running=1, waiting=0)
        send_request(server.port, "/abort_request", {"rid": "mine"})
        assert json.loads(client.read().frames[-2][6:])["choices"][0]["finish_reason"] == "abort"


@pytest.mark.parametrize(
    ("fault", "body"), [("exit-after=2", CHAT), ("exit-after-tokens=5", {**STREAM, "max_tokens": 3})]
)
def test_exits_after_requests_or_tokens(fault: str, body: dict[str, Any]) -> None:
    exits: list[int] = []
    with running("vllm", fault) as server:
        server.engine.exit = exits.append
        assert send_request(server.port, body=body).whole
        assert exits == []
        send_request(server.port, body=body, silence_s=0.2)
        deadline = time.monotonic() + 2
        while not exits and time.monotonic() < deadline:
            get(server.port, "/version")
    assert exits == [1]


def test_exits_before_a_full_response_over_the_token_limit() -> None:
    exits: list[int] = []
    with running("vllm", "exit-after-tokens=5") as server:
        server.engine.exit = exits.append
        assert send_request(server.port, body={**CHAT, "max_tokens": 6}, silence_s=0.2).raw == b""
    assert exits == [1]


@pytest.mark.parametrize("fault", ["reset-after=0", "error-frame", "stall-after"])
def test_faults_apply_to_embeddings(fault: str) -> None:
    with running("vllm", fault, task="embed") as server:
        reply = send_request(server.port, "/v1/embeddings", {"input": "Hello"}, silence_s=0.2)
    assert reply.status in (0, 500)


def test_embeddings_share_the_queue() -> None:
    busy = running("sglang", "stall-after@1", max_running=1, max_queued=0, task="embed")
    with busy as server, Client(server.port) as first:
        first.send("POST", "/v1/embeddings", {"input": "Hello"})
        wait_for(server.port, "sglang", running=1, waiting=0)
        assert send_request(server.port, "/v1/embeddings", {"input": "Hello"}).status == 503


def wait_for(port: int, dialect: str, **stats: int) -> None:
    """Until the engine's own metrics say so."""
    deadline = time.monotonic() + 5
    while (seen := figures_of(port, dialect)) != stats:
        assert time.monotonic() < deadline, seen


def figures_of(port: int, dialect: str) -> dict[str, int]:
    if dialect == "trtllm":
        found = get(port, "/metrics").json or [{"numActiveRequests": 0, "numQueuedRequests": 0}]
        return {"running": found[0]["numActiveRequests"], "waiting": found[0]["numQueuedRequests"]}
    names = {"vllm": ("num_requests_running", "num_requests_waiting"), "sglang": ("num_running_reqs", "num_queue_reqs")}
    lines = [line for line in get(port, "/metrics").body.decode().splitlines() if not line.startswith("#")]
    values = [next(int(float(line.split()[-1])) for line in lines if name in line) for name in names[dialect]]
    return {"running": values[0], "waiting": values[1]}
