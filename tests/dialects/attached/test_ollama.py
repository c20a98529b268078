"""Ollama's own API: requests, whole responses and streams, as its documentation has them."""

from typing import Any

import orjson
import pytest

from berth.canonical import EngineResponse, Failure, FailureKind, InferenceRequest, Json, Operation
from berth.dialects.attached.ollama import OllamaDialect
from berth.dialects.base import UnsupportedError
from berth.sse import frames_of
from tests.fakes.recordings import inference_request

SCHEMA: Json = {"type": "object"}
TOOL: Json = {"type": "function", "function": {"name": "see", "parameters": SCHEMA}}
CALL: Json = {"id": "c1", "type": "function", "function": {"name": "see", "arguments": '{"a":1}'}}
MESSAGES: Any = [{"role": "user", "content": "Hi"}]
END: Json = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}


def request_of(fields: Json, operation: Operation = Operation.CHAT) -> InferenceRequest:
    body = {"messages": MESSAGES} if operation is Operation.CHAT else {}
    return inference_request({**body, **fields}, operation)


def sent(fields: Json, operation: Operation = Operation.CHAT, context: int | None = None) -> Json:
    upstream = OllamaDialect(context).request(request_of(fields, operation), "far")
    return {"path": upstream.path, **orjson.loads(upstream.body)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"stream": True}, {"stream": True}),
        ({"max_completion_tokens": 5, "top_k": 1}, {"options": {"num_predict": 5, "top_k": 1}}),
        ({"stop": "x", "repetition_penalty": 1.1}, {"options": {"stop": ["x"], "repeat_penalty": 1.1}}),
        ({"guided_json": SCHEMA}, {"format": SCHEMA}),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}),
        ({"reasoning_effort": "low"}, {"think": "low"}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"think": False}),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        ({"tools": [TOOL], "tool_choice": "none"}, {}),
    ],
)
def test_chat_is_in_ollamas_words(fields: Json, expected: Json) -> None:
    plain = {"path": "/api/chat", "model": "far", "messages": MESSAGES, "stream": False}
    assert sent(fields) == {**plain, **expected}


def test_context_is_asked_for_with_every_request() -> None:
    assert sent({"max_tokens": 5}, context=8192)["options"] == {"num_predict": 5, "num_ctx": 8192}
    assert sent({"prompt": "a"}, Operation.COMPLETION, 8192)["options"] == {"num_ctx": 8192}
    assert sent({"input": "a"}, Operation.EMBEDDING, 8192)["options"] == {"num_ctx": 8192}
    assert OllamaDialect().for_context(512).request(request_of({}), "far").body.endswith(b'"stream":false}')


