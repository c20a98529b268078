import orjson
import pytest

from berth.canonical import EngineResponse, Json, Operation
from berth.dialects.base import UnsupportedError
from berth.dialects.vllm import VllmDialect
from berth.errors import InvalidRequestError
from tests.fakes.recordings import inference_request, recording

CHAT: Json = {"model": "alias", "messages": [{"role": "user", "content": "Hello"}]}


def sent(body: Json, operation: Operation = Operation.CHAT) -> Json:
    request = VllmDialect().request(inference_request(body, operation), "tiny")
    document: Json = orjson.loads(request.body)
    return document


REQUESTS: dict[str, tuple[Json, Json]] = {
    "the engine's own name": ({}, {"model": "tiny"}),
    "unknown fields pass": ({"top_k": 3}, {"top_k": 3}),
    "usage is always requested": ({"stream": True}, {"stream_options": {"include_usage": True}}),
    "usage in every chunk if requested": (
        {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ),
    "padding is not passed on": (
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"stream_options": {"include_usage": True}},
    ),
    "old guided_json": ({"guided_json": {"type": "object"}}, {"structured_outputs": {"json": {"type": "object"}}}),
    "guided_choice": ({"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}),
    "SGLang's regex": ({"regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
    "SGLang's ebnf": ({"ebnf": "root ::= 'a'"}, {"structured_outputs": {"grammar": "root ::= 'a'"}}),
    "its own spelling": (
        {"structured_outputs": {"regex": "a+", "whitespace_pattern": " "}},
        {"structured_outputs": {"regex": "a+", "whitespace_pattern": " "}},
    ),
    "SGLang's no_stop_trim": ({"no_stop_trim": True}, {"include_stop_str_in_output": True}),
    "continuing excludes a generation prompt": ({"continue_final_message": True}, {"add_generation_prompt": False}),
}


@pytest.mark.parametrize(("given", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_spells_requests_for_vllm(given: Json, expected: Json) -> None:
    body = sent({**CHAT, **given})

    assert {name: body[name] for name in expected} == expected
    assert not {"guided_json", "guided_choice", "regex", "ebnf"} & body.keys()


def test_does_not_edit_the_request() -> None:
    body = {**CHAT, "stream": True, "guided_regex": "a"}
    before = orjson.dumps(body)

    sent(body)

    assert orjson.dumps(body) == before


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_earlier_reasoning_has_vllms_field_name(name: str) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", name: "Greet."}]

    body = sent({"model": "alias", "messages": turns})

    assert body["messages"] == [turns[0], {"role": "assistant", "content": "Hello", "reasoning": "Greet."}]


@pytest.mark.parametrize("given", [{"best_of": 2}, {"stop": list("abcde")}])
def test_rejects_what_vllm_does_not_support(given: Json) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        sent({**CHAT, **given})

    assert rejected.value.param in given


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (Operation.CHAT, "/v1/chat/completions"),
        (Operation.COMPLETION, "/v1/completions"),
        (Operation.EMBEDDING, "/v1/embeddings"),
    ],
)
def test_each_operation_has_its_path(operation: Operation, path: str) -> None:
    assert VllmDialect().request(inference_request({"model": "a"}, operation), "tiny").path == path


@pytest.mark.parametrize("name", ["chat_basic", "chat_n2", "chat_logprobs", "comp_basic", "fmt_json_schema"])
def test_ordinary_response_stays_byte_for_byte(name: str) -> None:
    seen = recording(f"vllm/base/{name}")

    answer = VllmDialect().answer(seen.request(), "tiny", seen.status, seen.answer)

    assert isinstance(answer, EngineResponse)
    assert answer.body == seen.answer
    assert answer.usage.prompt_tokens == orjson.loads(seen.answer)["usage"]["prompt_tokens"]


def test_engine_gets_no_lone_surrogate_and_every_digit() -> None:
    said = [{"role": "assistant", "content": "a\ud99cb \U0001f98a"}, *CHAT["messages"]]
    tools = [{"function": {"parameters": {"const": 10**30}}}]

    found = sent({**CHAT, "messages": said, "tools": tools})

    assert found["messages"][0]["content"] == "a\ufffdb \U0001f98a"
    assert (
        b"1000000000000000000000000000000"
        in VllmDialect().request(inference_request({**CHAT, "tools": tools}, Operation.CHAT), "tiny").body
    )


def test_rejects_many_values_beside_a_large_integer() -> None:
    with pytest.raises(InvalidRequestError, match="more than 50000 values"):
        sent({**CHAT, "tools": [10**30, *range(60_000)]})
