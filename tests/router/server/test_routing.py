"""The rules of BERTH_ROUTES over ASGI: each API, each kind of condition, and who serves then."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from berth.boot.config.routes import parse_routes
from berth.errors import NotReadyError
from berth.plan import DialectName, Keys, Plan, Standby, Task
from berth.router.app import App
from berth.router.events.hub import lasting
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import AddedAdapter, ReplicaStatus, State
from tests.fakes.api_keys import api_key
from tests.fakes.asgi import Answer, ask
from tests.fakes.router import make_plan, publish, replica, replica_state, route
from tests.fakes.upstream import FakeUpstream, Request, chat_answer, chat_stream, error_answer, json_answer

pytestmark = pytest.mark.anyio

RULES = """
- {name: batch, path: /batch, engine: sglang, priority: low}
- {name: strict, path: /strict, engine: sglang, only: true}
- {name: ci, key: ci, model: chat, engine: sglang, priority: normal}
- {name: old, header: {user-agent: "claude-cli/*", x-team: "?"}, model: chat, engine: sglang}
- {name: fast, alias: fast, model: chat, engine: chat-b}
- {name: tools, has: tools, not: stream, engine: sglang}
- {name: seen, has: image, engine: sglang}
- {name: heard, has: audio, engine: sglang}
- {name: form, has: response_format, engine: sglang}
- {name: odds, has: logprobs, engine: sglang}
- {name: long, prompt_tokens: ">=100", engine: sglang}
"""
MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "chat", "messages": MESSAGES}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
WAV = base64.b64encode(b"RIFF$\0\0\0WAVEfmt " + bytes(80)).decode()
KEYS = Keys(
    api_keys=(
        api_key("key-of-ci-0123456789", name="ci", slot=1),
        api_key("key-of-bob-0123456789", name="bob", slot=2, priority="normal"),
        api_key("key-of-eve-0123456789", name="eve", slot=3, models=("embed",)),
    )
)


def response(request: Request) -> tuple[bytes, ...]:
    """What an engine responds with on each of its paths."""
    body = orjson.loads(request.body) if request.body else {}
    if request.path == "/v1/chat/completions":
        return chat_stream("a", "b") if body.get("stream") else (chat_answer('{"a": 1}'),)
    if request.path == "/v1/embeddings":
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        return (json_answer({"object": "list", "data": data, "model": "embed", "usage": USAGE}),)
    choice = {"index": 0, "text": "hi", "logprobs": None, "finish_reason": "stop"}
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "chat"}
    return (json_answer({**head, "choices": [choice], "usage": USAGE}),)


def said(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


class Engines:
    def __init__(self, plan: Plan, worker: Worker, first: FakeUpstream, second: FakeUpstream) -> None:
        self.plan, self.worker, self.first, self.second = plan, worker, first, second
        self.app = App(worker)

    async def ask(self, path: str, body: object, key: str = "bob", **headers: str) -> Answer:
        given = {"x-api-key": f"key-of-{key}-0123456789", **{n.replace("_", "-"): v for n, v in headers.items()}}
        return await ask(self.app, path, method="POST", body=body, headers=given)


@pytest.fixture
async def engines(run_dir: str) -> AsyncIterator[Engines]:
    with FakeUpstream() as first, FakeUpstream() as second:
        replicas = [
            replica("chat-a", first.url),
            replica("chat-b", second.url, dialect=DialectName.SGLANG),
            replica("embed-a", first.url, task=Task.EMBED),
            replica("embed-b", second.url, dialect=DialectName.SGLANG, task=Task.EMBED),
            replica("solo-a", first.url),
        ]
        routes = [
            route("chat", ["chat-a", "chat-b"], standby=Standby.HOT, aliases=("fast",)),
            route("embed", ["embed-a", "embed-b"], standby=Standby.HOT, task=Task.EMBED),
            route("solo", ["solo-a"]),
        ]
        plan = replace(make_plan(run_dir, replicas, routes), rules=parse_routes(RULES), affinity=False)
        for engine in (first, second):
            engine.answers_with(response)
        Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
        publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
        worker = Worker(plan, KEYS)
        worker.upstreams.poll()
        yield Engines(plan, worker, first, second)
        worker.upstreams.close()
        worker.board.close()
        await asyncio.sleep(0)


APIS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions/", CHAT),
    ("//v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"model": "chat", "prompt": "Hello"}),
    ("/v1/embeddings", {"model": "embed", "input": "Hello"}),
    ("/v1/responses", {"model": "chat", "input": "Hello"}),
    ("/v1/messages", {**CHAT, "max_tokens": 5}),
    ("/api/chat", {**CHAT, "stream": False}),
    ("/api/generate", {"model": "chat", "prompt": "Hello"}),
    ("/api/embed", {"model": "embed", "input": "Hello"}),
    ("/generate", {"inputs": "Hello", "model": "chat"}),
    ("/models/chat/v1/chat/completions", CHAT),
    ("/models/chat", {"inputs": "Hello"}),
]


@pytest.mark.parametrize(("path", "body"), APIS)
async def test_a_prefix_in_front_of_each_api_selects_the_engine(
    engines: Engines, path: str, body: dict[str, Any]
) -> None:
    plain, batch = await engines.ask(path, body), await engines.ask(f"/batch{path}", body)

    assert (plain.status, batch.status) == (200, 200), (plain.body, batch.body)
    assert (plain.headers["x-berth-replica"][-1], batch.headers["x-berth-replica"][-1]) == ("a", "b")
    assert ("x-berth-rule" in plain.headers, batch.headers["x-berth-rule"]) == (False, "batch")


@pytest.mark.parametrize(
    ("rule", "body", "headers"),
    [
        ("ci", {"model": "whatever"}, {"key": "ci"}),
        ("old", {"model": "claude-sonnet"}, {"user_agent": "Claude-CLI/2.0", "x_team": "z"}),
        ("", {"model": "chat"}, {"user_agent": "claude-cli/2.0", "x_team": "zz"}),
        ("", {"model": "chat"}, {"user_agent": "claude-cli/2.0"}),
        ("fast", {"model": "fast"}, {}),
        ("fast", {"model": "fast:latest"}, {}),
        ("tools", {"tools": [TOOL]}, {}),
        ("", {"tools": [TOOL], "stream": True}, {}),
        ("form", {"response_format": {"type": "json_object"}}, {}),
        ("", {"response_format": {"type": "text"}}, {}),
        ("form", {"guided_regex": ".*"}, {}),
        ("odds", {"logprobs": True}, {}),
        ("", {"logprobs": False}, {}),
        ("seen", said([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]), {}),
        ("heard", said([{"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}]), {}),
        ("long", said("word " * 80), {}),
        ("long", said([{"type": "text", "text": "word " * 80}]), {}),
        ("", said("word " * 79), {}),
    ],
)
async def test_each_condition_selects_the_engine(
    engines: Engines, rule: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = await engines.ask("/v1/chat/completions", {**CHAT, **body}, **headers)

    assert answer.headers.get("x-berth-rule", "") == rule, answer.body
    assert answer.headers["x-berth-replica"] == ("chat-b" if rule else "chat-a")


async def test_tokens_of_a_prompt_are_counted_exactly(engines: Engines) -> None:
    prompts = ([1] * 99, [1] * 100, [[1] * 60, [2] * 40], ["word " * 40] * 2)
    answers = [await engines.ask("/v1/completions", {"model": "chat", "prompt": prompt}) for prompt in prompts]

    assert [answer.headers.get("x-berth-rule") for answer in answers] == [None, "long", "long", "long"]


async def test_a_rule_without_a_model_holds_for_the_models_of_its_engine(engines: Engines) -> None:
    answer = await engines.ask("/batch/v1/chat/completions", {**CHAT, "model": "solo"})
    assert (answer.headers["x-berth-replica"], answer.headers.get("x-berth-rule")) == ("solo-a", None)

    unknown = await engines.ask("/batch/v1/chat/completions", {**CHAT, "model": "none"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")
    denied = await engines.ask("/batch/v1/chat/completions", CHAT, key="eve")
    assert denied.status == 403


async def test_a_rule_gives_no_client_a_model_that_its_key_may_not_use(engines: Engines) -> None:
    answer = await engines.ask("/v1/chat/completions", CHAT, key="eve", user_agent="claude-cli/1", x_team="1")

    assert (answer.status, answer.json["error"]["code"]) == (403, "model_not_allowed")


async def test_the_engine_of_a_rule_is_first_and_the_others_are_its_fallback(engines: Engines) -> None:
    engines.second.answers(error_answer("out of order", status=500))

    saved = await engines.ask("/batch/v1/chat/completions", CHAT)
    only = await engines.ask("/strict/v1/chat/completions", CHAT)

    assert (saved.status, saved.headers["x-berth-replica"], saved.headers["x-berth-attempts"]) == (200, "chat-a", "2")
    assert (only.status, only.headers["x-berth-attempts"]) == (502, "1")


async def test_only_this_engine_is_not_ready_while_another_is(engines: Engines) -> None:
    states = [replica_state(one.name, ReplicaStatus.READY) for one in engines.plan.replicas if one.name != "chat-b"]
    publish(engines.plan, *states, replica_state("chat-b", ReplicaStatus.STARTING), sequence=2)
    engines.worker.upstreams.poll()

    batch = await engines.ask("/batch/v1/chat/completions", CHAT)
    strict = await engines.ask("/strict/v1/chat/completions", CHAT)

    assert (batch.headers["x-berth-replica"], batch.headers["x-berth-rule"]) == ("chat-a", "batch")
    assert (strict.status, strict.headers["x-berth-rule"]) == (NotReadyError.status, "strict")
    assert "is not ready yet" in strict.json["error"]["message"]


async def test_the_priority_of_a_rule_wins_and_the_limit_of_the_key_over_it(engines: Engines) -> None:
    async def asked(path: str, key: str, given: str = "") -> tuple[int, str]:
        headers = {"x_priority": given} if given else {}
        answer = await engines.ask(path, CHAT, key=key, **headers)
        return answer.status, answer.headers.get("x-berth-ignored", "")

    assert await asked("/batch/v1/chat/completions", "bob") == (200, "")
    assert await asked("/batch/v1/chat/completions", "bob", "low") == (200, "")
    assert await asked("/batch/v1/chat/completions", "bob", "normal") == (200, "x-priority")
    assert await asked("/v1/chat/completions", "bob", "high") == (200, "x-priority")
    assert await asked("/v1/chat/completions", "ci", "high") == (200, "x-priority")
    assert await asked("/batch/v1/chat/completions", "bob", "urgent") == (400, "")


async def test_pages_and_lists_are_behind_a_prefix_too(engines: Engines) -> None:
    for path in ("/v1/models", "/v1/models/fast", "/api/tags", "/api/version", "/health", "/"):
        headers = {"x-api-key": "key-of-bob-0123456789"}
        plain, batch = [await ask(engines.app, prefix + path, headers=headers) for prefix in ("", "/batch")]
        assert (plain.status, plain.body) == (batch.status, batch.body)
    assert (await ask(engines.app, "/batch")).body == b"Ollama is running"
    assert (await ask(engines.app, "/batches/v1/models")).status == 404
    assert (await engines.ask("/api/show", {"model": "fast"})).status == 200


async def test_ollama_loads_the_model_of_the_rule(engines: Engines) -> None:
    answer = await engines.ask("/api/generate", {"model": "whatever"}, key="ci")
    assert answer.status == 200

    answer = await engines.ask("/api/generate", {"model": "whatever"})
    assert answer.status == 404


async def test_an_adapter_that_was_added_is_one_of_its_model(engines: Engines) -> None:
    states = [
        replica_state(one.name, ReplicaStatus.READY, adapters=("support",) * (one.model == "chat"))
        for one in engines.plan.replicas
    ]
    added = (AddedAdapter(name="support", model="chat"),)
    state = State(sequence=3, published_at=1.0, control_pid=1, replicas=tuple(states), adapters=added)
    engines.plan.paths.state.write_bytes(state.to_json())
    engines.worker.upstreams.poll()

    answer = await engines.ask("/batch/v1/chat/completions", {**CHAT, "model": "support"})
    assert (answer.headers["x-berth-replica"], answer.headers["x-berth-rule"]) == ("chat-b", "batch")


async def test_status_metrics_and_journal_name_the_rule(engines: Engines) -> None:
    for path in ("/batch", "/batch", "/strict", ""):
        await engines.ask(f"{path}/v1/chat/completions", CHAT)
    headers = {"x-api-key": "key-of-bob-0123456789"}

    rules = (await ask(engines.app, "/status", headers=headers)).json["rules"]
    metrics = (await ask(engines.app, "/metrics")).body.decode()

    assert rules[0] == {
        "name": "batch",
        "if": {"path": "/batch"},
        "then": {"engine": "sglang", "priority": "low"},
        "requests": 2,
    }
    assert [rule["requests"] for rule in rules[1:4]] == [1, 0, 0]
    assert 'berth_rule_matches_total{rule="batch"} 2.0' in metrics
    records = engines.worker.journal._reader.finished()
    assert [record.rule for record in records] == ["batch", "batch", "strict", ""]
    assert records[0].document()["rule"] == "batch"


async def test_a_request_alone_is_no_change_of_the_state(engines: Engines) -> None:
    """Programs that follow /events get the whole document with each change."""
    before = lasting(engines.worker.status())
    for path, body in APIS[:4]:
        await engines.ask(f"/batch{path}", body)

    assert lasting(engines.worker.status()) == before


async def test_p50_p95_and_p99_are_in_status_and_metrics(engines: Engines) -> None:
    window, board = engines.worker.window, engines.worker.board
    window.keep(board.sums(window.span), 1.0)
    await engines.ask("/batch/v1/chat/completions", {**CHAT, "stream": True})
    await engines.ask("/v1/chat/completions", CHAT)
    engines.first.answers(error_answer("no", status=400))
    await engines.ask("/v1/chat/completions", CHAT)

    headers = {"x-api-key": "key-of-bob-0123456789"}
    chat, embed, _ = (await ask(engines.app, "/status", headers=headers)).json["models"]
    metrics = (await ask(engines.app, "/metrics")).body.decode()

    assert chat["latency"]["total_s"]["responses"] == 2
    assert chat["latency"]["first_token_s"]["responses"] == chat["latency"]["token_gap_s"]["responses"] == 1
    assert [one["latency"]["total_s"]["responses"] for one in chat["replicas"]] == [1, 1]
    assert embed["latency"] == {"window_s": 300.0, "first_token_s": None, "token_gap_s": None, "total_s": None}
    for name in ('berth_request_percentile_seconds{model="chat"', 'berth_replica_percentile_seconds{engine="sglang"'):
        assert metrics.count(name) == 9, metrics
    assert 'model="embed",percentile' not in metrics
