"""The choices of a chat or completion: type checks, and the reading of a non-streaming response."""

from typing import Final

import orjson

from berth.canonical import EngineResponse, Failure, InferenceRequest, Json
from berth.dialects.failures import engine_failure
from berth.dialects.logprobs import check_logprobs
from berth.dialects.reasoning import add_both_names
from berth.dialects.usage import read_usage

_MESSAGE_TEXTS: Final = ("role", "content", "reasoning", "reasoning_content", "refusal")


def read_choices(request: InferenceRequest, model: str, document: Json, body: bytes) -> EngineResponse | Failure:
    choices = document.get("choices")
    if not choices:
        return engine_failure("the engine's response has no choices")
    if any(choice.get("finish_reason") == "abort" for choice in choices):
        return engine_failure("the engine aborted the request")
    changed = document.get("model") != model
    document["model"] = model
    # In OpenAI's API, `metadata` is the client's own text; SGLang puts versions of weights there.
    metadata = document.get("metadata")
    if isinstance(metadata, dict) and any(not isinstance(value, str) for value in metadata.values()):
        del document["metadata"]
        changed = True
    for choice in choices:
        check_types(choice)
        message = choice.get("message")
        if isinstance(message, dict):
            changed |= add_both_names(message)
            changed |= _correct_calls(choice, message, one_call=request.body.get("parallel_tool_calls") is False)
    return EngineResponse(
        body=orjson.dumps(document) if changed else body, usage=read_usage(document.get("usage") or {})
    )


def _correct_calls(choice: Json, message: Json, *, one_call: bool) -> bool:
    """Tool calls as OpenAI's API returns them. True: something was changed."""
    calls = message.get("tool_calls")
    if calls == []:  # some clients take the key alone for a call
        del message["tool_calls"]
        return True
    changed = False
    if calls and choice.get("finish_reason") == "stop":
        choice["finish_reason"] = "tool_calls"
        changed = True
    if calls and one_call and len(calls) > 1:  # not all engines keep to it
        del calls[1:]
        changed = True
    return changed


def check_types(choice: Json) -> None:
    """TypeError where a choice of a response or a frame is not of OpenAI's types: no client API could return it."""
    message = choice.get("delta") or choice.get("message") or {}
    _check_texts(choice, ("finish_reason", "text"))
    _check_texts(message, _MESSAGE_TEXTS)
    for call in message.get("tool_calls") or ():
        _check_texts(call, ("id",))
        _check_texts(call.get("function") or {}, ("name", "arguments"))
    check_logprobs(choice.get("logprobs"))


def _check_texts(part: Json, names: tuple[str, ...]) -> None:
    for name in names:
        value = part.get(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(f"expected a string, got {value!r}")
