"""Anthropic's official client as the judge of the router's answers, over simulated engines of all three kinds."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, ToolUseBlock

from berth.plan import DialectName
from berth.sim.options import PARAGRAPH
from tests.fakes.router import RouterProcess, make_plan, publish, replica
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import chat_answer
from tests.sim.harness import running

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
THINK: Any = {"type": "enabled", "budget_tokens": 1024}
ENGINES = ("vllm", "sglang", "trtllm")


def client_of(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=10)


@pytest.fixture
def client(router_fixture: RouterFixture) -> Iterator[anthropic.Anthropic]:
    with client_of(router_fixture.url) as client:
        yield client


@pytest.fixture(scope="module")
def engines() -> Iterator[RouterProcess]:
    """A router in front of one simulated engine of each kind; the models have the engines' names."""
    run_dir = tempfile.mkdtemp(prefix="br-")
    with ExitStack() as stack:
        replicas = []
        for name in ENGINES:
            server = stack.enter_context(running(name, names=(name,)))
            replicas.append(replica(f"{name}-a", f"http://127.0.0.1:{server.port}", dialect=DialectName(name)))
        plan = make_plan(run_dir, replicas)
        publish(plan)
        router = RouterProcess(plan)
        stack.callback(router.end)
        router.await_answer()
        yield router
    shutil.rmtree(run_dir)


@pytest.fixture
def real(engines: RouterProcess) -> Iterator[anthropic.Anthropic]:
    """A client of the simulated engines."""
    with client_of(engines.url) as client:
        yield client


def ask(client: anthropic.Anthropic, *, streamed: bool, **fields: Any) -> Message:
    wanted: dict[str, Any] = {"max_tokens": 200, "messages": HELLO, **fields}
    if not streamed:
        answer: Message = client.messages.create(**wanted)
        return answer
    with client.messages.stream(**wanted) as stream:
        return stream.get_final_message()


EVERYWHERE = pytest.mark.parametrize("engine", ENGINES)
BOTH_WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@EVERYWHERE
@BOTH_WAYS
def test_text(real: anthropic.Anthropic, engine: str, streamed: bool) -> None:
    answer = ask(real, streamed=streamed, model=engine)

    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": PARAGRAPH}]
    assert (answer.model, answer.stop_reason, answer.id[:4]) == (engine, "end_turn", "msg_")
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 50


@EVERYWHERE
@BOTH_WAYS
def test_stop_sequence_is_reported(real: anthropic.Anthropic, engine: str, streamed: bool) -> None:
    answer = ask(real, streamed=streamed, model=engine, stop_sequences=["harbour"])

    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "harbour")
    assert answer.content[0].to_dict()["text"] == "The night train left the "


@EVERYWHERE
@BOTH_WAYS
def test_max_tokens(real: anthropic.Anthropic, engine: str, streamed: bool) -> None:
    answer = ask(real, streamed=streamed, model=engine, max_tokens=5)

    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 5)


@EVERYWHERE
@BOTH_WAYS
def test_tool_call_and_its_result(real: anthropic.Anthropic, engine: str, streamed: bool) -> None:
    answer = ask(real, streamed=streamed, model=engine, tools=[WEATHER])
    (call,) = answer.content
    assert isinstance(call, ToolUseBlock)
    assert (call.name, answer.stop_reason) == ("get_weather", "tool_use")
    assert isinstance(call.input["city"], str)

    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}
    talk = [*HELLO, answer.to_param(), {"role": "user", "content": [result]}]

    assert ask(real, streamed=streamed, model=engine, messages=talk, tools=[WEATHER]).content


@EVERYWHERE
@BOTH_WAYS
def test_thinking_is_signed_and_accepted_again(real: anthropic.Anthropic, engine: str, streamed: bool) -> None:
    answer = ask(real, streamed=streamed, model=engine, thinking=THINK)
    thinking, text = answer.content
    assert thinking.type == "thinking"
    assert thinking.thinking.startswith("The user asks")
    assert thinking.signature
    assert text.type == "text"

    again = ask(real, streamed=streamed, model=engine, messages=[*HELLO, answer.to_param(), *HELLO])

    assert [block.type for block in again.content] == ["text"]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@BOTH_WAYS
def test_prefilled_response_is_continued(real: anthropic.Anthropic, engine: str, streamed: bool) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "The night train"}]

    answer = ask(real, streamed=streamed, model=engine, messages=begun)

    assert answer.content[0].to_dict()["text"] == PARAGRAPH.removeprefix("The night train")


