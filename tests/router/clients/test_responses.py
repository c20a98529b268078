"""OpenAI's official client as the judge of the Responses API: over simulated engines of all three kinds, and over fakes
that fail in every way.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai.types.responses import Response

from berth.canonical import Json
from berth.plan import DialectName, Keys
from berth.sim.options import PARAGRAPH
from tests.fakes.api_keys import api_keys
from tests.fakes.blocked_requests import BlockedRequests
from tests.fakes.responses import WEATHER, check_item, check_order, events
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica
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

ENGINES = ("vllm", "sglang", "trtllm")
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: patch"}
CODEX = {"user-agent": "codex_cli_rs/0.98.0 (Ubuntu 24.04; x86_64)"}


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=10)


@pytest.fixture
def client(router_fixture: RouterFixture) -> Iterator[openai.OpenAI]:
    with client_of(router_fixture.url) as client:
        yield client


@pytest.fixture(scope="module")
def engines() -> Iterator[RouterProcess]:
    """A router of two workers in front of one simulated engine of each kind; the models have the engines' names. Two
    keys are valid.
    """
    run_dir = tempfile.mkdtemp(prefix="br-")
    with ExitStack() as stack:
        replicas = []
        for name in ENGINES:
            server = stack.enter_context(running(name, names=(name,)))
            replicas.append(replica(f"{name}-a", f"http://127.0.0.1:{server.port}", dialect=DialectName(name)))
        plan = make_plan(run_dir, replicas)
        plan = replace(plan, open_access=False, listen=replace(plan.listen, workers=2))
        publish(plan)
        router = RouterProcess(plan, Keys(api_keys=api_keys("first", "second")))
        stack.callback(router.end)
        router.await_answer()
        yield router
    shutil.rmtree(run_dir)


@pytest.fixture
def real(engines: RouterProcess) -> Iterator[openai.OpenAI]:
    """A client of the simulated engines."""
    with client_of(engines.url, "first") as client:
        yield client


def ask(client: openai.OpenAI, *, streamed: bool, **fields: Any) -> Response:
    wanted: dict[str, Any] = {"input": "Hello", **fields}
    if not streamed:
        answer: Response = client.responses.create(**wanted)
        return answer
    with client.responses.stream(**wanted) as stream:
        return stream.get_final_response()


BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
EACH = pytest.mark.parametrize("model", ENGINES)


@BOTH
@EACH
def test_every_engine_responds(real: openai.OpenAI, model: str, *, streamed: bool) -> None:
    answer = ask(real, streamed=streamed, model=model, instructions="Be kind.")

    assert answer.output_text == PARAGRAPH
    assert (answer.status, answer.model) == ("completed", model)
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 50


@BOTH
@EACH
def test_every_engine_reasons(real: openai.OpenAI, model: str, *, streamed: bool) -> None:
    answer = ask(real, streamed=streamed, model=model, reasoning={"effort": "high"})

    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].to_dict()["content"]


@BOTH
@EACH
def test_every_engine_calls_a_tool_and_continues_with_its_result(
    real: openai.OpenAI, model: str, *, streamed: bool
) -> None:
    first = ask(real, streamed=streamed, model=model, tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert orjson.loads(call.arguments).keys() == {"city"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sun."}

    second = ask(real, streamed=streamed, model=model, tools=[WEATHER], previous_response_id=first.id, input=[result])

    assert second.output_text == PARAGRAPH
    assert second.previous_response_id == first.id


@BOTH
@pytest.mark.parametrize("model", ["vllm", "sglang"])
def test_a_tool_can_be_forced(real: openai.OpenAI, model: str, *, streamed: bool) -> None:
    other = {"type": "function", "name": "other", "parameters": {"type": "object", "properties": {}}}
    choice = {"type": "function", "name": "get_weather"}
    answer = ask(real, streamed=streamed, model=model, tools=[other, WEATHER], tool_choice=choice)

    assert [item.to_dict().get("name") for item in answer.output] == ["get_weather"]


@BOTH
@EACH
def test_response_matches_the_requested_format(real: openai.OpenAI, model: str, *, streamed: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"format": {"type": "json_schema", "name": "city", "schema": schema, "strict": True}}
    answer = ask(real, streamed=streamed, model=model, text=wanted)

    assert orjson.loads(answer.output_text).keys() == {"city"}


@EACH
def test_truncated_response_is_incomplete(real: openai.OpenAI, model: str) -> None:
    answer = ask(real, streamed=False, model=model, max_output_tokens=3)

    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


@EACH
def test_truncated_stream_ends_as_each_client_needs_it(engines: RouterProcess, model: str) -> None:
    def last(**headers: str) -> tuple[str, str]:
        wanted = {"model": model, "input": "Hello", "stream": True, "max_output_tokens": 3}
        headers = {"authorization": "Bearer first", **headers}
        found = events(httpx.post(f"{engines.url}/v1/responses", json=wanted, headers=headers).content)
        check_order(found)
        return found[-1]["type"], found[-1]["response"]["status"]

    assert last() == ("response.incomplete", "incomplete")
    assert last(**CODEX) == ("response.completed", "incomplete")


@pytest.mark.parametrize("model", ["vllm", "sglang"])
def test_logprobs(real: openai.OpenAI, model: str) -> None:
    answer = ask(real, streamed=True, model=model, top_logprobs=2, max_output_tokens=2000)
    part = answer.output[0].to_dict()["content"][0]  # type: ignore[index] # a message's

    assert len(part["logprobs"][0]["top_logprobs"]) == 2
    assert "".join(token["token"] for token in part["logprobs"]) == PARAGRAPH


@EACH
def test_tokens_are_counted(real: openai.OpenAI, model: str) -> None:
    few = real.responses.input_tokens.count(model=model, input="Hello")
    more = real.responses.input_tokens.count(model=model, input="Hello, how are you today?", instructions="Be kind.")

    assert few.object == "response.input_tokens"
    assert 0 < few.input_tokens < more.input_tokens


def test_conversation_continues_on_any_worker(engines: RouterProcess) -> None:
    """Each turn has a connection of its own, and so the kernel chooses the worker."""
    last = ""
    for turn in range(12):
        with client_of(engines.url, "first") as client:
            answer = ask(
                client, streamed=bool(turn % 2), model="vllm", input=f"turn {turn}", previous_response_id=last or None
            )
            last = answer.id

    with client_of(engines.url, "first") as client:
        items = list(client.responses.input_items.list(last, order="asc", limit=5))
    assert [item.to_dict()["content"][0]["text"] for item in items if item.to_dict()["role"] == "user"] == [  # type: ignore[index] # of messages
        f"turn {turn}" for turn in range(12)
    ]


def test_response_can_be_retrieved_and_deleted(real: openai.OpenAI) -> None:
    made = ask(real, streamed=True, model="vllm")

    assert real.responses.retrieve(made.id).output_text == made.output_text
    real.responses.delete(made.id)
    for gone in (real.responses.retrieve, real.responses.delete, real.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="not found") as refused:
            gone(made.id)
        assert refused.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError, match="not found"):
        ask(real, streamed=False, model="vllm", previous_response_id=made.id)


def test_response_belongs_to_its_owner(engines: RouterProcess, real: openai.OpenAI) -> None:
    made = ask(real, streamed=False, model="vllm")

    with client_of(engines.url, "second") as other:
        for denied in (other.responses.retrieve, other.responses.delete, other.responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                denied(made.id)
    with client_of(engines.url, "third") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.responses.retrieve(made.id)
    assert real.responses.retrieve(made.id).id == made.id


def test_response_with_store_false_is_not_stored(real: openai.OpenAI) -> None:
    made = ask(real, streamed=False, model="vllm", store=False)

    with pytest.raises(openai.NotFoundError):
        real.responses.retrieve(made.id)


def test_only_background_responses_can_be_cancelled(real: openai.OpenAI) -> None:
    made = ask(real, streamed=False, model="vllm")

    with pytest.raises(openai.BadRequestError, match="only background responses"):
        real.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError, match="'background' is not supported"):
        ask(real, streamed=False, model="vllm", background=True)


def test_stored_response_cannot_be_streamed_again(real: openai.OpenAI) -> None:
    made = ask(real, streamed=False, model="vllm")

    with pytest.raises(openai.BadRequestError, match="background"):
        list(real.responses.retrieve(made.id, stream=True))


@pytest.fixture(scope="module")
def three(engines: RouterProcess) -> str:
    """The id of a response with three items before it."""
    with client_of(engines.url, "first") as client:
        items: Any = [{"role": "user", "content": f"{number}"} for number in range(3)]
        return client.responses.create(model="vllm", input=items).id


@pytest.mark.parametrize(
    ("query", "shown", "more"),
    [
        ("", "210", False),
        ("?order=asc", "012", False),
        ("?limit=2", "21", True),
        ("?order=asc&limit=1&after={0}", "1", True),
        ("?after={0}", "", False),
        ("?limit=100&after={2}", "10", False),
    ],
)
def test_items_come_in_pages(engines: RouterProcess, three: str, query: str, shown: str, *, more: bool) -> None:
    url = f"{engines.url}/v1/responses/{three}/input_items"
    headers = {"authorization": "Bearer first"}
    ids = [item["id"] for item in httpx.get(f"{url}?order=asc", headers=headers).json()["data"]]
    page = httpx.get(url + query.format(*ids), headers=headers).json()

    for item in page["data"]:
        check_item(item)
    assert "".join(item["content"][0]["text"] for item in page["data"]) == shown
    assert page["has_more"] is more
    assert [page["first_id"], page["last_id"]] == (
        [page["data"][0]["id"], page["data"][-1]["id"]] if shown else ["", ""]
    )


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *(("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("limit=1²", "limit")),
        *(("limit=" + "9" * 5000, "limit"), ("order=up", "order"), ("after=msg_x", "after")),
    ],
)
def test_rejects_invalid_page(engines: RouterProcess, three: str, query: str, param: str) -> None:
    answer = httpx.get(
        f"{engines.url}/v1/responses/{three}/input_items?{query}", headers={"authorization": "Bearer first"}
    )

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_codex_request(engines: RouterProcess) -> None:
    wanted: Json = {
        "model": "vllm",
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandboxed."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
        ],
        "tools": [
            {"type": "function", "name": "exec_command", "strict": False, "parameters": {"type": "object"}},
            {"type": "custom", "name": "apply_patch", "format": GRAMMAR},
            {"type": "web_search"},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199",
    }
    headers = {"authorization": "Bearer first", **CODEX}
    answer = httpx.post(f"{engines.url}/v1/responses", json=wanted, headers=headers, timeout=10)

    found = events(answer.content)
    check_order(found)
    assert answer.headers["x-berth-ignored"].split(", ")[:1] == ["prompt_cache_key"]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["reasoning", "function_call"]
    assert done[0]["encrypted_content"]
    assert found[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] >= 0

    output = {"type": "function_call_output", "call_id": done[1]["call_id"], "output": "ok"}
    sent = [{name: value for name, value in done[0].items() if name != "content"}, done[1], output]
    again = httpx.post(
        f"{engines.url}/v1/responses", json={**wanted, "input": [*wanted["input"], *sent]}, headers=headers, timeout=10
    )
    assert events(again.content)[-1]["response"]["output"][-1]["type"] == "message"


@pytest.mark.parametrize(
    ("ask_for", "error", "code"),
    [
        (lambda c: c.responses.create(model="nix", input="x"), openai.NotFoundError, "model_not_found"),
        (lambda c: c.responses.create(model="chat", input=[]), openai.BadRequestError, "missing_required_parameter"),
        (lambda c: c.responses.create(model="org/embed", input="x"), openai.BadRequestError, None),
        (lambda c: c.responses.create(model="loading", input="x"), openai.InternalServerError, "model_not_ready"),
        (lambda c: c.responses.create(model="chat", input="x" * (1 << 20)), openai.APIStatusError, "request_too_large"),
        (
            lambda c: c.responses.create(model="chat", input="x", prompt={"id": "p"}),
            openai.BadRequestError,
            "unsupported_parameter",
        ),
        (
            lambda c: c.responses.create(model="chat", input="x", previous_response_id="resp_x"),
            openai.BadRequestError,
            "previous_response_not_found",
        ),
        (lambda c: c.responses.retrieve("resp_x"), openai.NotFoundError, "response_not_found"),
        (lambda c: c.responses.compact(model="chat"), openai.InternalServerError, "not_served"),
        (lambda c: c.get("/responses", cast_to=object), openai.APIStatusError, "method_not_allowed"),
        (lambda c: c.post("/responses/x/y", cast_to=object), openai.NotFoundError, "unknown_url"),
    ],
)  # fmt: skip
def test_errors_have_the_clients_classes_and_openais_codes(
    client: openai.OpenAI, ask_for: Callable[[openai.OpenAI], Any], error: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(error) as caught:
        ask_for(client)

    assert caught.value.code == code
    assert caught.value.request_id


def test_too_long_prompt_error_is_understood_by_codex(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(error_answer("This model's maximum context length is 10 tokens.", status=400))

    with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
        ask(client, streamed=True, model="chat")

    assert caught.value.code == "context_length_exceeded"


def test_response_has_the_clients_model_name(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(chat_answer())

    assert ask(client, streamed=False, model="gpt-4o-mini").model == "gpt-4o-mini"
    assert router_fixture.first.requests[0].json["model"] == "chat"


@pytest.mark.parametrize(
    "end",
    [
        pytest.param((RESET,), id="killed"),
        pytest.param((CLOSE,), id="closed"),
        pytest.param((LAST_CHUNK,), id="ended without a finish_reason"),
        pytest.param((chunk(b"data: {]\n\n"), LAST_CHUNK), id="no JSON any more"),
        pytest.param((chunk(sse({"error": {"message": "boom"}})), LAST_CHUNK), id="error in the stream"),
        pytest.param((4.0,), id="hangs", marks=pytest.mark.slow),
    ],
)
def test_broken_stream_ends_as_failed(router_fixture: RouterFixture, end: tuple[Step, ...]) -> None:
    begun = threading.Event()
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), chunk(chat_frame("a")), begun, *end)
    wanted = {"model": "chat", "input": "Hello", "stream": True}
    with httpx.stream("POST", f"{router_fixture.url}/v1/responses", json=wanted, timeout=10) as answer:
        parts = answer.iter_bytes()
        got = next(parts)
        begun.set()
        got += b"".join(parts)

    found = events(got)
    check_order(found)
    response = found[-1]["response"]
    assert (found[-1]["type"], response["status"], response["error"]["code"]) == (
        *("response.failed", "failed"),
        "server_error",
    )
    assert "incomplete" in response["error"]["message"]
    assert response["output"][0]["content"][0]["text"] == "a"
    assert router_fixture.second.requests == []
    kept = httpx.get(f"{router_fixture.url}/v1/responses/{response['id']}").json()
    assert kept == response


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((RESET,), id="killed"),
        pytest.param((error_answer("boom", status=500),), id="500"),
        pytest.param((stream_head(), chunk(chat_frame(role=True)), RESET), id="killed after the role"),
        pytest.param((stream_head(), chunk(sse({"error": {"message": "boom"}}))), id="error as the first frame"),
    ],
)
def test_failure_before_the_first_token_falls_back(
    router_fixture: RouterFixture, client: openai.OpenAI, steps: tuple[Step, ...]
) -> None:
    router_fixture.first.answers(*steps)
    router_fixture.second.answers(*chat_stream("a", "b"))

    assert ask(client, streamed=True, model="chat").output_text == "ab"


@pytest.mark.slow
def test_queued_stream_gets_heartbeats(run_dir: str) -> None:
    with FakeUpstream() as engine:
        plan = make_plan(
            run_dir, [replica("one-a", engine.url, concurrency=1)], limits=replace(LIMITS, queue_timeout_s=20)
        )
        publish(plan)
        router = RouterProcess(plan)
        router.await_answer()
        with BlockedRequests(router.url, [engine]) as blocked, client_of(router.url) as client:
            engine.answers(*chat_stream("a", "b"))
            engine.answers_once(blocked.go, chat_answer())
            blocked.send_and_wait("one")
            with client.responses.stream(model="one", input="Hello") as stream:  # begins when it has waited
                blocked.go.set()
                answer = stream.get_final_response()
        router.end()

    assert answer.output_text == "ab"


@pytest.mark.anyio
async def test_asynchronous_client_gets_the_same(engines: RouterProcess) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{engines.url}/v1", api_key="first", max_retries=0) as client,
        client.responses.stream(model="vllm", input="Hello") as stream,
    ):
        answer = await stream.get_final_response()

    assert answer.output_text == PARAGRAPH


def test_response_without_a_message_is_the_engines_failure(router_fixture: RouterFixture) -> None:
    choice = {"index": 0, "finish_reason": "stop"}
    router_fixture.first.answers(json_answer({"id": "x", "model": "solo", "choices": [choice]}))

    response = httpx.post(f"{router_fixture.url}/v1/responses", json={"model": "solo", "input": "Hi"}, trust_env=False)

    assert response.status_code == 502
    assert "unexpected response" in response.json()["error"]["message"]
