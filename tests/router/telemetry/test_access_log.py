"""The line of a request, and that lines are written together without mixing."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation, Usage
from berth.plan import Keys, Logs
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.request import RequestContext
from berth.router.response_store import ResponseFiles
from berth.router.server.api_routes import formats
from berth.router.telemetry.access_log import AccessLog, api_name, pieces
from tests.fakes.router import RouterProcess, make_plan, publish, replica, route
from tests.fakes.upstream import FakeUpstream, chat_answer, chat_stream

TEXT = Logs(requests=True)


async def call(**fields: Any) -> RequestContext:
    ctx = RequestContext(OpenaiChat(), "abc", InflightRequests().begin(None, None))  # type: ignore[arg-type] # never used
    ctx.accept(InferenceRequest(operation=Operation.CHAT, model="gpt", body={}), route("chat", ["chat-a"]))
    given: dict[str, Any] = {
        "served_by": replica("chat-a", "http://127.0.0.1:1"),
        "status": 200,
        "attempts": 2,
        "usage": Usage(prompt_tokens=3, completion_tokens=4),
    }
    for name, value in {**given, **fields}.items():
        setattr(ctx, name, value)
    return ctx


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is written, call by call."""
    writes: list[bytes] = []

    def write(_fd: int, data: bytes) -> int:
        writes.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    return writes


@pytest.mark.anyio
async def test_line_has_replica_and_usage(written: list[bytes]) -> None:
    log = AccessLog(TEXT)

    log.add(await call(first_token_s=0.01234), 1.5)
    log.flush()

    (line,) = written
    assert line.decode().partition(" router | ")[2] == (
        "request request=abc key=anonymous api=openai model=gpt replica=chat-a status=200 attempts=2 "
        "prompt_tokens=3 completion_tokens=4 first_token_s=0.012 duration_s=1.500 continued=False\n"
    )


@pytest.mark.anyio
async def test_json_line_is_an_object(written: list[bytes]) -> None:
    log = AccessLog(Logs(requests=True, format="json"))

    log.add(await call(served_by=None, continued=True), 1.23456)
    log.flush()

    line = json.loads(written[0])
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "program": "router",
        "event": "request",
        "request": "abc",
        "key": "anonymous",
        "api": "openai",
        "model": "gpt",
        "replica": "",
        "status": 200,
        "attempts": 2,
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "first_token_s": None,
        "duration_s": 1.235,
        "continued": True,
        "preempted": 0,
        "rule": "",
    }


@pytest.mark.anyio
async def test_request_id_is_quoted_and_masked(written: list[bytes]) -> None:
    log = AccessLog(TEXT)

    log.add(await call(request_id='a="b'), 1)
    log.add(await call(request_id="sk-0123456789abcdef", served_by=None), 1)
    log.flush()

    text = written[0].decode()
    assert r'request="a=\\"b"' in text.replace('\\"', '\\\\"')
    assert "request=sk-*** key=anonymous api=openai model=gpt replica=- " in text


APIS = {
    "openai": {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/responses/input_tokens"),
        *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
        *("/v1/images/generations", "/v1/moderations"),
    },
    "anthropic": {"/v1/messages", "/v1/messages/count_tokens"},
    "ollama": {"/api/chat", "/api/generate", "/api/embed", "/api/embeddings"},
    "rerank": {"/v1/rerank", "/v2/rerank", "/rerank"},
    "score": {"/v1/score", "/score", "/v1/classify", "/classify"},
    "tokenize": {"/v1/tokenize", "/tokenize", "/v1/detokenize", "/detokenize"},
    "tgi": {"/generate", "/generate_stream", "/"},
}


def test_every_path_has_its_api_name(tmp_path: Path) -> None:
    known = formats(ResponseFiles(tmp_path, writers=1, open_access=True))

    named = {path: api_name(type(api)) for path, api in known.items()}

    assert named == {path: name for name, paths in APIS.items() for path in paths}


def test_lines_are_batched_to_the_size_of_a_pipe_write() -> None:
    lines = [b"%03d" % number + b"x" * 996 + b"\n" for number in range(10)]

    found = list(pieces(iter(lines)))

    assert b"".join(found) == b"".join(lines)
    assert [len(piece) for piece in found] == [4000, 4000, 2000]


def test_writes_nothing_without_requests(written: list[bytes]) -> None:
    AccessLog(TEXT).flush()

    assert written == []


@pytest.mark.anyio
async def test_full_disk_loses_only_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []

    def fails(_fd: int, data: bytes) -> int:
        tried.append(data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fails)
    log = AccessLog(TEXT)
    log.add(await call(), 1)

    log.flush()
    log.flush()

    assert len(tried) == 1


@pytest.mark.parametrize(
    ("logs", "wanted"), [(TEXT, True), (Logs(), False), (Logs(requests=True, level="warning"), False)]
)
def test_enabled_by_settings(logs: Logs, wanted: bool) -> None:
    assert AccessLog(logs).enabled is wanted


@pytest.fixture(scope="module")
def router() -> Iterator[tuple[RouterProcess, FakeUpstream]]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as engine:
        plan = replace(make_plan(run_dir, [replica("chat-a", engine.url)]), logs=TEXT)
        publish(plan)
        router = RouterProcess(plan, Keys())
        router.await_answer()
        yield router, engine
        router.end()
    shutil.rmtree(run_dir)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("api", "path"), [("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")])
def test_router_writes_access_log(
    router: tuple[RouterProcess, FakeUpstream], api: str, path: str, stream: bool
) -> None:
    process, engine = router
    engine.answers(*(chat_stream("a", "b") if stream else (chat_answer(),)))
    said = [{"role": "user", "content": "hello"}]
    body = {"model": "chat", "messages": said, "stream": stream, "max_tokens": 9}

    answer = httpx.post(f"{process.url}{path}", json=body)

    request_id = answer.headers["x-request-id"]
    process.await_true(lambda: f"request={request_id}" in process.log)
    line = next(line for line in process.log.splitlines() if request_id in line)
    assert f" api={api} model=" in line
    assert f"replica=chat-a status=200 attempts=1 prompt_tokens=3 completion_tokens={1 + stream} " in line
    assert ("first_token_s=" in line) is stream
    assert "hello" not in line