def test_messages_are_in_ollamas_words() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages: Any = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "Hm."},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert sent({"messages": messages})["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What?", "images": ["AAAA"]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [{"function": {"name": "see", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "sunny", "tool_name": "see"},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}
                ]
            },
            "messages",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "see", "arguments": "{"}}]}
                ]
            },
            "messages",
        ),
    ],
)
def test_what_ollama_would_ignore_is_refused(fields: Json, param: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        sent(fields)
    assert error.value.param == param


def test_completions_and_embeddings() -> None:
    assert sent({"prompt": "a", "max_tokens": 2}, Operation.COMPLETION) == {
        "path": "/api/generate",
        "model": "far",
        "prompt": "a",
        "raw": True,
        "stream": False,
        "options": {"num_predict": 2},
    }
    assert sent({"prompt": "a", "suffix": "b"}, Operation.COMPLETION)["suffix"] == "b"
    embed = {"path": "/api/embed", "model": "far", "input": ["a"], "dimensions": 8, "truncate": False}
    assert sent({"input": ["a"], "dimensions": 8}, Operation.EMBEDDING) == embed
    counted = sent({"messages": MESSAGES}, Operation.TOKENIZE)
    assert (counted["path"], counted["options"]) == ("/api/chat", {"num_predict": 1})


def read(fields: Json, document: Json, operation: Operation = Operation.CHAT) -> Json:
    answer = OllamaDialect().answer(request_of(fields, operation), "m", 200, orjson.dumps(document))
    assert isinstance(answer, EngineResponse), answer
    body: Json = orjson.loads(answer.body)
    return body


def test_whole_responses_are_read() -> None:
    message = {"role": "assistant", "content": "Ho", "thinking": "Hm."}
    answer = read({}, {"model": "far", "message": message, **END})
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert (answer["model"], answer["choices"][0]["finish_reason"]) == ("m", "stop")
    assert answer["choices"][0]["message"]["content"] == "Ho"
    assert answer["choices"][0]["message"]["reasoning"] == "Hm."
    completion = read({"prompt": "a"}, {"response": "b", **END, "done_reason": "length"}, Operation.COMPLETION)
    assert (completion["choices"][0]["text"], completion["choices"][0]["finish_reason"]) == ("b", "length")
    embeddings = read({"input": ["a"]}, {"embeddings": [[0.5, 1.0]], "prompt_eval_count": 1}, Operation.EMBEDDING)
    assert (embeddings["data"][0]["embedding"], embeddings["usage"]["prompt_tokens"]) == ([0.5, 1.0], 1)


def test_called_tools_are_read() -> None:
    calls = [{"function": {"name": "see", "arguments": {"a": 1}}}]
    (choice,) = read({"tools": [TOOL]}, {"message": {"role": "assistant", "content": "", "tool_calls": calls}, **END})[
        "choices"
    ]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["function"] == {"name": "see", "arguments": '{"a":1}'}
    assert call["id"].startswith("call_")


@pytest.mark.parametrize("document", [{}, {"done": False}, {"done": True}, {"done": True, "message": 7}, [], "text"])
def test_other_responses_are_failures(document: Any) -> None:
    assert isinstance(OllamaDialect().answer(request_of({}), "m", 200, orjson.dumps(document)), Failure)


def streamed(*lines: Json | bytes, **fields: Any) -> list[Any] | Failure:
    request = request_of({"stream": True, "stream_options": {"include_usage": True}, **fields})
    decoder = OllamaDialect().stream(request, "m")
    data = b"".join(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n" for line in lines)
    output = b"".join(
        decoder.feed(data[place : place + 7]) for place in range(0, len(data), 7) if decoder.failure is None
    )
    if failure := decoder.failure or decoder.end():
        return failure
    return [one if one == b"[DONE]" else orjson.loads(one) for one in (part[6:].strip() for part in frames_of(output))]


def said(text: str, **message: Any) -> Json:
    return {"model": "far", "message": {"role": "assistant", "content": text, **message}, "done": False}


def test_stream_becomes_openais() -> None:
    got = streamed(
        said("", thinking="Hm."), said("a"), said("é"), {"message": {"role": "assistant", "content": ""}, **END}
    )
    assert isinstance(got, list)
    assert got[-1] == b"[DONE]"
    assert {(chunk["model"], chunk["id"]) for chunk in got[:-1]} == {("m", got[0]["id"])}
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in got[:-2]) == "aé"
    assert got[-3]["choices"][0]["finish_reason"] == "stop"
    assert (got[-2]["choices"], got[-2]["usage"]["completion_tokens"]) == ([], 2)


def test_tool_calls_of_a_stream_have_numbers_of_their_own() -> None:
    calls: Any = [[{"function": {"name": name, "arguments": {}}}] for name in ("see", "look")]
    got = streamed(
        *(said("", tool_calls=one) for one in calls), {"message": {"role": "assistant", "content": ""}, **END}
    )
    assert isinstance(got, list)
    made = [call for chunk in got[:-2] for call in chunk["choices"][0]["delta"].get("tool_calls") or ()]
    assert [(call["index"], call["function"]["name"]) for call in made] == [(0, "see"), (1, "look")]
    assert got[-3]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("bad", [b"<html>\n", b"7\n", {"error": "out of memory"}, {"done": False}, said("a")])
def test_streams_that_break_are_failures(bad: Any) -> None:
    got = streamed(said("a"), bad)
    assert isinstance(got, Failure)
    assert got.kind is FailureKind.ENGINE


def test_completion_streams() -> None:
    request = inference_request({"prompt": "a", "stream": True}, Operation.COMPLETION)
    decoder = OllamaDialect().stream(request, "m")
    frames = decoder.feed(b'{"response":"b","done":false}\n{"response":"","done":true,"done_reason":"stop"}\n')
    assert b'"text":"b"' in frames
    assert decoder.end() is None
