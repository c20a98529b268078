"""The choices of a chat or completion with their reasoning, log probabilities and usage: type checks, and the reading
of a non-streaming response.
"""

from typing import Any, Final

import orjson

from berth.canonical import EngineResponse, Failure, InferenceRequest, Json, Usage
from berth.dialects.failures import engine_failure

# Reasoning has two names: engines read one, clients use either.
_REASONING: Final = ("reasoning", "reasoning_content")
_MESSAGE_TEXTS: Final = ("role", "content", *_REASONING, "refusal")


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
        if not isinstance(message, dict):
            continue
        changed |= add_both_names(message)
        calls = message.get("tool_calls")
        if calls == []:  # some clients take the key alone for a call
            del message["tool_calls"]
            changed = True
        elif calls and choice.get("finish_reason") == "stop":
            choice["finish_reason"] = "tool_calls"
            changed = True
        if calls and request.body.get("parallel_tool_calls") is False and len(calls) > 1:  # not all engines keep to it
            del calls[1:]
            changed = True
    return EngineResponse(
        body=orjson.dumps(document) if changed else body, usage=read_usage(document.get("usage") or {})
    )


def expected_choices(request: InferenceRequest) -> int:
    """How many choices a response has: n for each prompt."""
    n = request.body.get("n") or 1
    prompt = request.body.get("prompt")
    many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return n * len(prompt) if many and prompt else n


def rename_reasoning(body: Json, name: str) -> None:
    """Puts the reasoning of earlier turns under the name that the engine reads; "" removes it."""
    messages = body.get("messages") or []
    if not any(key in message for message in messages for key in _REASONING):
        return
    renamed = []
    for message in messages:
        text = message.get("reasoning") or message.get("reasoning_content")
        rest = {key: value for key, value in message.items() if key not in _REASONING}
        renamed.append({**rest, name: text} if text and name else rest)
    body["messages"] = renamed


def add_both_names(message: Json) -> bool:
    """Reasoning of a response under both names. True: something was changed."""
    text = message.get("reasoning") or message.get("reasoning_content")
    if not text or message.get("reasoning") == message.get("reasoning_content"):
        return False
    message["reasoning"] = message["reasoning_content"] = text
    return True


def read_usage(usage: Json) -> Usage:
    """0 for what is missing or null."""
    details = usage.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=token_count(usage.get("prompt_tokens")),
        completion_tokens=token_count(usage.get("completion_tokens")),
        cached_tokens=token_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
    )


def token_count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def check_types(choice: Json) -> None:
    """TypeError where a choice of a response or a frame is not of OpenAI's types: no client API could return it."""
    message = choice.get("delta") or choice.get("message") or {}
    texts = [*map(choice.get, ("finish_reason", "text")), *map(message.get, _MESSAGE_TEXTS)]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        texts += [call.get("id"), function.get("name"), function.get("arguments")]
    for text in texts:
        if not isinstance(text, str | None):
            raise TypeError(f"expected a string, got {text!r}")
    if (logprobs := choice.get("logprobs")) is not None:
        check_logprobs(logprobs)


def check_logprobs(logprobs: Any) -> None:
    """TypeError, KeyError or AttributeError where the `logprobs` of a choice are not of OpenAI's types. A chat has a
    list of tokens, each with its alternatives; a completion has parallel lists. null is allowed for what an engine may
    leave out: the alternatives (TensorRT-LLM), or what the first token of an echoed prompt cannot have.
    """
    if logprobs is None:
        return
    for name in ("content", "refusal"):
        for token in _list(logprobs.get(name)):
            for alternative in (token, *_list(token.get("top_logprobs"))):
                _check_text(alternative["token"])
                _check_number(alternative["logprob"])
                for byte in _list(alternative.get("bytes")):
                    _check_integer(byte)
    for text in _list(logprobs.get("tokens")):
        _check_text(text)
    for offset in _list(logprobs.get("text_offset")):
        _check_integer(offset)
    numbers = [number for number in _list(logprobs.get("token_logprobs")) if number is not None]
    for alternatives in _list(logprobs.get("top_logprobs")):
        numbers += ({} if alternatives is None else alternatives).values()
    for number in numbers:
        _check_number(number)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | None):
        raise TypeError(f"expected a list, got {value!r}")
    return value or []


def _check_text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")


def _check_integer(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, got {value!r}")


def _check_number(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"expected a number, got {value!r}")
