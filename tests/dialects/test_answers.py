from typing import Any

import orjson
import pytest

from berth.canonical import EngineResponse, Failure, FailureKind, Json, Operation, Usage
from berth.dialects.answers import read_answer
from tests.fakes.recordings import OPERATIONS, Recording, inference_request, recording, recordings

REQUEST = inference_request({"model": "m", "messages": []})


def answer_to(seen: Recording, model: str = "tiny") -> EngineResponse | Failure:
    return read_answer(seen.request(), model, seen.status, seen.answer)


def document_of(answer: EngineResponse | Failure) -> Json:
    assert isinstance(answer, EngineResponse)
    document: Json = orjson.loads(answer.body)
    return document


def whole_answers() -> list[Recording]:
    """Recorded 200 answers of the model "tiny" to what Berth serves, less streams."""
    return [
        seen
        for engine in ("vllm", "sglang", "trtllm")
        for seen in recordings(engine)
        if seen.status == 200 and not seen.is_stream and seen.path in OPERATIONS
        if b'"model":"tiny"' in seen.answer and b'"choices"' in seen.answer
    ]


@pytest.mark.parametrize("seen", whole_answers(), ids=lambda seen: seen.name)
def test_keeps_text_and_usage_of_recorded_responses(seen: Recording) -> None:
    answer = answer_to(seen)

    document, original = document_of(answer), orjson.loads(seen.answer)
    assert isinstance(answer, EngineResponse)
    assert answer.usage.prompt_tokens == original["usage"]["prompt_tokens"]
    assert answer.usage.completion_tokens == original["usage"]["completion_tokens"]
    for choice, before in zip(document["choices"], original["choices"], strict=True):
        assert choice.get("text") == before.get("text")
        assert choice.get("message", {}).get("content") == before.get("message", {}).get("content")


@pytest.mark.parametrize("name", ["vllm/base/tools_named"])
def test_recorded_arguments_of_no_schema_are_not_accepted(name: str) -> None:
    """The answer of vLLM to a forced call of a tool that is not strict."""
    seen = recording(name)
    answer = read_answer(inference_request(seen.body), "m", seen.status, seen.answer)

    assert isinstance(answer, Failure)
    assert (answer.code, answer.message) == (
        "schema_not_kept",
        "the arguments of the forced call of 'get_time' are not a JSON object",
    )


NO_OBJECTS = ["true", "[1]", '"x"', "1", "{", '{"a":', "}{", "nul", "{'a': 1}"]
OBJECTS = ["{}", "", ' {"a": 1} ', '{"a": NaN}', '{"a": "\\ud800"}', '{"a":' + "[" * 2000 + "]" * 2000 + "}", None]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
@pytest.mark.parametrize(
    ("arguments", "fits"), [*((text, False) for text in NO_OBJECTS), *((text, True) for text in OBJECTS)]
)
def test_arguments_of_a_forced_call_are_an_object(choice: object, arguments: str | None, fits: bool) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    for finish in ("stop", "tool_calls", "length"):
        made = {"index": 0, "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": finish}
        body = orjson.dumps({"id": "r", "object": "chat.completion", "model": "m", "choices": [made]})
        answers = [
            read_answer(inference_request({"model": "m", "messages": [], "tool_choice": one}), "m", 200, body)
            for one in (choice, "auto")
        ]

        assert isinstance(answers[0], EngineResponse) == (fits or finish == "length")
        assert isinstance(answers[1], EngineResponse)


def test_each_call_has_an_id_of_its_own() -> None:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": given, "function": function} for given in ("a", "a", None, "b", "")]
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": calls}, "finish_reason": "tool_calls"}
    body = orjson.dumps({"id": "r", "object": "chat.completion", "model": "m", "choices": [choice]})

    answer = read_answer(inference_request({"model": "m", "messages": []}), "m", 200, body)

    shown = document_of(answer)["choices"][0]["message"]["tool_calls"]
    assert [call["id"] for call in shown] == ["a", "call_r_1", "call_r_2", "b", "call_r_4"]


