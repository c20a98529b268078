"""Ollama's official client as the judge of the router's answers: over simulated engines of all dialects, and over fakes
that misbehave.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import ollama
import pytest

from berth.plan import DialectName, Keys, Task
from berth.state import ReplicaStatus
from tests.fakes.api_keys import api_key
from tests.fakes.blocked_requests import BlockedRequests
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state, route
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    FakeUpstream,
    Step,
    chat_answer,
    chat_frame,
    chat_stream,
    chunk,
    error_answer,
    json_answer,
    sse,
    stream_head,
)
from tests.sim.harness import running

KEY = "sesame"
DIALECTS = [DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM]  # each is the name of a model of its own
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(scope="module")
def box() -> Iterator[RouterProcess]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with ExitStack() as stack:
        ports = {name: stack.enter_context(running(name, names=(str(name),))).port for name in DIALECTS}
        embedder = stack.enter_context(running(task="embed", names=("embed",), dimensions=4))
        replicas = [
            replica(f"{name}-{name}", f"http://127.0.0.1:{port}", dialect=name, vocab_size=32000)
            for name, port in ports.items()
        ]
        replicas.append(replica("embed-vllm", f"http://127.0.0.1:{embedder.port}", task=Task.EMBED))
        routes = [route(one.model, [one.name], task=one.task) for one in replicas]
        plan = make_plan(run_dir, replicas, routes)
        publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
        box = RouterProcess(plan, Keys(api_keys=(api_key(KEY),)))
        box.await_answer()
        yield box
        box.end()
    shutil.rmtree(run_dir)


@pytest.fixture
def sims(box: RouterProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[ollama.Client]:
    """As its users give it the key."""
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    with ollama.Client(box.url, timeout=20) as client:
        yield client


@pytest.fixture
def fakes(router_fixture: RouterFixture) -> Iterator[ollama.Client]:
    with ollama.Client(router_fixture.url, timeout=20) as client:
        yield client


def told(parts: Iterator[ollama.ChatResponse]) -> tuple[str, ollama.ChatResponse]:
    seen = list(parts)
    return "".join(part.message.content or "" for part in seen), seen[-1]


@pytest.mark.parametrize("model", DIALECTS)
def test_chat_streamed_or_not(sims: ollama.Client, model: str) -> None:
    options = {"num_predict": 12, "temperature": 0, "top_k": 5, "repeat_penalty": 1.1, "seed": 1, "num_ctx": 4096}

    whole = sims.chat(model, HELLO, options=options)
    text, last = told(sims.chat(f"{model}:latest", HELLO, stream=True, options=options))

    assert whole.message.content == text != ""
    assert (whole.model, last.model) == (model, f"{model}:latest")
    assert (whole.done_reason, last.done_reason) == ("length", "length")
    assert whole.eval_count == last.eval_count == 12
    assert whole.prompt_eval_count == last.prompt_eval_count
    assert last.total_duration == (last.prompt_eval_duration or 0) + (last.eval_duration or 0)


@pytest.mark.parametrize("model", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_tool_call_and_its_result(sims: ollama.Client, model: str, stream: bool) -> None:
    parts = (
        list(sims.chat(model, HELLO, tools=[WEATHER], stream=True))
        if stream
        else [sims.chat(model, HELLO, tools=[WEATHER])]
    )
    said = [part.message for part in parts if part.message.tool_calls]

    assert len(said) == 1
    assert [call.model_dump() for call in said[0].tool_calls or ()] == [
        {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    ]
    assert parts[-1].done_reason == "stop"
    result = {"role": "tool", "tool_name": "get_weather", "content": "sunny"}
    assert sims.chat(model, [*HELLO, said[0], result], tools=[WEATHER]).message.content


@pytest.mark.parametrize("model", DIALECTS)
def test_thinking_is_separate_and_optional(sims: ollama.Client, model: str) -> None:
    on = list(sims.chat(model, HELLO, think=True, stream=True))
    off = sims.chat(model, HELLO, think=False)

    thoughts = "".join(part.message.thinking or "" for part in on)
    assert thoughts == sims.chat(model, HELLO, think=True).message.thinking != ""
    assert off.message.content == "".join(part.message.content or "" for part in on)
    assert off.message.thinking is None


@pytest.mark.parametrize("model", DIALECTS)
@pytest.mark.parametrize("raw", [False, True])
def test_generate_continues_a_prompt(sims: ollama.Client, model: str, raw: bool) -> None:
    whole = sims.generate(model, "Hello", raw=raw, options={"num_predict": 5})
    parts = list(sims.generate(model, "Hello", raw=raw, options={"num_predict": 5}, stream=True))

    assert whole.response == "".join(part.response or "" for part in parts) != ""
    assert (whole.eval_count, parts[-1].eval_count) == (5, 5)


@pytest.mark.parametrize("model", DIALECTS)
def test_response_matches_the_schema(sims: ollama.Client, model: str) -> None:
    assert sims.chat(model, HELLO, format=SCHEMA).message.content == '{"city": "Paris"}'
    assert (sims.generate(model, "Hello", format="json").response or "").startswith("{")


@pytest.mark.parametrize("model", [DialectName.VLLM, DialectName.SGLANG])
def test_prefilled_assistant_message_is_continued(sims: ollama.Client, model: str) -> None:
    full = sims.chat(model, HELLO).message.content or ""
    begun = full[: full.index(" ", 20)]

    rest = sims.chat(model, [*HELLO, {"role": "assistant", "content": begun}]).message.content

    assert begun + (rest or "") == full


@pytest.mark.parametrize("model", DIALECTS)
def test_logprobs_accompany_the_tokens(sims: ollama.Client, model: str) -> None:
    parts = list(sims.chat(model, HELLO, logprobs=True, top_logprobs=2, stream=True, options={"num_predict": 3}))

    found = [one for part in parts for one in part.logprobs or ()]
    assert [len(one.top_logprobs or ()) for one in found] == [2, 2, 2]


def test_embeds_texts(sims: ollama.Client) -> None:
    several = sims.embed("embed", ["a", "b"])

    assert [len(vector) for vector in several.embeddings] == [4, 4]
    assert several.prompt_eval_count
    assert list(sims.embeddings("embed", "a").embedding) == pytest.approx(list(several.embeddings[0]))
    assert sims.embed("embed:latest", "").embeddings == []
    with pytest.raises(ollama.ResponseError, match="generates text, not embeddings"):
        sims.embed("vllm", "a")


def test_rejects_requests_without_key(box: RouterProcess) -> None:
    with ollama.Client(box.url) as nobody:
        for ask in (lambda: nobody.chat("vllm", HELLO), nobody.list, nobody.ps, lambda: nobody.show("vllm")):
            with pytest.raises(ollama.ResponseError, match="didn't provide an API key") as caught:
                ask()
            assert caught.value.status_code == 401
    assert httpx.get(box.url).text == "Ollama is running"


def test_asynchronous_client_gets_the_same(box: RouterProcess) -> None:
    async def ask() -> str:
        async with ollama.AsyncClient(box.url, headers={"authorization": f"Bearer {KEY}"}) as client:
            parts = await client.chat("vllm", HELLO, stream=True)
            return "".join([part.message.content or "" async for part in parts])

    assert asyncio.run(ask()).startswith("The night train")


@pytest.mark.parametrize("keep_alive", [None, 0])
def test_request_without_prompt_loads_or_unloads(
    fakes: ollama.Client, router_fixture: RouterFixture, keep_alive: Any
) -> None:
    reason = "load" if keep_alive is None else "unload"

    assert fakes.generate("chat", keep_alive=keep_alive).done_reason == reason
    assert fakes.chat("chat", keep_alive=keep_alive).done_reason == reason
    assert [part.done_reason for part in fakes.chat("chat", stream=True, keep_alive=keep_alive)] == [reason]
    assert router_fixture.first.requests == []


@pytest.mark.parametrize(("asked", "sent"), [(4095, 4095), (4096, None), (64_000, None)])
def test_num_predict_above_the_context_is_accepted(
    fakes: ollama.Client, router_fixture: RouterFixture, asked: int, sent: int | None
) -> None:
    router_fixture.first.answers(chat_answer("hello"))

    fakes.chat("chat", [{"role": "user", "content": "hello"}], options={"num_predict": asked})

    assert router_fixture.first.requests[0].json.get("max_tokens") == sent


def test_image_reaches_the_engine(fakes: ollama.Client, router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer("a cat"))
    message = {"role": "user", "content": "What is it?", "images": [b"\x89PNG\r\n\x1a\n"]}

    assert fakes.chat("chat", [message]).message.content == "a cat"
    content = router_fixture.first.requests[0].json["messages"][0]["content"]
    assert content[1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_ignored_fields_are_reported(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer())
    body = {"model": "chat", "messages": HELLO, "stream": False, "options": {"num_ctx": 1}, "keep_alive": "5m"}

    answer = httpx.post(f"{router_fixture.url}/api/chat", json=body)

    assert answer.headers["x-berth-ignored"] == "keep_alive, options.num_ctx"
    assert answer.headers["x-berth-engine"] == "vllm"


def test_stream_is_ndjson(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(*chat_stream("a\u2028", "b"))

    answer = httpx.post(f"{router_fixture.url}/api/chat", json={"model": "chat", "messages": HELLO})

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert len(answer.text.splitlines()) == answer.text.count("\n") == 3


@pytest.mark.parametrize(
    ("ask", "status", "words"),
    [
        (lambda c: c.chat("nix", HELLO), 404, "The model 'nix' does not exist here. Available: chat"),
        (lambda c: list(c.chat("nix", HELLO, stream=True)), 404, "does not exist here"),
        (lambda c: c.generate("nix"), 404, "does not exist here"),
        (lambda c: c.chat("chat", [{"role": "robot"}]), 400, r"'messages\.0\.role' must be one of"),
        (lambda c: c.chat("chat", HELLO, options={"temperature": -1}), 400, r"'options\.temperature' must be"),
        (lambda c: c.generate("chat", "x", template="{{ .Prompt }}"), 400, "'template' is not supported"),
        (lambda c: c.chat("org/embed", HELLO), 400, "computes embeddings and does not generate text"),
        (lambda c: c.chat("loading", HELLO), 503, "starting on vllm: load 45 %"),
        (lambda c: c.chat("chat", [{"role": "user", "content": "x" * (1 << 20)}]), 413, "BERTH_MAX_BODY"),
    ],
)
def test_errors_are_the_clients_own(
    fakes: ollama.Client, ask: Callable[[ollama.Client], object], status: int, words: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=words) as caught:
        ask(fakes)

    assert caught.value.status_code == status


def test_engine_rejection_reaches_the_client(fakes: ollama.Client, router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(error_answer("This model's maximum context length is 10 tokens.", status=400))

    with pytest.raises(ollama.ResponseError, match="maximum context length") as caught:
        fakes.chat("chat", HELLO)

    assert caught.value.status_code == 400


def test_early_failure_falls_back(fakes: ollama.Client, router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), RESET)
    router_fixture.second.answers(*chat_stream("a", "b"))

    assert told(fakes.chat("chat", HELLO, stream=True))[0] == "ab"


@pytest.mark.parametrize(
    "end",
    [
        pytest.param((RESET,), id="killed"),
        pytest.param((CLOSE,), id="closed"),
        pytest.param((LAST_CHUNK,), id="ended without a finish_reason"),
        pytest.param((chunk(sse({"error": {"message": "boom"}})), LAST_CHUNK), id="error in the stream"),
    ],
)
def test_broken_stream_is_an_error_and_never_looks_complete(
    fakes: ollama.Client, router_fixture: RouterFixture, end: tuple[Step, ...]
) -> None:
    begun = threading.Event()
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), chunk(chat_frame("a")), begun, *end)
    stream = fakes.chat("chat", HELLO, stream=True)
    assert next(stream).message.content == "a"
    begun.set()

    with pytest.raises(ollama.ResponseError, match="incomplete"):
        next(stream)


def test_tool_arguments_that_are_not_json_become_text(fakes: ollama.Client, router_fixture: RouterFixture) -> None:
    made = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
    message = {"role": "assistant", "content": None, "tool_calls": [made]}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    router_fixture.first.answers(
        json_answer({"id": "x", "model": "chat", "object": "chat.completion", "choices": [choice]})
    )

    answer = fakes.chat("chat", HELLO, tools=[WEATHER])

    assert answer.message.tool_calls is None
    assert answer.message.content == '{"name": "f", "arguments": {}'


@pytest.mark.slow
def test_queued_stream_gets_empty_parts() -> None:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as engine:
        plan = make_plan(
            run_dir, [replica("one-a", engine.url, concurrency=1)], limits=replace(LIMITS, queue_timeout_s=20)
        )
        publish(plan)
        router = RouterProcess(plan)
        router.await_answer()
        with BlockedRequests(router.url, [engine]) as blocked, ollama.Client(router.url, timeout=30) as client:
            engine.answers(*chat_stream("a", "b"))
            engine.answers_once(blocked.go, chat_answer())
            blocked.send_and_wait("one")
            stream = client.chat("one", HELLO, stream=True)
            first = next(stream)
            blocked.go.set()
            assert (first.message.content, first.done, first.done_reason) == ("", False, None)
            assert told(stream)[0] == "ab"
        router.end()
    shutil.rmtree(run_dir)
