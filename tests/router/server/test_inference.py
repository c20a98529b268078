"""What is refused before any engine is asked, and the documents, over a real connection."""

import http.client
import json
import socket

import httpx
import orjson
import pytest

from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import chat_answer, json_answer

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


def post(
    router_fixture: RouterFixture, content: bytes, path: str = "/v1/chat/completions", **headers: str
) -> httpx.Response:
    return httpx.post(f"{router_fixture.url}{path}", content=content, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'{"model": 7}',
        b'{"model": "chat", "messages": "x"}',
        b'{"model": "chat", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "chat", "messages": [{"role": "user", "content": "x"}], "temperature": "hot"}',
        b'{"model": "chat", "messages": ' + b"[" * 100_000,
        b'{"model": "chat", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xff\xfe",
    ],
)
def test_invalid_body_is_a_400(router_fixture: RouterFixture, body: bytes) -> None:
    answer = post(router_fixture, body)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]
    assert router_fixture.first.requests == []


def test_rejects_large_body_before_reading_it(router_fixture: RouterFixture) -> None:
    with socket.create_connection(("127.0.0.1", router_fixture.router.plan.listen.port), timeout=5) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577\r\n\r\n")
        head = client.recv(65536)

    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"BERTH_MAX_BODY allows 1048576" in head


@pytest.mark.parametrize("begun", [b"", b'{"model": '])
def test_incomplete_request_is_a_408(router_fixture: RouterFixture, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", router_fixture.router.plan.listen.port), timeout=10) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n" + begun)
        answer = client.recv(65536)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


def test_limits_chunked_body(router_fixture: RouterFixture) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", router_fixture.router.plan.listen.port, timeout=5)
    pieces = iter([b"x" * 65536] * 17)

    connection.request(
        "POST", "/v1/chat/completions", body=pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    answer = connection.getresponse()

    assert answer.status == 413
    assert orjson.loads(answer.read())["error"]["code"] == "request_too_large"
    connection.close()


def test_accepts_chunked_body(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer())
    body = orjson.dumps(CHAT)

    answer = httpx.post(f"{router_fixture.url}/v1/chat/completions", content=iter([body[:5], body[5:]]))

    assert answer.status_code == 200


def test_sends_100_continue(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer())
    body = orjson.dumps(CHAT)
    with socket.create_connection(("127.0.0.1", router_fixture.router.plan.listen.port), timeout=5) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        assert client.recv(1024).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert client.recv(1024).startswith(b"HTTP/1.1 200 ")


def test_counts_client_that_disconnects_during_its_request(router_fixture: RouterFixture) -> None:
    before = metric(router_fixture, 'berth_requests_total{model="",operation="chat",status="400"}')
    with socket.create_connection(("127.0.0.1", router_fixture.router.plan.listen.port), timeout=5) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")

    router_fixture.router.await_true(
        lambda: metric(router_fixture, 'berth_requests_total{model="",operation="chat",status="400"}') == before + 1
    )


def metric(router_fixture: RouterFixture, name: str) -> float:
    lines = httpx.get(f"{router_fixture.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


@pytest.mark.parametrize(
    ("given", "kept"), [("my-id.7", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)]
)
def test_keeps_the_clients_request_id_if_it_is_safe(router_fixture: RouterFixture, given: str, kept: bool) -> None:
    router_fixture.first.answers(chat_answer())

    answer = post(router_fixture, orjson.dumps(CHAT), **{"x-request-id": given})

    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/status", "/metrics", "/v1/models", "/v1/models/chat"])
def test_head_equals_get_without_body(router_fixture: RouterFixture, path: str) -> None:
    get, head = httpx.get(router_fixture.url + path), httpx.head(router_fixture.url + path)

    assert head.status_code == get.status_code
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":
        assert abs(int(head.headers["content-length"]) - len(get.content)) < 4  # /status has a time in it


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/ready", 503),
        ("/ready?model=chat", 200),
        ("/ready?model=gpt-4o-mini", 200),
        ("/ready?model=loading", 503),
        ("/ready?model=nix", 404),
        ("/v1/models/org%2Fembed", 200),
        ("/v1/models/org/embed", 200),
        ("/v1//models//chat/", 200),
        ("/v1/models/", 200),
        ("/v1/models/%ff%00", 404),
        ("/v1", 404),
    ],
)
def test_pages_respond_by_path(router_fixture: RouterFixture, path: str, status: int) -> None:
    answer = httpx.get(router_fixture.url + path)

    assert answer.status_code == status
    assert answer.json()


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/message", "/v1/messages"),
        ("/api/chats", "/api/chat"),
    ],
)
def test_unknown_path_error_lists_similar_paths(router_fixture: RouterFixture, path: str, near: str) -> None:
    answer = httpx.get(f"{router_fixture.url}{path}")

    assert answer.status_code == 404
    assert f"Similar paths: {near}" in answer.text
    assert "Ollama's is under /api" in answer.text


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["b", "a"], "a, b"),
        (["x\r\nset-cookie: a=b"], "x\\r\\nset-cookie: a=b"),
        (["\u4e16\u754c\ud83d\ude00"], "\\u4e16\\u754c\\U0001f600"),
        (["y" * 500], "y" * 60),
        (
            [f"f{number:02}" for number in range(50)],
            ", ".join(f"f{number:02}" for number in range(20)) + ", and 30 more",
        ),
    ],
)
def test_unknown_field_names_are_escaped_in_the_header(
    router_fixture: RouterFixture, names: list[str], shown: str
) -> None:
    router_fixture.first.answers(chat_answer())

    answer = post(router_fixture, json.dumps({**CHAT, **dict.fromkeys(names, 1)}).encode())

    assert answer.status_code == 200
    assert answer.headers["x-berth-ignored"] == shown
    assert "set-cookie" not in answer.headers


def test_wrong_method_error_lists_accepted_methods(router_fixture: RouterFixture) -> None:
    answer = httpx.delete(f"{router_fixture.url}/v1/completions")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_status_shows_the_published_state(router_fixture: RouterFixture) -> None:
    models = {model["name"]: model for model in httpx.get(f"{router_fixture.url}/status").json()["models"]}

    assert models["loading"]["replicas"][0]["progress"]["percent"] == 45.0
    assert models["failed"]["replicas"][0]["reason"] == "the model is not there"


def test_connection_serves_many_requests(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer())
    router_fixture.embedder.answers(json_answer({"object": "list", "model": "org/embed", "data": []}))
    with httpx.Client(base_url=router_fixture.url) as client:
        answers = [client.post("/v1/chat/completions", json=CHAT) for _ in range(3)]
        answers.append(client.get("/nix"))
        answers.append(client.post("/v1/embeddings", json={"model": "org/embed", "input": "x"}))

    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 200]
