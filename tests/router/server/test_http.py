"""HTTP as clients of all kinds speak it: encodings, broken bodies, upgrades, unusual methods, and what is too long."""

import gzip
import socket
import zlib
from typing import Any

import httpx
import orjson
import pytest
from backports import zstd

from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import chat_answer

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
CHAT_PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat", "/generate")


def exchange(router_fixture: RouterFixture, *parts: bytes, half_close: bool = False) -> tuple[int, Any]:
    """The status and the document of one response to these bytes."""
    port = router_fixture.router.plan.listen.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for part in parts:
            client.sendall(part)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        response = b""
        while b"\r\n\r\n" not in response or not response.endswith(b"}"):
            received = client.recv(1 << 16)
            assert received, response
            response += received
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), orjson.loads(body)


def head(path: str, *headers: bytes, method: bytes = b"POST") -> bytes:
    lines = [method + b" " + path.encode() + b" HTTP/1.1", b"host: x", b"content-type: application/json", *headers]
    return b"\r\n".join([*lines, b"", b""])


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(orjson.dumps(CHAT), mtime=0)),
        ("deflate", zlib.compress(orjson.dumps(CHAT))),
        ("zstd", zstd.compress(orjson.dumps(CHAT))),
        ("gzip, zstd", zstd.compress(gzip.compress(orjson.dumps(CHAT), mtime=0))),
        ("identity", orjson.dumps(CHAT)),
    ],
)
def test_reads_encoded_bodies(router_fixture: RouterFixture, encoding: str, body: bytes) -> None:
    router_fixture.first.answers(chat_answer())

    for content in (body, (bytes([byte]) for byte in body)):  # with its length, and in chunks
        answer = httpx.post(
            f"{router_fixture.url}/v1/chat/completions", content=content, headers={"content-encoding": encoding}
        )
        assert answer.status_code == 200, answer.text

    assert router_fixture.first.requests[-1].json["messages"] == CHAT["messages"]


@pytest.mark.parametrize("path", CHAT_PATHS)
@pytest.mark.parametrize(
    ("encoding", "body", "error"),
    [
        ("br", b"\x0b\x02\x80{}\x03", (415, "br")),
        ("gzip", b"{}", (400, "gzip")),
        ("gzip", gzip.compress(orjson.dumps(CHAT), mtime=0)[:-3], (400, "gzip")),
        ("zstd", zstd.compress(bytes(50 << 20)), (413, "BERTH_MAX_BODY")),
    ],
)
def test_rejects_what_it_cannot_decode(
    router_fixture: RouterFixture, path: str, encoding: str, body: bytes, error: tuple[int, str]
) -> None:
    status, text = error
    answer = httpx.post(router_fixture.url + path, content=body, headers={"content-encoding": encoding})

    expected = 422 if path == "/generate" and status == 400 else status  # TGI's own
    assert (answer.status_code, text in str(answer.json()["error"])) == (expected, True)
    assert (answer.headers.get("accept-encoding") == "gzip, deflate, zstd") is (status == 415)


@pytest.mark.parametrize("path", CHAT_PATHS)
@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b'5\r\n{"moxx\r\n0\r\n\r\n',
        b"fffffffffffffffff\r\n",
        b"1;" + b"x" * 100_000 + b"\r\n{",
    ],
)
def test_broken_chunks_are_a_400_in_the_shape_of_the_api(
    router_fixture: RouterFixture, path: str, chunks: bytes
) -> None:
    status, document = exchange(router_fixture, head(path, b"transfer-encoding: chunked"), chunks)

    assert status == (422 if path == "/generate" else 400)
    assert "chunks are invalid" in str(document["error"])


def test_a_body_that_ends_too_early_is_a_400(router_fixture: RouterFixture) -> None:
    status, document = exchange(
        router_fixture, head("/v1/chat/completions", b"content-length: 100"), b"{", half_close=True
    )

    assert (status, document["error"]["type"]) == (400, "invalid_request_error")
    assert "after 1 bytes" in document["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/realtime", "/"])
