"""Errors as Anthropic tells them: a type, a message, and statuses of its own for a server that is full."""

import re
from typing import Any, Final

import orjson

from berth.errors import ApiError, ContextLengthError, OverloadedError

OVERLOADED_STATUS: Final = 529  # 429 means at Anthropic that the client's own quota is used up
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    OVERLOADED_STATUS: "overloaded_error",
}

# How engines say that something is too long, and Anthropic's words for it: Claude Code reads the numbers out of them,
# and then shortens the conversation, or asks for fewer tokens.
_PROMPT_TOO_LONG: Final = "prompt is too long: {prompt} tokens > {context} maximum"
_SUM_TOO_LONG: Final = (
    "input length and `max_tokens` exceed context limit: {prompt} + {answer} > {context}, decrease input length or "
    "`max_tokens` and try again"
)
_ANSWER_TOO_LONG: Final = "max_tokens: {answer} > {context}, which is the maximum allowed number of output tokens"
_CONTEXT: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"max_tokens=(?P<answer>\d+) cannot be greater than max_model_len=(?P<context>\d+)",  # vLLM
        r"context length is (?P<context>\d+) tokens.*?(?P<prompt>\d+) in the messages, (?P<answer>\d+) in the comp",
        r"context length is (?P<context>\d+) tokens.*?(?P<prompt>\d+) input tokens",
        r"input \((?P<prompt>\d+) tokens\).*?context length \((?P<context>\d+) tokens\)",  # SGLang
        r"context length of (?P<context>\d+) tokens.*?(?P<prompt>\d+) tokens from the inp.*?(?P<answer>\d+) tokens",
        r"prompt length \((?P<prompt>\d+).*?max_tokens \((?P<answer>\d+).*? exceed max_\w+ \((?P<context>\d+)",
        r"prompt length \((?P<prompt>\d+).*? exceed max_\w+ \((?P<context>\d+)",  # TensorRT-LLM
    )
)


def error_status(error: ApiError) -> int:
    return OVERLOADED_STATUS if isinstance(error, OverloadedError) else error.status


def error_object(error: ApiError) -> dict[str, Any]:
    """The body of an error answer, and the data of an `error` event."""
    kind = _TYPES.get(error_status(error), "api_error")
    return {"type": "error", "error": {"type": kind, "message": _message(error)}}


def error_body(error: ApiError) -> bytes:
    return orjson.dumps(error_object(error))


def _message(error: ApiError) -> str:
    if error.code != ContextLengthError.code:
        return error.message
    found = next((match for pattern in _CONTEXT if (match := pattern.search(error.message))), None)
    if found is None:
        return f"prompt is too long: {error.message}"
    counts = {name: int(count) for name, count in found.groupdict().items()}
    return f"{_words(counts).format(**counts)}. {error.message}"


def _words(counts: dict[str, int]) -> str:
    if "prompt" not in counts:
        return _ANSWER_TOO_LONG
    return _SUM_TOO_LONG if "answer" in counts and counts["prompt"] < counts["context"] else _PROMPT_TOO_LONG
