"""The fields of OpenAI's requests and the values they accept: only what all engines agree on. Engines check the rest.

A rule is a predicate and its description for error messages. Types are strict ("yes" is not a boolean, true is not a
number), because one engine converts such a value and the next rejects it.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import orjson

from berth import json_text
from berth.apis import json_weight
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

TOO_DEEP = "The request is nested too deeply."
_SAFE_BRACKETS = 200  # a body with fewer cannot be nested too deeply to be written again
_MARGIN = 4  # levels that a translation may add
# Fields whose values are text for the model, or a schema: an engine does not calculate with their numbers.
_PASSED_ON = frozenset(
    {
        *("messages", "input", "prompt", "tools", "metadata", "response_format", "text", "format", "output_format"),
        *("output_config", "guided_json", "structured_outputs"),
    }
)
_KINDS = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    holds: Callable[[Any], bool]
    expected: str


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text_or_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and set(map(type, value)) <= {str})


def is_prompt(value: Any) -> bool:
    """A string, strings, token ids, or lists of token ids. Only the string may be empty."""
    if isinstance(value, str):
        return True
    if not isinstance(value, list) or not value:
        return False
    kinds = set(map(type, value))
    return kinds in ({str}, {int}) or (kinds == {list} and all(set(map(type, item)) == {int} for item in value))


def integer(low: int, high: int | None = None) -> Rule:
    expected = f"an integer of {low} or more" if high is None else f"an integer between {low} and {high}"
    return Rule(
        holds=lambda value: is_integer(value) and value >= low and (high is None or value <= high), expected=expected
    )


def token_limit(low: int) -> Rule:
    """A limit of tokens. Clients may state any integer, and engines fail on what does not fit into 32 bits."""
    return integer(low, 2**31 - 1)


def number(low: float | None = None, high: float | None = None) -> Rule:
    limits = "" if low is None else (f" of {low} or more" if high is None else f" between {low} and {high}")
    return Rule(
        holds=lambda value: is_number(value) and (low is None or value >= low) and (high is None or value <= high),
        expected=f"a number{limits}",
    )


def one_of(*texts: str) -> Rule:
    return Rule(holds=lambda value: value in texts, expected=" or ".join(f"{text!r}" for text in texts))


BOOLEAN = Rule(holds=lambda value: isinstance(value, bool), expected="true or false")
TEXT = Rule(holds=lambda value: isinstance(value, str), expected="a string")
OBJECT = Rule(holds=lambda value: isinstance(value, dict), expected="an object")
POSITIVE = Rule(holds=lambda value: is_number(value) and value > 0, expected="a number greater than 0")
PROMPT = Rule(
    holds=is_prompt, expected="a string, a list of strings, a list of token ids, or a list of lists of token ids"
)
RESPONSE_FORMAT = Rule(
    holds=lambda value: isinstance(value, dict) and isinstance(value.get("type"), str),
    expected="an object with a 'type'",
)
TEXT_OR_TEXTS = Rule(holds=is_text_or_texts, expected="a string or a list of strings")
STREAM_OPTIONS = Rule(
    holds=lambda value: isinstance(value, dict) and isinstance(value.get("include_usage") or False, bool),
    expected="an object whose include_usage is true or false",
)

# Shared by chat and completions.
SAMPLING: dict[str, Rule] = {
    "frequency_penalty": number(-2.0, 2.0),
    "logit_bias": OBJECT,
    "max_tokens": token_limit(0),
    "min_tokens": token_limit(0),
    "n": integer(1, 128),
    "presence_penalty": number(-2.0, 2.0),
    "seed": Rule(holds=is_integer, expected="an integer"),
    "stop": TEXT_OR_TEXTS,
    "stream": BOOLEAN,
    "stream_options": STREAM_OPTIONS,
    "temperature": number(0.0),
    "top_p": number(0.0, 1.0),
    "user": TEXT,
}


def read_object(body: bytes) -> Json:
    """The request as a JSON object. InvalidRequestError where it is not one."""
    if len(body) > json_weight.UNWEIGHED_BYTES:
        json_weight.check(body)
    if not body.strip():
        raise InvalidRequestError("The request has no body. Send a JSON object.")
    try:
        document = json_text.read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = _read_odd(body)
    if not isinstance(document, dict):
        kind = _KINDS.get(type(document), "a number")
        raise InvalidRequestError(f"The request must be a JSON object, not {kind}.")
    if body.count(b"[") + body.count(b"{") > _SAFE_BRACKETS:
        # orjson reads deeper nesting than it writes, and the request must be written for an engine.
        nested = functools.reduce(lambda inner, _: [inner], range(_MARGIN), cast("Any", document))
        try:
            orjson.dumps(nested, default=json_text.spelled)
        except orjson.JSONEncodeError as exc:
            if json_text.depth(nested) > json_text.DEEPEST:  # else it has an integer that is written in another way
                raise InvalidRequestError(TOO_DEEP) from exc
    return document


def _read_odd(body: bytes) -> Any:
    """JSON that only most readers accept. NaN and numbers beyond a double's range are allowed where they are passed on,
    but not in the settings of an engine.
    """
    try:
        document = json_text.read_odd(body)
    except RecursionError as exc:
        raise InvalidRequestError(TOO_DEEP) from exc
    except ValueError:
        return _read_strictly(body)
    if not isinstance(document, dict) or len(body) > json_text.MOST_INFINITE_BYTES:
        return document
    settings = document.keys() - _PASSED_ON
    return document if all(json_text.is_finite(document[name]) for name in settings) else _read_strictly(body)


def _read_strictly(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if "limit" in exc.msg:  # orjson's only limit is the nesting depth
            raise InvalidRequestError(TOO_DEEP) from exc
        raise InvalidRequestError(
            f"The request is not valid JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})."
        ) from exc


def check_fields(body: Json, rules: Mapping[str, Rule], *, required: tuple[str, ...]) -> None:
    """InvalidRequestError for the first field that violates its rule. null counts as absent, as in OpenAI's API."""
    for name in required:
        if body.get(name) is None:
            raise InvalidRequestError(f"The field {name!r} is missing.", param=name, code="missing_required_parameter")
    if "model" in required and (not isinstance(body["model"], str) or not body["model"]):
        raise mismatch("model", "a model name", body["model"])
    for name, value in body.items():
        rule = rules.get(name)
        if rule is not None and value is not None and not rule.holds(value):
            raise mismatch(name, rule.expected, value)
    if body.get("stream_options") and not body.get("stream"):
        raise InvalidRequestError("'stream_options' is allowed only with 'stream': true.", param="stream_options")


def request_of(operation: Operation, body: Json) -> InferenceRequest:
    """The request for a body whose fields were checked."""
    stream = bool(body.get("stream"))
    return InferenceRequest(
        operation=operation,
        model=body["model"],
        body=body,
        stream=stream,
        include_usage=stream and bool((body.get("stream_options") or {}).get("include_usage")),
    )


def mismatch(param: str, expected: str, value: Any) -> InvalidRequestError:
    """The error for a value of the wrong type or range."""
    return InvalidRequestError(f"{param!r} must be {expected}, not {formatted(value)}.", param=param)


def string_field(fields: Json, name: str, param: str) -> str:
    """A required string; `param` names the object that holds it."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise mismatch(f"{param}.{name}", "a string", value)
    return value


def formatted(value: Any) -> str:
    """A value for a message, truncated."""
    text = json_text.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:80]}..."