def test_a_websocket_handshake_is_a_426(router_fixture: RouterFixture, path: str) -> None:
    handshake = {"connection": "Upgrade", "upgrade": "WebSocket", "sec-websocket-version": "13"}

    answer = httpx.get(
        router_fixture.url + path, headers={**handshake, "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
    )

    assert (answer.status_code, answer.headers["upgrade"]) == (426, "HTTP/1.1")
    assert "WebSocket" in str(answer.json()["error"])


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("OPTIONS", "/v1/models", 204, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/v1/chat/completions/", 204, "OPTIONS, POST"),
        ("OPTIONS", "/v1/responses/resp_1", 204, "DELETE, GET, HEAD, OPTIONS"),
        ("OPTIONS", "/nothing", 404, None),
        ("HEAD", "/v1/chat/completions", 405, "POST"),
        ("TRACE", "/v1/models", 405, "GET, HEAD"),
        ("BREW", "/v1/messages", 405, "POST"),
        ("PUT", "/nothing", 404, None),
    ],
)
def test_methods(router_fixture: RouterFixture, method: str, path: str, status: int, allow: str | None) -> None:
    answer = httpx.request(method, router_fixture.url + path)

    assert answer.status_code == status
    allowed = answer.headers.get("allow")
    assert (allowed and ", ".join(sorted(allowed.split(", ")))) == allow
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "content_type", ["", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "application/vnd.api+json"]
)
def test_json_is_read_under_the_default_types_of_programs(router_fixture: RouterFixture, content_type: str) -> None:
    router_fixture.first.answers(chat_answer())

    answer = httpx.post(
        f"{router_fixture.url}/v1/chat/completions", content=orjson.dumps(CHAT), headers={"content-type": content_type}
    )

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "application/xml", "image/png", "x" * 9000]
)
def test_other_content_types_are_a_415(router_fixture: RouterFixture, content_type: str) -> None:
    answer = httpx.post(
        f"{router_fixture.url}/v1/chat/completions", content=orjson.dumps(CHAT), headers={"content-type": content_type}
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert len(answer.content) < 1000


HUGE = "x" * 700_000


@pytest.mark.parametrize("path", CHAT_PATHS)
@pytest.mark.parametrize(
    "body",
    [
        {"model": HUGE},
        {"model": "chat", HUGE: 1},
        {"model": "chat", "messages": [{"role": HUGE, "content": "x"}]},
        {"model": "chat", "messages": [{"role": "user", "content": [{"type": HUGE}]}]},
        {"model": "chat", "input": [{"type": HUGE, "role": HUGE, "id": HUGE}]},
        {"model": "chat", "tools": [{"type": HUGE, "name": HUGE, "function": {"name": HUGE, "parameters": HUGE}}]},
        {"model": "chat", "tool_choice": {"type": "function", "name": HUGE, "function": {"name": HUGE}}},
        {"model": "chat", "response_format": {"type": HUGE}, "format": HUGE},
        {"model": "chat", "previous_response_id": HUGE, "input": "x"},
        {"model": "chat", "stop": [HUGE], "user": HUGE, "reasoning_effort": HUGE, "service_tier": HUGE},
    ],
)
def test_no_response_repeats_what_is_too_long(router_fixture: RouterFixture, path: str, body: dict[str, Any]) -> None:
    router_fixture.first.answers(chat_answer())
    defaults = {"messages": CHAT["messages"], "max_tokens": 1, "inputs": "x", "input": "x", "stream": False}

    answer = httpx.post(router_fixture.url + path, json={**defaults, **body})

    size = sum(len(name) + len(value) for name, value in answer.headers.items())
    echoed = path == "/v1/responses" and answer.status_code == 200  # returns the settings of its request, as OpenAI's
    assert size < 5000
    assert echoed or len(answer.content) < 20_000


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/responses/", "/models/", "/nothing/"])
def test_no_error_repeats_a_path_that_is_too_long(router_fixture: RouterFixture, path: str) -> None:
    answer = httpx.get(router_fixture.url + path + "x" * 30_000)

    assert answer.status_code in {404, 405}
    assert len(answer.content) < 2000


def test_the_log_has_no_long_lines_of_clients(router_fixture: RouterFixture) -> None:
    assert "x" * 1000 not in router_fixture.router.log
