"""The common fields of Ollama's requests and their canonical form.

Source: Ollama's API documentation (docs/api.md) and the requests of its official clients. Ollama is lenient with
numbers (7.0 is an integer), and its options are those of llama.cpp. Options that no engine supports, or that cannot
change per request, are listed as ignored.
"""

import math
import re
from typing import Any, Final

from berth.apis.openai.fields import (
    BOOLEAN,
    OBJECT,
    POSITIVE,
    TEXT,
    TEXT_OR_TEXTS,
    Rule,
    check_fields,
    integer,
    is_number,
    mismatch,
    number,
)
from berth.canonical import Json

EFFORTS: Final = ("low", "medium", "high", "max")
_LARGEST: Final = 2**31 - 1  # engines keep integers in 32 bits
_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,40}")  # what may stand in a header

THINK = Rule(
    holds=lambda value: isinstance(value, bool) or value in EFFORTS,
    expected="true, false, " + " or ".join(f"{effort!r}" for effort in EFFORTS),
)
FORMAT = Rule(holds=lambda value: value in ("", "json") or isinstance(value, dict), expected="'json' or a JSON schema")
_DURATION: Final = re.compile(r"[-+]?(?:\d{1,9}(?:\.\d{0,9})?(?:ns|us|ms|s|m|h))+|[-+]?\d{1,9}")
_PART: Final = re.compile(r"(\d+(?:\.\d*)?)(ns|us|ms|s|m|h)?")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_KEEP_ALIVE_S: Final = 366 * 86_400.0  # more is for ever
KEEP_ALIVE = Rule(
    holds=lambda value: is_number(value) or (isinstance(value, str) and _DURATION.fullmatch(value) is not None),
    expected="seconds, or a duration such as '5m'",
)
LIST = Rule(holds=lambda value: isinstance(value, list), expected="a list")
# Shared by chat and generate.
GENERATING: Final[dict[str, Rule]] = {
    "format": FORMAT,
    "keep_alive": KEEP_ALIVE,
    "logprobs": BOOLEAN,
    "options": OBJECT,
    "shift": BOOLEAN,
    "stream": BOOLEAN,
    "think": THINK,
    "top_logprobs": integer(0, 20),
    "truncate": BOOLEAN,
}
EMBEDDING: Final[dict[str, Rule]] = {
    "dimensions": integer(0),
    "input": TEXT_OR_TEXTS,
    "keep_alive": KEEP_ALIVE,
    "options": OBJECT,
    "prompt": TEXT,
    "truncate": BOOLEAN,
}
# Engines reject a prompt that is too long, they do not truncate it.
_IGNORED: Final = ("keep_alive", "shift", "truncate")
# Options with a number -> its canonical field and rule.
_NUMBERS: Final[dict[str, tuple[str, Rule]]] = {
    "frequency_penalty": ("frequency_penalty", number(-2, 2)),
    "min_p": ("min_p", number(0, 1)),
    "presence_penalty": ("presence_penalty", number(-2, 2)),
    "repeat_penalty": ("repetition_penalty", POSITIVE),
    "temperature": ("temperature", number(0)),
    "top_p": ("top_p", number(0, 1)),
}
# Options with an integer -> its canonical field, and the least value that is not the default. Below it, num_predict is
# unlimited (-1) or fills the context (-2), as engines do without a limit, and seed is random.
_INTEGERS: Final = {"num_predict": ("max_tokens", 1), "seed": ("seed", 0)}
_OPTIONS: Final = frozenset({*_NUMBERS, *_INTEGERS, "stop", "top_k"})
# Ignored options that have no effect with these values: some clients send all options.
_NEUTRAL: Final[dict[str, Any]] = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}


def check(document: Json, rules: dict[str, Rule]) -> None:
    """InvalidRequestError for the first field that violates its rule. Unknown fields are allowed."""
    check_fields({name: document.get(name) for name in ("model", *rules)}, rules, required=("model",))


def is_streamed(document: Json) -> bool:
    """Unlike in other APIs, streaming is the default."""
    return document.get("stream") is not False


def keep_alive_s(document: Json) -> float | None:
    """How long the model stays loaded after the request; inf: for ever. None: the client does not say. The document was
    checked.
    """
    given = document.get("keep_alive")
    if given is None:
        return None
    if isinstance(given, str):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(given))
        seconds = -seconds if given.startswith("-") else seconds
    else:
        seconds = float(given)
    return math.inf if seconds < 0 or seconds > LONGEST_KEEP_ALIVE_S else seconds


def ignored_fields(document: Json, *also: str) -> tuple[str, ...]:
    """The client's fields without effect; `also`: further ones of this endpoint."""
    fields = [name for name in (*_IGNORED, *also) if document.get(name) not in (None, [], "")]
    if document.get("top_logprobs") and not document.get("logprobs"):
        fields.append("top_logprobs")
    for name, value in (document.get("options") or {}).items():
        neutral = value is None or (name in _NEUTRAL and value == _NEUTRAL[name])
        if not neutral and name not in _OPTIONS and _NAME.fullmatch(name):
            fields.append(f"options.{name}")
    return tuple(fields)


def generation_fields(document: Json) -> Json:
    """The canonical fields for `options` and `format`, of a chat or a completion."""
    fields: Json = {}
    for name, value in (document.get("options") or {}).items():
        if value is not None and name in _OPTIONS:
            fields |= _option(name, value)
    schema = document.get("format")
    if schema in ("json", {}):  # any JSON object
        fields["response_format"] = {"type": "json_object"}
    elif schema:
        json_schema = {"name": "answer", "schema": schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    return fields


def thinking_fields(think: Any) -> Json:
    """Fields of a chat. Templates use either of two names for the switch. A level is the effort of models that support
    one; not all engines accept `max`.
    """
    if think is None:
        return {}
    kwargs = {"enable_thinking": bool(think), "thinking": bool(think)}
    effort = {"reasoning_effort": "high" if think == "max" else think} if isinstance(think, str) else {}
    return {"chat_template_kwargs": kwargs, **effort}


def _option(name: str, value: Any) -> Json:
    param = f"options.{name}"
    if name in _NUMBERS:
        field, rule = _NUMBERS[name]
        if not rule.holds(value):
            raise mismatch(param, rule.expected, value)
        return {field: value}
    if name == "stop":
        if not TEXT_OR_TEXTS.holds(value):
            raise mismatch(param, "a list of strings", value)
        texts = [text for text in ([value] if isinstance(value, str) else value) if text]
        return {"stop": texts} if texts else {}
    # 7.0 is an integer: some clients have only one type of number.
    if not is_number(value) or value != value // 1 or not -_LARGEST <= value <= _LARGEST:
        raise mismatch(param, f"an integer between {-_LARGEST} and {_LARGEST}", value)
    if name == "top_k":  # 0 means all tokens to every engine, -1 to some
        return {"top_k": max(int(value), 0)}
    field, least = _INTEGERS[name]
    return {field: int(value)} if value >= least else {}