@EVERYWHERE
@pytest.mark.parametrize("extras", [{}, {"tools": [WEATHER]}, {"system": "Be short.", "thinking": THINK}], ids=str)
def test_token_count_equals_the_usage_of_the_message(real: anthropic.Anthropic, engine: str, extras: Any) -> None:
    counted = real.messages.count_tokens(model=engine, messages=HELLO, **extras).input_tokens
    usage = ask(real, streamed=True, model=engine, **extras).usage

    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_count_tokens_rejects_what_messages_rejects(real: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        real.messages.count_tokens(model="vllm", messages=[])


def test_unsupported_request_is_rejected_without_other_engine(real: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="No engine of model 'trtllm' supports this request"):
        ask(real, streamed=False, model="trtllm", tools=[WEATHER], tool_choice={"type": "any"})


@EVERYWHERE
def test_too_long_prompt_error_has_both_numbers(real: anthropic.Anthropic, engine: str) -> None:
    long: Any = [{"role": "user", "content": "hello " * 20_000}]

    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 8192 maximum"):
        ask(real, streamed=True, model=engine, messages=long)


@pytest.mark.parametrize(("asked", "sent"), [(4095, 4095), (4096, None), (64_000, None)])
def test_max_tokens_above_the_context_is_accepted(
    router_fixture: RouterFixture, client: anthropic.Anthropic, asked: int, sent: int | None
) -> None:
    router_fixture.first.answers(chat_answer("hello"))

    ask(client, streamed=False, model="chat", max_tokens=asked)

    assert router_fixture.first.requests[0].json.get("max_tokens") == sent


def test_stream_events(engines: RouterProcess) -> None:
    with client_of(engines.url) as client:
        types = [
            event.type for event in client.messages.create(model="vllm", max_tokens=9, messages=HELLO, stream=True)
        ]

    assert types[:2] == ["message_start", "content_block_start"]
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_beta_endpoint_is_the_same(router_fixture: RouterFixture, client: anthropic.Anthropic) -> None:
    router_fixture.first.answers(chat_answer("hello"))

    answer = client.beta.messages.create(model="chat", max_tokens=5, messages=HELLO, betas=["interleaved-thinking"])

    assert answer.content[0].to_dict()["text"] == "hello"


def test_headers_have_replica_and_ignored_fields(router_fixture: RouterFixture, client: anthropic.Anthropic) -> None:
    router_fixture.first.answers(chat_answer("hello"))

    raw = client.messages.with_raw_response.create(
        model="chat", max_tokens=5, messages=HELLO, service_tier="auto", extra_headers={"x-request-id": "mine"}
    )

    assert raw.headers["x-berth-replica"] == "chat-vllm"
    assert raw.headers["x-berth-ignored"] == "service_tier"
    assert raw.headers["x-berth-mode"] == "translated"
    assert raw.request_id == raw.headers["x-request-id"] == "mine"


def test_lists_and_finds_models(client: anthropic.Anthropic) -> None:
    models = {model.id: model for model in client.models.list()}

    assert {"chat", "gpt-4o-mini", "org/embed"} <= models.keys()
    assert models["chat"].max_input_tokens == 4096
    assert models["chat"].created_at.year == 2023
    assert client.models.retrieve("org/embed").display_name == "org/embed"


def test_openai_clients_get_openais_list(router_fixture: RouterFixture) -> None:
    assert httpx.get(f"{router_fixture.url}/v1/models", headers={"x-api-key": "k"}).json()["object"] == "list"


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"model": "nix"}, anthropic.NotFoundError, "does not exist"),
        ({"model": "chat", "messages": []}, anthropic.BadRequestError, "messages"),
        ({"model": "org/embed"}, anthropic.BadRequestError, "computes embeddings"),
        ({"model": "loading"}, anthropic.InternalServerError, "load 45 %"),
        ({"model": "failed"}, anthropic.InternalServerError, "is not available"),
        (
            {"model": "chat", "messages": [{"role": "user", "content": "x" * (1 << 20)}]},
            anthropic.APIStatusError,
            "BERTH_MAX_BODY",
        ),
    ],
)
@BOTH_WAYS
def test_errors_have_the_clients_classes(
    client: anthropic.Anthropic, wanted: Any, error: type[anthropic.APIStatusError], words: str, streamed: bool
) -> None:
    with pytest.raises(error, match=words) as caught:
        ask(client, streamed=streamed, **wanted)

    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.request_id


@pytest.mark.parametrize(
    "ask_for",
    [
        lambda c: c.messages.batches.list(),
        lambda c: c.models.retrieve("nix"),
        lambda c: c.put("/v1/messages", cast_to=object),
    ],
)
def test_unknown_paths_get_anthropics_error_format(
    client: anthropic.Anthropic, ask_for: Callable[[anthropic.Anthropic], Any]
) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask_for(client)

    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.status_code in {404, 405, 501}
    assert caught.value.request_id
