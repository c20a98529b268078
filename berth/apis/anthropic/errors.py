"""Errors in Anthropic's form: a type, a message, and a status of its own for an overloaded server."""

import re
from typing import Any, Final

from berth import json_text
from berth.errors import ApiError, ContextLengthError, OverloadedError

OVERLOADED_STATUS: Final = 529  # Anthropic uses 429 for the client's own rate limit
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    421: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
    OVERLOADED_STATUS: "overloaded_error",
}

# The engines' messages for a context that is too long, and Anthropic's. Claude Code parses the numbers in those, and
# shortens the conversation or lowers max_tokens.
_PROMPT_TOO_LONG: Final = "prompt is too long: {prompt} tokens > {context} maximum"
_SUM_TOO_LONG: Final = (
    "input length and `max_tokens` exceed context limit: {prompt} + {output} > {context}, decrease input length or "
    "`max_tokens` and try again"
)
_OUTPUT_TOO_LONG: Final = "max_tokens: {output} > {context}, which is the maximum allowed number of output tokens"
_CONTEXT: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"max_tokens=(?P<output>\d+) cannot be greater than max_model_len=(?P<context>\d+)",  # vLLM
        r"context length is (?P<context>\d+) tokens.*?(?P<prompt>\d+) in the messages, (?P<output>\d+) in the comp",
        r"context length is (?P<context>\d+) tokens.*?(?P<prompt>\d+) input tokens",
        r"input \((?P<prompt>\d+) tokens\).*?context length \((?P<context>\d+) tokens\)",  # SGLang
        r"context length of (?P<context>\d+) tokens.*?(?P<prompt>\d+) tokens from the inp.*?(?P<output>\d+) tokens",
        r"prompt length \((?P<prompt>\d+).*?max_tokens \((?P<output>\d+).*? exceed max_\w+ \((?P<context>\d+)",
        r"prompt length \((?P<prompt>\d+).*? exceed max_\w+ \((?P<context>\d+)",  # TensorRT-LLM
    )
)


def error_status(error: ApiError) -> int:
    return OVERLOADED_STATUS if isinstance(error, OverloadedError) else error.status


def error_object(error: ApiError) -> dict[str, Any]:
    """The body of an error response, and the data of an `error` event."""
    kind = _TYPES.get(error_status(error), "api_error")
    message = error.message
    if error.code == ContextLengthError.code:  # Anthropic's message for an engine's, which follows it
        found = next((match for pattern in _CONTEXT if (match := pattern.search(message))), None)
        counts = {name: int(count) for name, count in found.groupdict().items()} if found else {}
        if not counts:
            message = f"prompt is too long: {message}"
        elif "prompt" not in counts:
            message = f"{_OUTPUT_TOO_LONG.format(**counts)}. {message}"
        elif "output" in counts and counts["prompt"] < counts["context"]:
            message = f"{_SUM_TOO_LONG.format(**counts)}. {message}"
        else:
            message = f"{_PROMPT_TOO_LONG.format(**counts)}. {message}"
    return {"type": "error", "error": {"type": kind, "message": message, **error.extension}}


def error_body(error: ApiError) -> bytes:
    return json_text.dumps(error_object(error))
