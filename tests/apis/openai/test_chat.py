import orjson
import pytest

from berth import json_text
from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError
from tests.fakes.recordings import Recording, recordings

USER: Json = {"role": "user", "content": "Hello"}
CALL: Json = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL: Json = {"type": "function", "function": {"name": "f"}}


def parse(**fields: object) -> InferenceRequest:
    return OpenaiChat().parse(orjson.dumps({"model": "m", "messages": [USER], **fields}))


def test_parses_a_complete_request() -> None:
    request = parse(stream=True, stream_options={"include_usage": True}, top_k=3, temperature=None)

    assert request.operation is Operation.CHAT
    assert (request.model, request.stream, request.include_usage) == ("m", True, True)
    assert request.body["top_k"] == 3


def test_usage_is_off_by_default() -> None:
    assert not parse(stream=True, stream_options={}).include_usage
    assert not parse(stream=True, stream_options=None).include_usage
    assert not parse().stream


VALID: dict[str, Json] = {
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    "developer": {"messages": [{"role": "developer", "content": "Be short."}, USER]},
    "a tool's turn": {
        "messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "7"}],
        "tools": [TOOL],
    },
    "null content of an assistant": {"messages": [{"role": "assistant", "content": None, "tool_calls": None}]},
    "a named tool": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "tool_choice none without tools": {"tool_choice": "none"},
    "an integer as temperature": {"temperature": 1},
    "one stop string": {"stop": "."},
    "many stop strings": {"stop": list("abcdef")},
    "log probabilities": {"logprobs": True, "top_logprobs": 20},
    "a field that nobody knows": {"no_such_field": {"a": [1]}},
    "empty old fields": {"functions": []},
}


@pytest.mark.parametrize("fields", VALID.values(), ids=VALID)
def test_accepts_what_engines_accept(fields: Json) -> None:
    assert parse(**fields).body == {"model": "m", "messages": [USER], **fields}


@pytest.mark.parametrize("kind", ["json_object", "json"])
def test_translates_tgis_schema(kind: str) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}

    body = parse(response_format={"type": kind, "value": schema}).body

    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


INVALID: dict[str, tuple[Json, str]] = {
    "no model": ({"model": None}, "model"),
    "empty model": ({"model": ""}, "model"),
    "model of another type": ({"model": ["m"]}, "model"),
    "no messages": ({"messages": None}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "messages as text": ({"messages": "Hello"}, "messages"),
    "a message as text": ({"messages": [USER, "Hello"]}, "messages.1"),
    "unknown role": ({"messages": [{"role": "zzz", "content": "x"}]}, "messages.0.role"),
    "role of another type": ({"messages": [{"role": ["user"], "content": "x"}]}, "messages.0.role"),
    "null content": ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content"),
    "content as a number": ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
    "a part as text": ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages.0.content.0"),
    "a part without type": ({"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content.0"),
    "calls as an object": ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages.0.tool_calls"),
    "a call without function": ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0"),
    "a call as text": ({"messages": [{"role": "assistant", "tool_calls": ["f"]}]}, "messages.0.tool_calls.0"),
    "arguments as an object": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
        "messages.0.tool_calls.0.function.arguments",
    ),
    "stream as text": ({"stream": "yes"}, "stream"),
    "stream as a number": ({"stream": 1}, "stream"),
    "stream_options as text": ({"stream": True, "stream_options": "usage"}, "stream_options"),
    "include_usage as text": ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options"),
    "stream_options without stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "temperature as text": ({"temperature": "hot"}, "temperature"),
    "temperature as a boolean": ({"temperature": True}, "temperature"),
    "negative temperature": ({"temperature": -1}, "temperature"),
    "top_p over 1": ({"top_p": 1.5}, "top_p"),
    "penalty over 2": ({"presence_penalty": 3}, "presence_penalty"),
    "max_tokens as text": ({"max_tokens": "a lot"}, "max_tokens"),
    "max_tokens with a fraction": ({"max_tokens": 5.5}, "max_tokens"),
    "negative max_tokens": ({"max_completion_tokens": -1}, "max_completion_tokens"),
    "n of 0": ({"n": 0}, "n"),
    "n of 100,000": ({"n": 100_000}, "n"),
    "seed as text": ({"seed": "x"}, "seed"),
    "stop as a number": ({"stop": 7}, "stop"),
    "stop as numbers": ({"stop": [7]}, "stop"),
    "logprobs as a number": ({"logprobs": 5}, "logprobs"),
    "top_logprobs over 20": ({"logprobs": True, "top_logprobs": 5000}, "top_logprobs"),
    "top_logprobs alone": ({"top_logprobs": 5}, "top_logprobs"),
    "tools as an object": ({"tools": {}}, "tools"),
    "a tool without function": ({"tools": [{"type": "function"}]}, "tools.0"),
    "a tool as text": ({"tools": ["f"]}, "tools.0"),
    "a choice that is none": ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
    "a forced call without tools": ({"tool_choice": "required"}, "tool_choice"),
    "a format without type": ({"response_format": {}}, "response_format"),
    "a format as text": ({"response_format": "json"}, "response_format"),
    "logit_bias as a list": ({"logit_bias": [1]}, "logit_bias"),
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "function_call": ({"function_call": "auto"}, "function_call"),
}


def allowed(mode: object, *names: str) -> Json:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_choice_among_some_tools_leaves_out_the_others(mode: str) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "abc"]

    body = parse(tools=tools, tool_choice=allowed(mode, "c", "a")).body

    assert (body["tools"], body["tool_choice"]) == ([tools[0], tools[2]], mode)


@pytest.mark.parametrize(
    "choice",
    [
        allowed("none", "a"),
        allowed(None, "a"),
        allowed("auto", "z"),
        allowed("required"),
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function"}]}},
    ],
    ids=str,
)
def test_other_choices_among_tools_are_rejected(choice: Json) -> None:
    with pytest.raises(InvalidRequestError) as rejected:
        parse(tools=[{"type": "function", "function": {"name": "a"}}], tool_choice=choice)
    assert rejected.value.param == "tool_choice.allowed_tools"


@pytest.mark.parametrize(("fields", "param"), INVALID.values(), ids=INVALID)
def test_rejects_invalid_field_by_name(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse(**fields)

    assert refused.value.param == param
    assert param.split(".", maxsplit=1)[0] in refused.value.message


def accepted() -> list[Recording]:
    return [
        seen
        for engine in ("vllm", "sglang", "trtllm")
        for seen in recordings(engine)
        if seen.path == "/v1/chat/completions" and seen.status == 200 and isinstance(seen.body, dict)
        if {"model", "messages"} <= seen.body.keys()
    ]


# Taken by an engine, refused here all the same.
STRICTER = {"err_top_logprobs", "err_zero_max", "tool_legacy_functions", "err_presence", "err_bad_role"}


@pytest.mark.parametrize("seen", accepted(), ids=lambda seen: seen.name)
def test_accepts_recorded_requests(seen: Recording) -> None:
    if seen.name.rsplit("/", maxsplit=1)[-1] in STRICTER:
        with pytest.raises(InvalidRequestError):
            OpenaiChat().parse(json_text.dumps(seen.body))
    else:
        assert OpenaiChat().parse(json_text.dumps(seen.body)).body == seen.body


def test_rejects_parts_that_no_engine_reads() -> None:
    part = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}}
    document = {"model": "m", "messages": [{"role": "user", "content": [part]}]}

    with pytest.raises(InvalidRequestError, match="engines cannot read") as refused:
        OpenaiChat().parse(orjson.dumps(document))

    assert refused.value.param == "messages.0.content.0"
