import os
import signal
from typing import Any

import pytest

from berth.sim.dialect import Route
from tests.sim.harness import CHAT, Client, get, running, send_request


@pytest.mark.parametrize(
    ("dialect", "path", "status", "body"),
    [
        ("vllm", "/health", 200, b""),
        ("vllm", "/ping", 200, b""),
        ("vllm", "/version", 200, b'{"version":"0.32.0"}'),
        ("vllm", "/load", 200, b'{"server_load":0}'),
        ("vllm", "/kv_event_sources", 200, b"{}"),
        ("vllm", "/v1/models/sim", 404, b'{"detail":"Not Found"}'),
        ("sglang", "/ready", 200, b""),
        ("sglang", "/", 200, b'"SGLang is running"'),
        ("sglang", "/v1/models/org/sim", 404, None),
        ("trtllm", "/health_generate", 200, b""),
        ("trtllm", "/version", 200, b'{"version":"1.2.1"}'),
        ("trtllm", "/v1/embeddings", 404, b'{"detail":"Not Found"}'),
        ("trtllm", "/metrics", 200, b"[]"),
        ("trtllm", "/prometheus/metrics", 200, None),
    ],
)
def test_serves_the_pages_of_each_dialect(dialect: str, path: str, status: int, body: bytes | None) -> None:
    with running(dialect) as server:
        reply = get(server.port, path)
    assert reply.status == status
    assert body in (None, reply.body)


@pytest.mark.parametrize(
    ("method", "path", "status", "header"),
    [
        ("GET", "/v1/chat/completions", 405, ("allow", "POST")),
        ("HEAD", "/health", 405, ("allow", "GET")),
        ("POST", "/v1/chat/completions/", 307, ("location", "http://sim/v1/chat/completions")),
        ("POST", "//v1/chat/completions", 404, ("content-length", "22")),
        ("GET", "/v1/models?x=1", 200, ("content-type", "application/json")),
        ("PUT", "/sim/faults", 405, ("allow", "GET, POST, DELETE")),
        ("GET", "/sim/nothing", 404, ("content-length", "22")),
    ],
)
def test_routes_like_fastapi(method: str, path: str, status: int, header: tuple[str, str]) -> None:
    with running() as server, Client(server.port) as client:
        client.send(method, path)
        reply = client.read(silence_s=0.2)
    assert (reply.status, reply.headers[header[0]]) == (status, header[1])


@pytest.mark.parametrize(
    ("dialect", "path", "healthy"),
    [("vllm", "/health", True), ("sglang", "/ready", True), ("trtllm", "/health", True), ("vllm", "/health", False)],
)
def test_unhealthy_serves_and_wedged_reports_healthy(dialect: str, path: str, healthy: bool) -> None:
    with running(dialect, "wedged" if healthy else "unhealthy") as server:
        assert get(server.port, path).status == (200 if healthy else 503)
        assert send_request(server.port, body=CHAT, silence_s=0.1).status == (0 if healthy else 200)


def test_wedged_engine_generates_no_token_for_health() -> None:
    with running("trtllm", "wedged") as server, Client(server.port) as client:
        client.send("GET", "/health_generate")
        assert client.read(silence_s=0.1).end == "silent"


def test_sglangs_generating_health_page_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.sim.handlers._HEALTH_TIMEOUT_S", 0.05)
    with running("sglang", "wedged") as server:
        assert get(server.port, "/health_generate").status == 503


@pytest.mark.parametrize(
    ("dialect", "path", "key", "status"),
    [
        ("vllm", "/v1/models", None, 401),
        ("vllm", "/v1/models", "wrong", 401),
        ("vllm", "/v1/models", "right", 200),
        ("vllm", "/health", None, 200),
        ("sglang", "/ping", None, 401),
        ("sglang", "/ready", None, 200),
        ("sglang", "/metrics", None, 200),
        ("trtllm", "/v1/models", None, 200),
    ],
)
def test_api_key_protects_the_engines_paths(dialect: str, path: str, key: str | None, status: int) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with running(dialect, api_key="right") as server, Client(server.port) as client:
        client.send("GET", path, headers=headers)
        assert client.read().status == status


def test_lists_sets_and_clears_faults_at_run_time() -> None:
    with running() as server:
        known = get(server.port, "/sim/faults").json
        assert (known["on"], "stall-after" in known["faults"]) == ({}, True)
        send_request(server.port, "/sim/faults", {"status": {"value": 500, "requests": 1}, "null": True})
        assert get(server.port, "/sim/faults").json["on"]["status"] == {"value": 500.0, "requests_left": 1}
        assert send_request(server.port, body=CHAT).status == 500
        assert set(send_request(server.port, "/sim/faults/null", method="DELETE").json["on"]) == set()
        assert send_request(server.port, body=CHAT).status == 200


@pytest.mark.parametrize("body", [b"", b"{", {"explode": 1}, ["null"]])
def test_rejects_invalid_faults(body: Any) -> None:
    with running() as server:
        reply = send_request(server.port, "/sim/faults", body)
    assert reply.status == 400
    assert reply.json["error"]


def test_crash_resets_connections_and_kills_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("berth.sim.engine.os.kill", lambda *call: killed.append(call))
    with running("sglang", task="embed") as server:
        assert send_request(server.port, body=CHAT).end == "reset"
    assert killed == [(os.getpid(), signal.SIGKILL)]
    assert "AttributeError: 'NoneType' object has no attribute 'next_token_ids'" in capfd.readouterr().err


def test_internal_error_is_a_500_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with running() as server:
        monkeypatch.setitem(server.engine.dialect.routes, "/boom", {"GET": Route.MODELS})
        monkeypatch.setattr(server.engine, "stats", lambda: 1 / 0)
        reply = get(server.port, "/boom")
    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_access_log_has_a_line_per_request(capfd: pytest.CaptureFixture[str]) -> None:
    with running(access_log=True) as server:
        get(server.port, "/health")
    assert '"GET /health HTTP/1.1" 200' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/abort_request", b"[]", "Internal Server Error"),
        ("/v1/detokenize", {"tokens": "x"}, "Input should be a valid list"),
    ],
)
def test_pages_reject_invalid_bodies(path: str, body: Any, message: str) -> None:
    with running("sglang") as server:
        assert message in send_request(server.port, path, body).body.decode()
