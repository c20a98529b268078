"""The limits of each engine, as tables: field, allowed values, and the engine's error message."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from berth.sim import body_validation
from berth.sim.body_validation import InvalidError, Json, RejectionError

_ROLES_WITH_NULL_CONTENT = ("assistant", "tool", "function")
_FORMATS = ("text", "json_object", "json_schema", "structural_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    field: str
    allowed: Callable[[float], bool]
    message: str  # {} is the value as the engine prints it
    is_integer: bool = False
    has_param: bool = False  # with field and value appended, as vLLM does for some fields
    kind: str | None = None


def check(checks: Iterable[Limit], body: Json) -> None:
    """RejectionError for the first value that is not allowed."""
    for check in checks:
        if body.get(check.field) is None:
            continue
        value = body_validation.number(body, check.field, 0)
        if not check.allowed(value):
            formatted = str(body_validation.integer(body, check.field, 0)) if check.is_integer else str(value)
            tail = f" (parameter={check.field}, value={formatted})" if check.has_param else ""
            message = check.message.format(formatted) + tail
            raise RejectionError(message, kind=check.kind, param=check.field if check.has_param else None)


def _at_least(lowest: float) -> Callable[[float], bool]:
    return lambda value: value >= lowest


def _within(lowest: float, highest: float) -> Callable[[float], bool]:
    return lambda value: lowest <= value <= highest


def _share(value: float) -> bool:
    return 0 < value <= 1


VLLM = (
    Limit(
        field="temperature", allowed=_at_least(0), message="temperature must be non-negative, got {}.", has_param=True
    ),
    Limit(field="temperature", allowed=_within(0, 2), message="temperature must be in [0, 2], got {}.", has_param=True),
    Limit(
        field="repetition_penalty",
        allowed=lambda value: value > 0,
        message="repetition_penalty must be greater than zero, got {}.",
    ),
    Limit(field="top_p", allowed=_share, message="top_p must be in (0, 1], got {}.", has_param=True),
    Limit(
        field="top_k",
        allowed=_at_least(-1),
        message="top_k must be 0 (disable), or at least 1, got {}.",
        is_integer=True,
    ),
    Limit(field="min_p", allowed=_within(0, 1), message="min_p must be in [0, 1], got {}."),
    Limit(field="n", allowed=_at_least(1), message="n must be at least 1, got {}.", is_integer=True),
    Limit(
        field="n",
        allowed=_within(1, 16384),
        message="n must be at most 16384, got {}. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment "
        "variable.",
        is_integer=True,
    ),
    Limit(field="presence_penalty", allowed=_within(-2, 2), message="presence_penalty must be in [-2, 2], got {}."),
    Limit(field="frequency_penalty", allowed=_within(-2, 2), message="frequency_penalty must be in [-2, 2], got {}."),
    Limit(
        field="min_tokens",
        allowed=_at_least(0),
        message="min_tokens must be greater than or equal to 0, got {}.",
        is_integer=True,
    ),
    *(
        Limit(
            field=field,
            allowed=_at_least(1),
            message="max_tokens must be at least 1, got {}.",
            is_integer=True,
            has_param=True,
        )
        for field in ("max_tokens", "max_completion_tokens")
    ),
)
SGLANG = (
    Limit(
        field="temperature",
        allowed=lambda value: math.isfinite(value) and value >= 0,
        message="temperature must be a non-negative finite number, got {}.",
    ),
    Limit(field="top_p", allowed=_share, message="top_p must be in (0, 1], got {}."),
    Limit(field="min_p", allowed=_within(0, 1), message="min_p must be in [0, 1], got {}."),
    Limit(field="frequency_penalty", allowed=_within(-2, 2), message="frequency_penalty must be in [-2, 2], got {}."),
    Limit(field="presence_penalty", allowed=_within(-2, 2), message="presence_penalty must be in [-2, 2], got {}."),
    *(
        Limit(field=field, allowed=_at_least(0), message="max_new_tokens must be at least 0, got {}.", is_integer=True)
        for field in ("max_tokens", "max_completion_tokens")
    ),
    Limit(
        field="min_tokens",
        allowed=_at_least(0),
        message="min_new_tokens must be in [0, max_new_tokens], got {}.",
        is_integer=True,
    ),
    Limit(
        field="n", allowed=_at_least(1), message="range() arg 3 must not be zero", is_integer=True, kind="BadRequest"
    ),
)
TRTLLM = (
    Limit(field="temperature", allowed=_at_least(0), message="require temperature >= 0, got temperature={}"),
    Limit(field="top_p", allowed=_within(0, 1), message="require 0 <= top_p <= 1, got top_p={}"),
    Limit(field="top_k", allowed=_at_least(0), message="require top_k >= 0, got top_k={}", is_integer=True),
    Limit(field="n", allowed=_at_least(1), message="require n >= 1, got n={}", is_integer=True),
    *(
        Limit(field=field, allowed=_at_least(1), message="require max_tokens >= 1, got max_tokens={}", is_integer=True)
        for field in ("max_tokens", "max_completion_tokens")
    ),
)


def check_message_content(message: Json, place: tuple[str | int, ...], count: int) -> None:
    """InvalidError if the content of a user or system message is missing."""
    if message.get("content") is None and message["role"] not in _ROLES_WITH_NULL_CONTENT:
        raise InvalidError("string_type", place, "Input should be a valid string", None, count=count)


def check_response_format(body: Json, place: tuple[str | int, ...]) -> None:
    kind = body_validation.nested(body, "response_format", "type")
    if body.get("response_format") is not None and kind not in _FORMATS:
        expected = "'text', 'json_object' or 'json_schema'"
        raise InvalidError(
            "literal_error", place, f"Input should be {expected}", kind, context={"expected": expected}, count=6
        )


def has_allowed_stop_count(body: Json, most: int) -> bool:
    return len(body_validation.strings(body.get("stop"))) <= most


def has_allowed_stream_options(body: Json) -> bool:
    """False for stream options without a stream."""
    return body.get("stream_options") is None or bool(body.get("stream"))
