"""Parses a request's JSON and checks its types, as every engine does before it checks values. The two errors."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

Json = dict[str, Any]

_FIELDS = {
    ("float", "number"): "temperature top_p min_p repetition_penalty presence_penalty frequency_penalty length_penalty",
    ("int", "integer"): "max_tokens max_completion_tokens min_tokens n seed top_k top_logprobs best_of priority "
    "truncate_prompt_tokens prompt_logprobs thinking_token_budget dimensions",
    ("bool", "boolean"): "stream echo ignore_eos continue_final_message add_generation_prompt no_stop_trim "
    "include_stop_str_in_output return_token_ids include_reasoning separate_reasoning return_hidden_states "
    "return_token_strs",
    ("list", "list"): "tools",
    ("dict", "dictionary"): "stream_options chat_template_kwargs response_format logit_bias structured_outputs",
}
_TYPES: Mapping[str, tuple[str, str]] = {field: kind for kind, fields in _FIELDS.items() for field in fields.split()}
_CLASSES: Mapping[str, type | tuple[type, ...]] = {
    "float": (int, float), "int": int, "bool": bool, "list": list, "dict": dict,
}  # fmt: skip


_NUMBER_TEXT: Mapping[str, re.Pattern[str]] = {
    "int": re.compile(r"\s*[+-]?\d+\s*", re.ASCII),
    "float": re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII),
}
_MOST_DIGITS = 4300  # of an integer in a text
_LARGEST_WHOLE = float(1 << 63)  # above it a number with a fraction or an exponent is no integer any more


class InvalidError(Exception):
    """The body has the wrong shape: what a validation library reports, at a location inside the body."""

    def __init__(
        self,
        kind: str,
        place: Sequence[str | int],
        message: str,
        given: object,
        *,
        context: object = None,
        count: int = 1,
    ) -> None:
        super().__init__(message)
        self.kind, self.place, self.message, self.given, self.context = kind, tuple(place), message, given, context
        self.count = count  # how many errors the engine reports for it


class RejectionError(Exception):
    """The engine understands the request and rejects it."""

    def __init__(self, message: str, *, status: int = 400, kind: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param = message, status, kind, param


def parse_object(data: bytes) -> Json:
    """InvalidError unless the body is a JSON object."""
    if not data:
        raise InvalidError("missing", (), "Field required", None)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if (odd := _read_by_python(data)) is not None:
            return odd
        cause = {"error": "Expecting value"}
        raise InvalidError("json_invalid", (error.pos,), "JSON decode error", {}, context=cause) from error
    if not isinstance(body, dict):
        raise InvalidError(
            "model_attributes_type", (), "Input should be a valid dictionary or object to extract fields from", body
        )
    return body


def _read_by_python(data: bytes) -> Json | None:
    """Python's reader takes NaN and lone surrogates. A validation library then rejects such a text."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = "Input should be a valid string, unable to parse raw data as a unicode string"
        raise InvalidError("string_unicode", (), message, None) from error
    return body if isinstance(body, dict) else None


def check_types(body: Json) -> None:
    """InvalidError for the first field of a wrong type. Numbers in strings are numbers; null is absent."""
    for field, value in body.items():
        kind, noun = _TYPES.get(field, ("", ""))
        if value is None or not kind:
            continue
        if kind == "int":
            _check_size(field, value)
        if _fits(value, kind):
            continue
        message = f"Input should be a valid {noun}"
        if not isinstance(value, str) or kind not in ("int", "float"):
            raise InvalidError(f"{kind}_type", (field,), message, value)
        article = "an" if kind == "int" else "a"
        raise InvalidError(f"{kind}_parsing", (field,), f"{message}, unable to parse string as {article} {noun}", value)
    ids = body.get("stop_token_ids")
    for index, value in enumerate(ids if isinstance(ids, list) else ()):
        if not _fits(value, "int"):
            message = "Input should be a valid integer, unable to parse string as an integer"
            raise InvalidError("int_parsing", ("stop_token_ids", index), message, value)


def number(body: Json, field: str, default: float) -> float:
    """A checked field as a number; infinite for an integer that is larger than any number with a fraction."""
    value: Any = default if body.get(field) is None else body[field]
    try:
        return float(value)
    except OverflowError:
        return math.inf if int(value or 0) > 0 else -math.inf


def integer(body: Json, field: str, default: int) -> int:
    value = body.get(field)
    return default if value is None else int(value)


def strings(value: object) -> tuple[str, ...]:
    """The strings of a field that is a string, a list of strings, or absent."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(text for text in value if isinstance(text, str) and text) if isinstance(value, list) else ()


def nested(body: Json, group: str, name: str) -> Any:
    """`body[group][name]`; None if it is missing."""
    return member(body.get(group), name)


def member(value: object, name: str) -> Any:
    """`value[name]`; None unless `value` is an object with this key."""
    return value.get(name) if isinstance(value, dict) else None


def messages(body: Json) -> list[Json]:
    """InvalidError unless `messages` is a list of objects."""
    if "messages" not in body:
        raise InvalidError("missing", ("messages",), "Field required", body)
    found = body["messages"]
    if not isinstance(found, list):
        raise InvalidError("list_type", ("messages",), "Input should be a valid list", found)
    for index, message in enumerate(found):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidError("missing", ("messages", index, "role"), "Field required", message)
    return found


def message_text(message: Json) -> str:
    """The text of a message, its parts joined."""
    value = message.get("content")
    if isinstance(value, list):
        return "".join(str(part.get("text") or "") for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def part_types(message: Json) -> list[str]:
    """The types of a message's content parts."""
    value = message.get("content")
    if not isinstance(value, list):
        return []
    return [str(part.get("type")) if isinstance(part, dict) else "?" for part in value]


def logit_bias_ids(body: Json) -> list[int]:
    """The token ids of `logit_bias`. InvalidError for keys that are not numbers."""
    try:
        return [int(key) for key in body.get("logit_bias") or {}]
    except ValueError as error:
        raise InvalidError(
            "int_parsing", ("logit_bias",), "Input should be a valid integer", body["logit_bias"]
        ) from error


def token_ids(value: object) -> list[int]:
    """InvalidError unless it is a list of integers."""
    if not isinstance(value, list) or any(not isinstance(one, int) or isinstance(one, bool) for one in value):
        raise InvalidError("list_type", ("tokens",), "Input should be a valid list", value)
    return value


def _check_size(field: str, value: object) -> None:
    """InvalidError for what is no integer because of its size."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidError("finite_number", (field,), "Input should be a finite number", value)
    digits = len(value) if isinstance(value, str) else 0
    if digits > _MOST_DIGITS or (isinstance(value, float) and value.is_integer() and abs(value) >= _LARGEST_WHOLE):
        message = "Unable to parse input string as an integer, exceeded maximum size"
        raise InvalidError("int_parsing_size", (field,), message, value)


def _fits(value: object, kind: str) -> bool:
    if isinstance(value, str) and kind in _NUMBER_TEXT:
        return _NUMBER_TEXT[kind].fullmatch(value) is not None
    if kind == "int" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _CLASSES[kind])
