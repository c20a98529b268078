import socket

import pytest

from tests.sim.harness import CHAT, Client, get, running


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_parses_requests_in_pieces_of_any_size(size: int) -> None:
    request = b'POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 17\r\n\r\n{"prompt":"Hello"'
    request = request.replace(b"17", b"18") + b"}"
    with running() as server, Client(server.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), size):
            client.socket.sendall(request[at : at + size])
        assert client.read().json["count"] == 1


def test_handles_pipelined_requests_in_order() -> None:
    line = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n"
    with running("vllm", "hang-before=50ms") as server, Client(server.port) as client:
        client.send("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 1})
        client.socket.sendall(line % b"/version" + line % b"/nowhere")
        raw = b""
        while b"Not Found" not in raw.split(b"version", 1)[-1]:
            raw += client.socket.recv(65536)
    assert raw.index(b"chat.completion") < raw.index(b'"version"') < raw.index(b'{"detail"')


@pytest.mark.parametrize(
    "request_line", [b"GET /version HTTP/1.0\r\n\r\n", b"GET /version HTTP/1.1\r\nconnection: close\r\n\r\n"]
)
def test_closes_the_connection_on_request(request_line: bytes) -> None:
    with running() as server, Client(server.port) as client:
        client.socket.sendall(request_line)
        assert client.socket.recv(1000).count(b"connection: close") == 1
        assert client.socket.recv(1000) == b""


def test_http_1_0_stream_is_not_chunked() -> None:
    body = b'{"messages":[{"role":"user","content":"Hello"}],"stream":true,"max_tokens":2}'
    head = b"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with running() as server, Client(server.port) as client:
        client.socket.sendall(head % len(body) + body)
        reply = client.read()
    assert (reply.status, reply.text, "transfer-encoding" in reply.headers) == (200, "The night", False)


def test_closes_idle_connections() -> None:
    with running(keep_alive_s=0.05) as server, Client(server.port) as client:
        client.send("GET", "/version")
        assert client.read().status == 200
        assert client.socket.recv(10) == b""


def test_responds_100_continue() -> None:
    with running() as server, Client(server.port) as client:
        client.socket.sendall(b"POST /tokenize HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.socket.sendall(b"{}")
        assert client.read().status == 200


def test_rejects_invalid_http() -> None:
    with running() as server, Client(server.port) as client:
        client.socket.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        reply = client.read()
    assert (reply.status, reply.body) == (400, b"Invalid HTTP request received.")


def test_upgrade_request_closes_the_connection() -> None:
    with running() as server, Client(server.port) as client:
        client.socket.sendall(b"GET /version HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert client.read(silence_s=1).end == "closed"


def test_slow_reader_delays_only_its_own_response() -> None:
    body = {**CHAT, "ignore_eos": True, "max_tokens": 1_500_000}
    with running(context=2_000_000) as server, Client(server.port) as lazy:
        lazy.send("POST", "/v1/chat/completions", body)
        lazy.socket.recv(1, socket.MSG_PEEK)
        assert get(server.port, "/version").status == 200
        head = lazy.socket.recv(1000, socket.MSG_PEEK)
        left = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]) + head.index(b"\r\n\r\n") + 4
        while left:
            left -= len(lazy.socket.recv(1 << 20))
