"""The fields of OpenAI's requests and what each may hold. Only what all engines agree on: the rest they judge.

A rule is a test and the words for a message. Types are strict: "yes" is no boolean and true is no number, because one
engine would convert it and the next refuse it.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

TOO_DEEP = "The request is nested too deeply."
_MANY = 200  # brackets: fewer cannot be nested too deeply to be written again
_MARGIN = 4  # levels that a translation may add


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
    """A text, texts, token ids, or lists of token ids; nothing empty but a text."""
    if isinstance(value, str):
        return True
    if not isinstance(value, list) or not value:
        return False
    kinds = set(map(type, value))
    return kinds in ({str}, {int}) or (kinds == {list} and all(set(map(type, item)) == {int} for item in value))


def integer(low: int, high: int | None = None) -> Rule:
    words = f"an integer of {low} or more" if high is None else f"an integer between {low} and {high}"
    return Rule(
        holds=lambda value: is_integer(value) and value >= low and (high is None or value <= high), expected=words
    )


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
PROMPT = Rule(
    holds=is_prompt, expected="a string, a list of strings, a list of token ids, or a list of lists of token ids"
)
TEXT_OR_TEXTS = Rule(holds=is_text_or_texts, expected="a string or a list of strings")
STREAM_OPTIONS = Rule(
    holds=lambda value: isinstance(value, dict) and isinstance(value.get("include_usage") or False, bool),
    expected="an object whose include_usage is true or false",
)

# Of chat and completions alike.
SAMPLING: dict[str, Rule] = {
    "frequency_penalty": number(-2.0, 2.0),
    "logit_bias": OBJECT,
    "max_tokens": integer(0),
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
    """The request as a JSON object. InvalidRequestError says where it is none."""
    if not body.strip():
        raise InvalidRequestError("The request has no body. Send a JSON object.")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequestError(_json_problem(exc)) from exc
    if not isinstance(document, dict):
        raise InvalidRequestError(f"The request must be a JSON object, not {_kind(document)}.")
    if body.count(b"[") + body.count(b"{") > _MANY:
        _check_depth(document)
    return document


def _check_depth(document: Json) -> None:
    """More levels can be read than written (orjson), and what goes to an engine must be written."""
    try:
        orjson.dumps(functools.reduce(lambda inner, _: [inner], range(_MARGIN), cast("Any", document)))
    except orjson.JSONEncodeError as exc:
        raise InvalidRequestError(TOO_DEEP) from exc


def check_fields(body: Json, rules: Mapping[str, Rule], *, required: tuple[str, ...]) -> None:
    """InvalidRequestError for the first field that breaks its rule. null counts as absent, as it does at OpenAI."""
    for name in required:
        if body.get(name) is None:
            raise InvalidRequestError(f"The field {name!r} is missing.", param=name, code="missing_required_parameter")
    if "model" in required and (not isinstance(body["model"], str) or not body["model"]):
        raise InvalidRequestError(f"'model' must be a model's name, not {shown(body['model'])}.", param="model")
    for name, value in body.items():
        rule = rules.get(name)
        if rule is not None and value is not None and not rule.holds(value):
            raise InvalidRequestError(f"{name!r} must be {rule.expected}, not {shown(value)}.", param=name)
    if body.get("stream_options") and not body.get("stream"):
        raise InvalidRequestError("'stream_options' is allowed only with 'stream': true.", param="stream_options")


def request_of(operation: Operation, body: Json) -> InferenceRequest:
    """The request of a body whose fields were checked."""
    stream = bool(body.get("stream"))
    return InferenceRequest(
        operation=operation,
        model=body["model"],
        body=body,
        stream=stream,
        include_usage=stream and bool((body.get("stream_options") or {}).get("include_usage")),
    )


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:80]}..."


def _json_problem(exc: orjson.JSONDecodeError) -> str:
    if "limit" in exc.msg:  # the only limit that orjson has is that of nesting
        return TOO_DEEP
    return f"The request is not valid JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})."


def _kind(document: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(document), "a number")
