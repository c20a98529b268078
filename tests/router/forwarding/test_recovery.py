"""Streams that are cut again and again, by engines that say what comes after what they are told to have said."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from berth.apis.base import ApiFormat
from berth.apis.ollama.chat import OllamaChat
from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.completions import OpenaiCompletions
from berth.plan import DialectName
from berth.router.exchange import heartbeats
from berth.router.exchange.outcomes import ContinuationBlocker
from berth.router.forwarding import recovery
from berth.sse import DONE, frames_of
from berth.state import ReplicaStatus
from tests.fakes.forwarding import Client, Forwarding
from tests.fakes.router import LIMITS, publish, replica, replica_state
from tests.fakes.upstream import (
    HANG,
    LAST_CHUNK,
    RESET,
    FakeUpstream,
    Request,
    Step,
    chunk,
    error_answer,
    json_answer,
    sse,
    stream_head,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

TEXT = 'Zwölf Boxkämpfer 世界 jagen 😀 Viktor über\nden "Deich" data: [DONE]\n\n\\o/ \u2028 e\u0301 </think> THE END'
SIZE = 4  # characters of a token
PIECES = [TEXT[start : start + SIZE] for start in range(0, len(TEXT), SIZE)]
MESSAGES: Any = [{"role": "user", "content": "hello"}]
NAMES = ("chat-a", "chat-b", "chat-c")
DIALECTS = (DialectName.VLLM, DialectName.SGLANG, DialectName.VLLM)


def told(request: Request) -> str:
    """What the engine is told to have said."""
    body = request.json
    if "prompt" in body:
        return str(body["prompt"].removeprefix("hello"))
    return str(body["messages"][-1]["content"]) if body.get("continue_final_message") else ""


def frame(request: Request, text: str = "", finish: str | None = None, **delta: Any) -> bytes:
    chat = "messages" in request.json
    said = {"delta": {"content": text, **delta}} if chat else {"text": text}
    head = {"id": "x", "object": "chat.completion.chunk" if chat else "text_completion", "created": 1, "model": "chat"}
    return sse({**head, "choices": [{"index": 0, **said, "finish_reason": finish}]})


def talks(pieces: int | None, *end: Step) -> Callable[[Request], tuple[Step, ...]]:
    """Says so many pieces of what comes next, and then `end`. None: all of it, and an end in order."""

    def steps(request: Request) -> tuple[Step, ...]:
        if request.path == "/tokenize":
            return (json_answer({"count": -(-len(request.json["prompt"]) // SIZE)}),)
        said = told(request)
        assert TEXT.startswith(said), said
        left = [TEXT[start : start + SIZE] for start in range(len(said), len(TEXT), SIZE)]
        spoken = left if pieces is None else left[:pieces]
        sent = b"".join(frame(request, piece) for piece in spoken)
        if len(spoken) < len(left):
            return stream_head(), *([chunk(sent)] if sent else []), *end
        prompt, completion = 3 + -(-len(said) // SIZE), len(left)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        sent += frame(request, finish="stop") + sse({"id": "x", "choices": [], "usage": usage})
        return stream_head(), chunk(sent + DONE), LAST_CHUNK

    return steps


BEGINS = talks(3, RESET)(Request(method="POST", path="", headers={}, body=b'{"messages":[{}]}'))


class Setup:
    def __init__(self, run_dir: Path, engines: list[FakeUpstream]) -> None:
        self.engines = dict(zip(NAMES, engines, strict=True))
        replicas = [
            replace(replica(name, engine.url, dialect=dialect), weights="w")
            for (name, engine), dialect in zip(self.engines.items(), DIALECTS, strict=True)
        ]
        self.router = Forwarding(run_dir, replicas, limits=replace(LIMITS, token_timeout_s=0.3))
        self.is_(a=ReplicaStatus.READY, b=ReplicaStatus.READY, c=ReplicaStatus.READY)

    def is_(self, **statuses: ReplicaStatus) -> None:
        publish(self.router.plan, *(replica_state(f"chat-{name}", status) for name, status in statuses.items()))
        self.router.upstreams.poll()

    def all(self, steps: Callable[[Request], tuple[Step, ...]]) -> None:
        for engine in self.engines.values():
            engine.answers_with(steps)

    def asked(self, name: str) -> int:
        """How often the engine was asked for text."""
        return sum(request.path != "/tokenize" for request in self.engines[name].requests)

    async def ask(self, api: ApiFormat | None = None, **fields: Any) -> Client:
        client = Client()
        body = {"model": "chat", "messages": MESSAGES, "stream": True, **fields}
        await self.router.ask(api or OpenaiChat(), orjson.dumps(body), client)
        assert client.ended
        return client

    def broken(self, reason: ContinuationBlocker) -> float:
        slot = self.router.board.layout.slots["berth_streams_broken", "chat", reason.value]
        return self.router.board.row[slot]


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    with ExitStack() as stack:
        setup = Setup(tmp_path, [stack.enter_context(FakeUpstream()) for _ in NAMES])
        yield setup
        setup.router.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "WAIT_S", 1.0)
    monkeypatch.setattr(recovery, "AGAIN_S", 0.05)
    monkeypatch.setattr(recovery, "_POLL_S", 0.01)


def documents(client: Client) -> Iterator[Any]:
    for one in frames_of(client.body):
        if one.startswith(b"data: {"):
            yield orjson.loads(one[6:])


def text_of(client: Client) -> str:
    choices = [choice for document in documents(client) for choice in document.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" if "delta" in choice else choice["text"] for choice in choices)


def error_of(client: Client) -> str:
    return str(list(documents(client))[-1]["error"]["message"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("end", [(RESET,), (LAST_CHUNK,), (0.1, chunk(b"data: {]\n\n"), HANG), (HANG,)])
@pytest.mark.parametrize("pieces", [3, 4, 7, 11])
async def test_text_is_exact_however_often_the_stream_is_cut(setup: Setup, pieces: int, end: tuple[Step, ...]) -> None:
    setup.all(talks(pieces, *end))

    client = await setup.ask(max_tokens=100, stream_options={"include_usage": True})

    assert text_of(client) == TEXT
    assert client.body.endswith(DONE)
    assert len({document["id"] for document in documents(client)}) == 1
    *_, last = documents(client)
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": len(PIECES),
        "total_tokens": 3 + len(PIECES),
    } | {"total_tokens": last["usage"]["total_tokens"]}
    assert sum(map(setup.asked, NAMES)) == -(-len(PIECES) // pieces)


@pytest.mark.usefixtures("quick")
async def test_completion_is_exact_however_often_it_is_cut(setup: Setup) -> None:
    setup.all(talks(5, RESET))

    client = await setup.ask(OpenaiCompletions(), prompt="hello", messages=None, max_tokens=100)

    assert text_of(client) == TEXT


@pytest.mark.usefixtures("quick")
async def test_limit_of_tokens_counts_all_parts(setup: Setup) -> None:
    setup.all(talks(4, RESET))

    client = await setup.ask(max_tokens=12)

    assert text_of(client) == "".join(PIECES[:12])
    assert b'"finish_reason":"length"' in client.body
    assert client.body.endswith(DONE)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("refusal", [error_answer("no", status=500), error_answer("full", status=429)])
async def test_next_peer_is_asked_when_one_refuses(setup: Setup, refusal: bytes) -> None:
    setup.all(talks(3, RESET))
    setup.engines["chat-b"].answers(refusal)
    setup.engines["chat-c"].answers_with(talks(None))

    assert text_of(await setup.ask()) == TEXT


@pytest.mark.usefixtures("quick")
async def test_replica_that_was_cut_goes_on_when_no_other_is_ready(setup: Setup) -> None:
    setup.is_(a=ReplicaStatus.READY, b=ReplicaStatus.FAILED, c=ReplicaStatus.STOPPED)
    setup.engines["chat-a"].answers_with(talks(9, RESET))

    assert text_of(await setup.ask()) == TEXT
    assert setup.asked("chat-a") == -(-len(PIECES) // 9)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", [OpenaiChat(), OllamaChat()])
async def test_stream_waits_with_heartbeats_for_a_peer_that_is_back_in_seconds(
    setup: Setup, api: ApiFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "FIRST_S", 0.02)
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", 0.05)
    setup.is_(a=ReplicaStatus.READY, b=ReplicaStatus.FAILED, c=ReplicaStatus.STARTING)
    setup.engines["chat-a"].answers_once(*BEGINS)
    setup.engines["chat-a"].answers(error_answer("restarting", status=500))
    setup.engines["chat-c"].answers_with(talks(None))

    task = asyncio.ensure_future(setup.ask(api))
    await asyncio.sleep(0.4)
    assert not task.done()
    setup.is_(a=ReplicaStatus.BACKOFF, b=ReplicaStatus.FAILED, c=ReplicaStatus.READY)
    client = await task

    if isinstance(api, OpenaiChat):
        assert text_of(client) == TEXT
        assert client.body.count(b": waiting for an engine\n\n") >= 3
    else:
        lines = [orjson.loads(line) for line in client.body.splitlines()]
        assert "".join(line["message"]["content"] for line in lines) == TEXT
        assert sum(not line["message"]["content"] for line in lines) >= 4


@pytest.mark.usefixtures("quick")
async def test_client_gets_heartbeats_while_others_are_asked_again_and_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try begins and ends sooner than a heartbeat is due."""
    monkeypatch.setattr(heartbeats, "FIRST_S", 0.15)
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", 0.15)
    setup.engines["chat-a"].answers_once(*BEGINS)
    setup.engines["chat-a"].answers(error_answer("no", status=500))
    for name in ("chat-b", "chat-c"):
        setup.engines[name].kill()

    client = await setup.ask(OllamaChat())

    lines = [orjson.loads(line) for line in client.body.splitlines()]
    assert sum("message" in line and not line["message"]["content"] for line in lines) >= 3
    assert "incomplete" in lines[-1]["error"]


