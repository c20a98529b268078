import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import json_text
from berth.apis.base import Immediate
from berth.apis.ollama.chat import OllamaChat
from berth.apis.ollama.response import CHAT
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError
from tests.apis.ollama.documents import CHATS, JSON, mutated

USER: Json = {"role": "user", "content": "Hello"}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def parse(**fields: object) -> InferenceRequest:
    request = OllamaChat().parse(orjson.dumps({"model": "m:latest", "messages": [USER], **fields}))
    assert isinstance(request, InferenceRequest)
    return request


def test_streams_by_default() -> None:
    request = parse()

    assert (request.operation, request.model) == (Operation.CHAT, "m:latest")
    assert request.body == {"model": "m:latest", "messages": [USER], "stream": True}
    assert request.stream
    assert request.include_usage
    assert request.original["messages"] == [USER]


def test_stream_false_disables_streaming() -> None:
    request = parse(stream=False)

    assert (request.stream, request.include_usage, "stream" in request.body) == (False, False, False)


def test_translates_all_supported_fields() -> None:
    request = parse(
        stream=False,
        tools=[TOOL],
        think="low",
        format="json",
        options={"temperature": 0, "num_predict": 9},
        logprobs=True,
        top_logprobs=2,
    )

    assert request.body == {
        "model": "m:latest",
        "messages": [USER],
        "temperature": 0,
        "max_tokens": 9,
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [TOOL],
    }
    assert request.ignored == ()


def test_lists_ignored_fields() -> None:
    request = parse(options={"num_ctx": 8192, "temperature": 1}, keep_alive="5m", unknown=1, tools=[])

    assert request.ignored == ("keep_alive", "options.num_ctx")
    assert "tools" not in request.body


def test_continues_a_prefilled_assistant_message() -> None:
    body = parse(messages=[USER, {"role": "assistant", "content": "It is"}], think="high").body

    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert "reasoning_effort" not in body
    assert "continue_final_message" not in parse().body


@pytest.mark.parametrize("messages", [{}, {"messages": None}, {"messages": []}])
@pytest.mark.parametrize(("keep_alive", "reason"), [({}, "load"), ({"keep_alive": 0}, "unload")])
def test_request_without_messages_loads_or_unloads(messages: Json, keep_alive: Json, reason: str) -> None:
    answer = OllamaChat().parse(orjson.dumps({"model": "m", **messages, **keep_alive}))

    assert isinstance(answer, Immediate)
    assert answer.model == "m"
    assert orjson.loads(answer.body)["done_reason"] == reason


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages.0"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools.0"),
        ({"stream": 1}, "stream"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
    ],
)
def test_rejects_invalid_field_by_name(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**fields)

    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "m", "messages": ' + b"[" * 99_999])
def test_rejects_body_that_is_not_a_json_object(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        OllamaChat().parse(body)


def test_accepts_a_schema_as_deep_as_can_be_written() -> None:
    deep = b'{"a":' * 250 + b"{}" + b"}" * 250

    try:
        request = OllamaChat().parse(b'{"model":"m","messages":[{"role":"user","content":"x"}],"format":' + deep + b"}")
    except InvalidRequestError as error:
        assert "nested too deeply" in error.message  # noqa: PT017 - either is right
    else:
        assert isinstance(request, InferenceRequest)
        json_text.dumps(request.body)


def test_encodes_streams_and_responses() -> None:
    api, request = OllamaChat(), parse()

    assert isinstance(api.stream(request), OllamaStream)
    answer = api.response(request, b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}')
    assert orjson.loads(answer)["message"] == CHAT.fields("Hi")["message"]


@settings(max_examples=200, deadline=None)
@given(document=st.one_of(JSON, *(mutated(chat) for chat in CHATS)))
def test_any_request_is_rejected_or_valid_for_every_engine(document: object) -> None:
    try:
        request = OllamaChat().parse(orjson.dumps(document))
    except InvalidRequestError:
        return
    if isinstance(request, InferenceRequest):
        OpenaiChat().parse(json_text.dumps(request.body))
        assert "".join(request.ignored).isprintable()
