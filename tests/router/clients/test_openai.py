"""The official client as the judge of the router's answers."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
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

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(router_fixture: RouterFixture) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router_fixture.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client


def streamed(client: openai.OpenAI, model: str = "chat") -> list[str]:
    stream = client.chat.completions.create(model=model, messages=HELLO, stream=True)
    return [choice.delta.content or "" for part in stream for choice in part.choices]


def test_chat(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(chat_answer("hello"))

    answer = client.chat.completions.create(model="chat", messages=HELLO)

    assert answer.choices[0].message.content == "hello"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 4
    assert router_fixture.first.requests[0].json["messages"] == HELLO


def test_stream_is_forwarded_token_by_token(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(*chat_stream("a", "b", "c"))

    assert "".join(streamed(client)) == "abc"


def test_stream_has_usage_if_requested(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(*chat_stream("a", "b"))

    stream = client.chat.completions.create(
        model="chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]

    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 2


def test_an_alias_means_its_model(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(chat_answer())

    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)

    assert router_fixture.first.requests[0].json["model"] == "chat"
    assert answer.model == "chat"


def test_completion_streamed_or_not(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    document = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "chat"}
    choice = {"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}
    router_fixture.first.answers_once(json_answer({**document, "choices": [choice]}))
    router_fixture.first.answers(
        stream_head(),
        chunk(sse({**document, "choices": [{**choice, "text": "he", "finish_reason": None}]})),
        chunk(sse({**document, "choices": [{**choice, "text": "llo"}]})),
        chunk(b"data: [DONE]\n\n"),
        LAST_CHUNK,
    )

    whole = client.completions.create(model="chat", prompt="x")
    stream = client.completions.create(model="chat", prompt="x", stream=True)

    assert whole.choices[0].text == "hello"
    assert "".join(part.choices[0].text for part in stream) == "hello"


def test_embeddings(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
    router_fixture.embedder.answers(json_answer({"object": "list", "model": "org/embed", "data": [vector]}))

    answer = client.embeddings.create(model="org/embed", input="x")

    assert answer.data[0].embedding == [0.5, 0.25]
    assert router_fixture.embedder.requests[0].path == "/v1/embeddings"


def test_models_are_listed_with_their_aliases(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}

    assert {"chat", "gpt-4o-mini", "org/embed", "loading"} <= models.keys()
    assert (models["gpt-4o-mini"].model_extra or {})["root"] == "chat"
    assert (models["chat"].model_extra or {})["max_model_len"] == 4096


def test_a_model_is_found_by_a_name_with_a_slash(client: openai.OpenAI) -> None:
    assert client.models.retrieve("org/embed").id == "org/embed"


def test_trailing_slash_of_base_url_is_accepted(router_fixture: RouterFixture) -> None:
    with openai.OpenAI(base_url=f"{router_fixture.url}/v1//", api_key="none") as client:
        assert client.models.list().data


@pytest.mark.parametrize(
    ("ask", "error", "code"),
    [
        (lambda c: c.chat.completions.create(model="nix", messages=HELLO), openai.NotFoundError, "model_not_found"),
        (lambda c: c.models.retrieve("nix"), openai.NotFoundError, "model_not_found"),
        (lambda c: c.chat.completions.create(model="chat", messages=[]), openai.BadRequestError, None),
        (lambda c: c.embeddings.create(model="chat", input="x"), openai.BadRequestError, None),
        (
            lambda c: c.chat.completions.create(model="loading", messages=HELLO),
            openai.InternalServerError,
            "model_not_ready",
        ),
        (
            lambda c: c.chat.completions.create(model="failed", messages=HELLO),
            openai.InternalServerError,
            "model_failed",
        ),
        (lambda c: c.post("/nix", cast_to=object), openai.NotFoundError, "unknown_url"),
        (lambda c: c.post("/models", cast_to=object), openai.InternalServerError, "not_served"),
        (lambda c: c.get("/embeddings", cast_to=object), openai.APIStatusError, "method_not_allowed"),
        (
            lambda c: c.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x" * (1 << 20)}]),
            openai.APIStatusError,
            "request_too_large",
        ),
    ],
)
def test_errors_have_the_clients_classes_and_openais_codes(
    client: openai.OpenAI, ask: Callable[[openai.OpenAI], Any], error: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(error) as caught:
        ask(client)

    assert caught.value.code == code
    assert caught.value.request_id
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


def test_engine_rejection_reaches_the_client(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(error_answer("This model's maximum context length is 10 tokens.", status=400))

    with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
        client.chat.completions.create(model="chat", messages=HELLO)

    assert caught.value.code == "context_length_exceeded"
    assert router_fixture.second.requests == []


def test_loading_model_error_has_the_progress(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match=r"starting on vllm: load 45 %") as caught:
        client.chat.completions.create(model="loading", messages=HELLO)

    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    "end",
    [
        pytest.param((RESET,), id="killed"),
        pytest.param((CLOSE,), id="closed"),
        pytest.param((LAST_CHUNK,), id="ended without a finish_reason"),
        pytest.param((b"zz\r\n",), id="no HTTP any more"),
        pytest.param((chunk(b"data: {]\n\n"), LAST_CHUNK), id="no JSON any more"),
        pytest.param((chunk(sse({"error": {"message": "boom"}})), LAST_CHUNK), id="error in the stream"),
        pytest.param((chunk(chat_frame("b")[:20]), CLOSE), id="cut in a frame"),
        pytest.param((4.0,), id="hangs", marks=pytest.mark.slow),
    ],
)
def test_broken_stream_is_an_error_and_never_looks_complete(
    router_fixture: RouterFixture, client: openai.OpenAI, end: tuple[Step, ...]
) -> None:
    begun = threading.Event()
    router_fixture.first.answers(stream_head(), chunk(chat_frame(role=True)), chunk(chat_frame("a")), begun, *end)
    stream = client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    seen = [next(stream).choices[0].delta.content, next(stream).choices[0].delta.content]
    begun.set()

    with pytest.raises(openai.APIError, match="incomplete") as caught:
        next(stream)

    assert not isinstance(caught.value, openai.APIStatusError)
    assert seen == ["", "a"]
    assert router_fixture.second.requests == []


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((RESET,), id="killed"),
        pytest.param((CLOSE,), id="closed"),
        pytest.param((b"nonsense\r\n\r\n",), id="no HTTP"),
        pytest.param((error_answer("boom", status=500),), id="500"),
        pytest.param((error_answer("full", status=429),), id="429"),
        pytest.param((error_answer("full", status=503),), id="503"),
        pytest.param((json_answer(None),), id="200 null"),
        pytest.param((b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", CLOSE), id="content-length too large"),
        pytest.param((stream_head(), RESET), id="killed after the head"),
        pytest.param((stream_head(), chunk(chat_frame(role=True)), RESET), id="killed after the role"),
        pytest.param((stream_head(), chunk(sse({"error": {"message": "boom"}}))), id="error as the first frame"),
        pytest.param((stream_head(), chunk(chat_frame(role=True) + sse({"error": {"message": "x"}}))), id="after role"),
        pytest.param((stream_head(), LAST_CHUNK), id="empty stream"),
        pytest.param((stream_head(), chunk(chat_frame(role=True)), 4.0), id="hangs after role", marks=pytest.mark.slow),
        pytest.param((4.0,), id="hangs", marks=pytest.mark.slow),
    ],
)
def test_failure_before_the_first_token_falls_back(
    router_fixture: RouterFixture, client: openai.OpenAI, steps: tuple[Step, ...]
) -> None:
    router_fixture.first.answers(*steps)
    router_fixture.second.answers(*chat_stream("a", "b"))

    assert "".join(streamed(client)) == "ab"


def test_response_of_killed_engine_comes_from_the_next(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{", RESET
    )
    router_fixture.second.answers(chat_answer("from the second"))

    raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO)

    assert raw.parse().choices[0].message.content == "from the second"
    assert raw.headers["x-berth-engine"] == "sglang"
    assert raw.headers["x-berth-replica"] == "chat-sglang"
    assert raw.headers["x-berth-attempts"] == "2"
    assert raw.headers["x-berth-mode"] == "native"
    assert raw.headers["server-timing"].startswith("upstream;dur=")