@pytest.mark.usefixtures("quick")
async def test_engine_that_hangs_is_not_asked_again(setup: Setup) -> None:
    setup.is_(a=ReplicaStatus.READY, b=ReplicaStatus.FAILED, c=ReplicaStatus.FAILED)
    setup.engines["chat-a"].answers_with(talks(3, HANG))

    client = await setup.ask()

    assert "no response from the engine for 0.3 s" in error_of(client)
    assert setup.asked("chat-a") == 1


@pytest.mark.usefixtures("quick")
async def test_wait_is_bounded(setup: Setup) -> None:
    setup.is_(a=ReplicaStatus.READY, b=ReplicaStatus.STARTING, c=ReplicaStatus.STARTING)
    setup.engines["chat-a"].answers_once(*BEGINS)
    setup.engines["chat-a"].answers(error_answer("no", status=500))

    async with asyncio.timeout(5):
        client = await setup.ask()

    assert "chat-a: the connection broke" in error_of(client)
    assert setup.broken(ContinuationBlocker.ENGINE) == 1


async def test_nobody_is_waited_for_who_will_not_be_back(setup: Setup) -> None:
    setup.is_(a=ReplicaStatus.READY, b=ReplicaStatus.FAILED, c=ReplicaStatus.STANDBY)
    setup.engines["chat-a"].answers_with(talks(3, RESET))
    task = asyncio.ensure_future(setup.ask())
    await asyncio.sleep(0.3)
    setup.is_(a=ReplicaStatus.STOPPED, b=ReplicaStatus.FAILED, c=ReplicaStatus.STANDBY)

    async with asyncio.timeout(recovery.AGAIN_S):
        client = await task

    assert "incomplete" in error_of(client)


