import orjson
import pytest

from berth.canonical import EngineResponse, Failure, FailureKind, Json, Operation
from berth.dialects.base import UnsupportedError
from berth.dialects.trtllm import TrtllmDialect
from tests.fakes.recordings import inference_request, recording

CHAT: Json = {"model": "alias", "messages": [{"role": "user", "content": "Hello"}]}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {}, "strict": True}}
SCHEMA: Json = {"type": "object"}


def sent(body: Json, operation: Operation = Operation.CHAT) -> Json:
    document: Json = orjson.loads(TrtllmDialect().request(inference_request(body, operation), "tiny").body)
    return document


REQUESTS: dict[str, tuple[Json, Json]] = {
    "harmless fields go": ({"store": True, "metadata": {}, "service_tier": "auto", "safety_identifier": "x"}, {}),
    "null is left out": ({"top_logprobs": None, "anything": None}, {}),
    "defaults go": ({"parallel_tool_calls": True, "continue_final_message": False, "modalities": ["text"]}, {}),
    "sampling stays": ({"temperature": 0, "top_k": 4, "stop": ["a"]}, {"temperature": 0, "top_k": 4, "stop": ["a"]}),
    "max_completion_tokens": ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
    "strict tools": (
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "auto"},
    ),
    "a choice without tools": ({"tool_choice": "none"}, {}),
    "OpenAI's schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        {"response_format": {"type": "json", "schema": SCHEMA}},
    ),
    "any JSON": ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    "guided_json": ({"guided_json": SCHEMA}, {"response_format": {"type": "json", "schema": SCHEMA}}),
    "json_object": (
        {"structured_outputs": {"json_object": True}},
        {"response_format": {"type": "json_object"}},
    ),
    "regex": ({"regex": "a"}, {"response_format": {"type": "regex", "regex": "a"}}),
    "choice": ({"guided_choice": ["a", "b"]}, {"response_format": {"type": "regex", "regex": "(a|b)"}}),
    "grammar": ({"ebnf": "g"}, {"response_format": {"type": "ebnf", "ebnf": "g"}}),
    "streaming": (
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": False}},
    ),
}


@pytest.mark.parametrize(("given", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_sends_only_known_fields(given: Json, expected: Json) -> None:
    assert sent({**CHAT, **given}) == {"model": "tiny", "messages": CHAT["messages"], **expected}


REJECTED: dict[str, tuple[Json, str]] = {
    "forced call": ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    "named call": ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
    "continuing": ({"continue_final_message": True}, "continue_final_message"),
    "an effort it does not know": ({"reasoning_effort": "huge"}, "reasoning_effort"),
    "structural tag": ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
    "an option of vLLM": ({"structured_outputs": {"json": {}, "whitespace_pattern": "x"}}, "structured_outputs"),
}


@pytest.mark.parametrize(("given", "param"), REJECTED.values(), ids=REJECTED)
def test_unsupported_requests_are_rejected(given: Json, param: str) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        sent({**CHAT, **given})

    assert rejected.value.param == param


def test_converts_developer_role_and_drops_reasoning() -> None:
    turns = [
        {"role": "developer", "content": "Be short."},
        {"role": "assistant", "content": "Hi", "reasoning": "Greet.", "reasoning_content": "Greet."},
    ]

    assert sent({"model": "a", "messages": turns})["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "assistant", "content": "Hi"},
    ]


@pytest.mark.parametrize(("given", "expected"), [({}, 16), ({"max_tokens": None}, 16), ({"max_tokens": 3}, 3)])
def test_completions_have_openais_default_max_tokens(given: Json, expected: int) -> None:
    assert sent({"model": "a", "prompt": "x", "suffix": "", **given}, Operation.COMPLETION) == {
        "model": "tiny",
        "prompt": "x",
        "max_tokens": expected,
    }


def test_does_not_serve_embeddings() -> None:
    with pytest.raises(UnsupportedError, match="does not serve embeddings"):
        sent({"model": "a", "input": "x"}, Operation.EMBEDDING)


FAULTS = {
    "err_unknown_field": FailureKind.UNSUPPORTED,
    "err_unknown_field_later": FailureKind.UNSUPPORTED,
    "err_type": FailureKind.CLIENT,
    "err_too_long": FailureKind.CLIENT,
    "err_engine": FailureKind.ENGINE,
    "chat_null": FailureKind.ENGINE,
}


@pytest.mark.parametrize(("name", "kind"), FAULTS.items())
def test_classifies_recorded_400s(name: str, kind: FailureKind) -> None:
    seen = recording(f"trtllm/base/{name}")
    failure = TrtllmDialect().answer(seen.request(), "tiny", seen.status, seen.answer)

    assert isinstance(failure, Failure)
    assert failure.kind is kind


def test_response_has_no_empty_tool_calls_and_both_reasoning_names() -> None:
    seen = recording("trtllm/base/chat_reasoning")
    answer = TrtllmDialect().answer(seen.request(), "tiny", seen.status, seen.answer)

    assert isinstance(answer, EngineResponse)
    message = orjson.loads(answer.body)["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == "Two and two."
    assert "tool_calls" not in message
    assert answer.usage.cached_tokens == 8
