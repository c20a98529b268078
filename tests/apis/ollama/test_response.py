import orjson
import pytest
from ollama import ChatResponse, GenerateResponse

from berth.apis.ollama.request import TimedRequest, begun_ns
from berth.apis.ollama.response import CHAT, GENERATE, OllamaEndpoint, load_response, now, response_body, tool_calls
from berth.apis.translated_stream import escape_line_ends
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import (
    ApiError,
    AuthenticationError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    OverloadedError,
    UpstreamError,
)

USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 5}
REQUEST = TimedRequest(operation=Operation.CHAT, model="m:latest", body={}, begun_ns=0)


def answer(choice: Json, usage: Json | None = USAGE, *, shape: object = CHAT) -> Json:
    body = orjson.dumps({"id": "x", "model": "m", "choices": [choice], "usage": usage})
    written = response_body(REQUEST, GENERATE if shape is GENERATE else CHAT, body)
    judge = GenerateResponse if shape is GENERATE else ChatResponse
    judge.model_validate_json(written, strict=True)
    found: Json = orjson.loads(written)
    return found


def says(content: str | None = "Hi", finish_reason: str = "stop", **message: object) -> Json:
    return {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}


def test_chat_response_has_all_fields_that_clients_read() -> None:
    found = answer(says())

    assert found["model"] == "m:latest"
    assert found["message"] == {"role": "assistant", "content": "Hi"}
    assert (found["done"], found["done_reason"]) == (True, "stop")
    assert (found["prompt_eval_count"], found["eval_count"]) == (3, 5)
    assert found["total_duration"] == found["eval_duration"] > 0
    assert (found["load_duration"], found["prompt_eval_duration"]) == (0, 0)


def test_generate_response_is_flat() -> None:
    found = answer(says(reasoning="2+2"), shape=GENERATE)

    assert (found["response"], found["thinking"]) == ("Hi", "2+2")
    assert "message" not in found


def test_translates_a_completion() -> None:
    choice = {"index": 0, "text": "Hi", "finish_reason": "length", "logprobs": None}

    found = answer(choice, None, shape=GENERATE)

    assert (found["response"], found["done_reason"]) == ("Hi", "length")
    assert (found["prompt_eval_count"], found["eval_count"]) == (0, 0)


@pytest.mark.parametrize(
    ("finish_reason", "done_reason"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("content_filter", "stop")],
)
def test_done_reason_is_stop_or_length(finish_reason: str, done_reason: str) -> None:
    assert answer(says(finish_reason=finish_reason))["done_reason"] == done_reason


def test_tool_arguments_are_objects() -> None:
    made = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"city": "Paris"}'}}]

    message = answer(says(None, "tool_calls", tool_calls=made))["message"]

    assert message["content"] == ""
    assert message["tool_calls"] == [{"id": "a", "function": {"index": 0, "name": "f", "arguments": {"city": "Paris"}}}]


@pytest.mark.parametrize("text", ["", " ", "null", "{}"])
def test_missing_arguments_become_an_empty_object(text: str) -> None:
    calls, rest = tool_calls([(None, "f", text)])

    assert orjson.loads(orjson.dumps(calls)) == [
        {"id": "call_0", "function": {"index": 0, "name": "f", "arguments": {}}}
    ]
    assert rest == ""


@pytest.mark.parametrize("text", ['{"city": "Par', "[1]", "Paris"])
def test_arguments_that_are_not_an_object_become_text(text: str) -> None:
    calls, rest = tool_calls([("a", "f", text), ("b", "g", "{}")])

    assert [call["function"]["name"] for call in calls] == ["g"]
    assert calls[0]["function"]["index"] == 0
    assert rest == '{"name": "f", "arguments": ' + text + "}"


def test_log_probabilities_of_a_chat() -> None:
    top = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    content = [{**top, "top_logprobs": [top, {"token": "Ho", "logprob": -2.0, "bytes": None}]}]

    found = answer({**says(), "logprobs": {"content": content}})["logprobs"]

    assert found == [{**top, "top_logprobs": [top, {"token": "Ho", "logprob": -2.0}]}]


def test_log_probabilities_of_a_completion() -> None:
    logprobs = {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -1.0, -2],
        "top_logprobs": [None, {"b": -1.0}, None],
    }

    found = answer({"text": "abc", "logprobs": logprobs, "finish_reason": "stop"}, shape=GENERATE)["logprobs"]

    assert found == [
        {"token": "b", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -1.0}]},
        {"token": "c", "logprob": -2},
    ]
    bare: Json = {"tokens": ["a"], "token_logprobs": [-1.0]}
    assert answer({"text": "a", "logprobs": bare}, shape=GENERATE)["logprobs"] == [{"token": "a", "logprob": -1.0}]
    assert "logprobs" not in answer({"text": "a", "logprobs": {"content": None}}, shape=GENERATE)


@pytest.mark.parametrize(("unloading", "reason"), [(False, "load"), (True, "unload")])
def test_request_without_a_prompt_gets_an_immediate_response(unloading: bool, reason: str) -> None:
    seconds = 0.0 if unloading else None
    chat, generated = (load_response("m", shape, keep_alive_s=seconds) for shape in (CHAT, GENERATE))

    assert (chat.model, chat.content_type) == ("m", b"application/json")
    assert ChatResponse.model_validate_json(chat.body, strict=True).done_reason == reason
    assert GenerateResponse.model_validate_json(generated.body, strict=True).response == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("x", param="model"), 400),
        (AuthenticationError("x"), 401),
        (ModelNotFoundError("x"), 404),
        (OverloadedError("x"), 429),
        (ApiError("x"), 500),
        (UpstreamError("x"), 502),
        (NotReadyError("x"), 503),
    ],
)
def test_error_is_a_string(error: ApiError, status: int) -> None:
    api = OllamaEndpoint()

    assert (api.status(error), api.error(error)) == (status, b'{"error":"x"}')


def test_times_are_utc_with_microseconds() -> None:
    assert len(now()) == len("2026-11-21T12:17:46.123456Z")
    assert now().endswith("Z")


def test_untimed_request_begins_now() -> None:
    assert begun_ns(InferenceRequest(operation=Operation.CHAT, model="m", body={})) > 0
    assert begun_ns(REQUEST) == 0


def test_escapes_unicode_line_ends() -> None:
    text = "a\u2028b\u2029c\x85d\ne"

    written = escape_line_ends(orjson.dumps(text))

    assert len(written.decode().splitlines()) == 1
    assert orjson.loads(written) == text