@pytest.mark.usefixtures("quick")
async def test_request_that_breaks_engines_does_not_break_all_of_them(setup: Setup) -> None:
    setup.all(talks(0, RESET))
    setup.engines["chat-a"].answers_once(*BEGINS)

    client = await setup.ask()

    assert "incomplete" in error_of(client)
    assert sum(map(setup.asked, NAMES)) == 1 + recovery.MOST_BROKEN


@pytest.mark.usefixtures("quick")
async def test_number_of_continuations_is_limited(setup: Setup) -> None:
    setup.all(talks(1, RESET))

    client = await setup.ask()

    assert text_of(client) == "".join(PIECES[: 1 + recovery.MOST_CONTINUATIONS])
    assert "incomplete" in error_of(client)
    assert setup.broken(ContinuationBlocker.AGAIN) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        (
            {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]},
            ContinuationBlocker.TOOLS,
        ),
        ({"content": "\ufffd"}, ContinuationBlocker.BYTES),
    ],
)
async def test_what_a_continuation_said_may_prevent_the_next(
    setup: Setup, delta: dict[str, Any], reason: ContinuationBlocker
) -> None:
    def calls(request: Request) -> tuple[Step, ...]:
        if request.path == "/tokenize":
            return talks(None)(request)
        return stream_head(), chunk(frame(request, **delta)), RESET

    setup.engines["chat-a"].answers_with(talks(3, RESET))
    setup.engines["chat-b"].answers_with(calls)

    client = await setup.ask()

    assert "chat-a: the connection broke" in error_of(client)
    assert (setup.broken(reason), setup.asked("chat-c")) == (1, 0)


@pytest.mark.usefixtures("quick")
async def test_usage_that_only_a_broken_engine_knew_is_not_invented(setup: Setup) -> None:
    setup.all(talks(4, RESET))

    client = await setup.ask(max_tokens=8, stream_options={"include_usage": True})

    assert text_of(client) == "".join(PIECES[:8])
    assert "incomplete" in error_of(client)
    assert setup.broken(ContinuationBlocker.USAGE) == 1