def test_forced_call_finishes_with_tool_calls() -> None:
    choice = document_of(answer_to(recording("vllm/base/tools_named")))["choices"][0]

    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_time"
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("fields", "kept"), [({}, 2), ({"parallel_tool_calls": True}, 2), ({"parallel_tool_calls": False}, 1)]
)
def test_drops_further_calls_without_parallel_tool_calls(fields: Json, kept: int) -> None:
    """TensorRT-LLM does not know the field, and others do not keep to it with every model."""
    calls = [{"id": str(n), "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(2)]
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": calls}, "finish_reason": "tool_calls"}
    body = orjson.dumps({"object": "chat.completion", "model": "m", "choices": [choice]})

    answer = read_answer(inference_request({"model": "m", "messages": [], **fields}), "m", 200, body)

    assert document_of(answer)["choices"][0]["message"]["tool_calls"] == calls[:kept]


@pytest.mark.parametrize(
    "message", [{"content": {"a": 1}}, {"reasoning": 7}, {"tool_calls": [{"id": "c", "function": {"name": ["f"]}}]}]
)
def test_wrong_types_in_a_message_are_an_engine_failure(message: Json) -> None:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    failure = read_answer(REQUEST, "m", 200, orjson.dumps({"model": "m", "choices": [choice]}))

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


@pytest.mark.parametrize("logprobs", [7, {"content": [{"token": "x", "logprob": "-0.1"}]}, {"tokens": ["x", None]}])
def test_wrong_types_in_logprobs_are_an_engine_failure(logprobs: Any) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "logprobs": logprobs}
    failure = read_answer(REQUEST, "m", 200, orjson.dumps({"model": "m", "choices": [choice]}))

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


@pytest.mark.parametrize("name", ["vllm/base/reason_basic", "sglang/reasoning/reas_forced"])
def test_reasoning_is_returned_under_both_names(name: str) -> None:
    message = document_of(answer_to(recording(name)))["choices"][0]["message"]

    assert message["reasoning"] == message["reasoning_content"]
    assert message["reasoning"]


def test_returns_the_public_model_name() -> None:
    assert document_of(answer_to(recording("vllm/base/chat_basic"), "public"))["model"] == "public"


def test_aborted_request_is_a_failure() -> None:
    body = b'{"model":"m","choices":[{"index":0,"message":{"content":"half"},"finish_reason":"abort"}]}'

    assert isinstance(read_answer(REQUEST, "m", 200, body), Failure)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"",
        b'{"model":"m","choi',
        b'{"model":"m","choices":[]}',
        b'{"model":"m"}  ',
        b'{"model":"x","choices":null}',
        b'{"model":"x","choices":["a"]}',
        b'{"model":"x","choices":[{"finish_reason":"stop"}],"usage":"none"}',
        b'{"error":{"message":"boom"}}',
        b'{"object":"error","message":"boom"}',
        b'{"model":"x","choices":[{"message":{"tool_calls":7},"finish_reason":"stop","x":'
        + b"[" * 400
        + b"]" * 400
        + b"}]}",
    ],
)
@pytest.mark.parametrize("operation", [one for one in Operation if one is not Operation.MEDIA])
def test_invalid_body_with_200_is_an_engine_failure(body: bytes, operation: Operation) -> None:
    failure = read_answer(inference_request({"model": "m"}, operation), "m", 200, body)

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b"", Usage()),
        (b',"usage":null', Usage()),
        (b',"usage":{"prompt_tokens":3,"completion_tokens":null}', Usage(prompt_tokens=3)),
        (b',"usage":{"prompt_tokens_details":{"cached_tokens":2}}', Usage(cached_tokens=2)),
        (b',"usage":{prompt_tokens}', Usage()),
    ],
)
def test_reads_usage_of_embeddings_without_parsing_vectors(usage: bytes, expected: Usage) -> None:
    body = b'{"model":"m","data":[{"index":0,"embedding":[0.5]}]' + usage + b"}"
    request = inference_request({"model": "m", "input": "x"}, Operation.EMBEDDING)

    assert read_answer(request, "m", 200, body) == EngineResponse(body=body, usage=expected)


def test_text_that_looks_like_json_stays_unchanged() -> None:
    text = 'say "usage":{"prompt_tokens":99} and "choices":[] and "error":{'
    document = {
        "model": "m",
        "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1},
    }
    body = orjson.dumps(document)

    assert read_answer(REQUEST, "m", 200, body) == EngineResponse(body=body, usage=Usage(prompt_tokens=1))
