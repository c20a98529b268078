"""The fields that Ollama's requests have in common, and what they become in a canonical body.

Source: Ollama's documentation of its API (docs/api.md) and the requests of its official clients. Ollama's own numbers
are lax (7.0 is an integer there), its engine's options are those of llama.cpp; the ones that no engine of ours has, or
that cannot change for one request, are listed as ignored.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from berth.apis.openai.fields import (
    BOOLEAN,
    OBJECT,
    TEXT,
    Rule,
    check_fields,
    integer,
    is_number,
    is_text_or_texts,
    shown,
)
from berth.canonical import Json
from berth.errors import InvalidRequestError

EFFORTS: Final = ("low", "medium", "high", "max")
_LARGEST: Final = 2**31 - 1  # of integers: engines keep them in 32 bits
_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,40}")  # what may stand in a header

THINK = Rule(
    holds=lambda value: isinstance(value, bool) or value in EFFORTS,
    expected="true, false, " + " or ".join(f"{effort!r}" for effort in EFFORTS),
)
FORMAT = Rule(holds=lambda value: value in ("", "json") or isinstance(value, dict), expected="'json' or a JSON schema")
KEEP_ALIVE = Rule(
    holds=lambda value: isinstance(value, str) or is_number(value), expected="seconds, or a duration such as '5m'"
)
LIST = Rule(holds=lambda value: isinstance(value, list), expected="a list")
# Of chat and generate alike.
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
    "input": Rule(holds=is_text_or_texts, expected="a string or a list of strings"),
    "keep_alive": KEEP_ALIVE,
    "options": OBJECT,
    "prompt": TEXT,
    "truncate": BOOLEAN,
}
# Fields without effect here. Engines refuse what is too long, they do not cut it.
_WITHOUT_EFFECT: Final = ("keep_alive", "shift", "truncate")


def check(document: Json, rules: dict[str, Rule]) -> None:
    """InvalidRequestError for the first field that breaks its rule; unknown fields are no concern."""
    check_fields({name: document.get(name) for name in ("model", *rules)}, rules, required=("model",))


def is_streamed(document: Json) -> bool:
    """Unlike elsewhere, a stream is what one gets without asking."""
    return document.get("stream") is not False


def is_unloading(document: Json) -> bool:
    """A request without a prompt loads the model, or unloads it when it may be kept for no time at all."""
    return document.get("keep_alive") in (0, "0", "0s", "0m", "0h")


def ignored_fields(document: Json, *also: str) -> tuple[str, ...]:
    """What the client wrote in vain; `also`: fields that this endpoint has no use for."""
    options = document.get("options") or {}
    fields = [name for name in (*_WITHOUT_EFFECT, *also) if document.get(name) not in (None, [], "")]
    if document.get("top_logprobs") and not document.get("logprobs"):
        fields.append("top_logprobs")
    return (*fields, *(f"options.{name}" for name, value in options.items() if _is_ignored(name, value)))


def generation_fields(document: Json) -> Json:
    """options, format and think, as the canonical body of a chat or a completion has them."""
    fields: Json = {}
    for name, value in (document.get("options") or {}).items():
        if value is not None and name in _OPTIONS:
            fields |= _OPTIONS[name](f"options.{name}", value)
    return {**fields, **_response_format(document.get("format"))}


def thinking_fields(think: Any) -> Json:
    """A chat's. Templates know either of two names for the switch; a level is the effort of models that have some, of
    which not all engines know the highest.
    """
    if think is None:
        return {}
    kwargs = {"enable_thinking": bool(think), "thinking": bool(think)}
    effort = {"reasoning_effort": "high" if think == "max" else think} if isinstance(think, str) else {}
    return {"chat_template_kwargs": kwargs, **effort}


def _response_format(wanted: Any) -> Json:
    if wanted in (None, ""):
        return {}
    if wanted in ("json", {}):  # a schema that says nothing
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "answer", "schema": wanted, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _is_ignored(name: str, value: Any) -> bool:
    if value is None or name in _OPTIONS or not _NAME.fullmatch(name):
        return False
    return name not in _NEUTRAL or value != _NEUTRAL[name]


def _number(name: str, low: float | None = None, high: float | None = None) -> Callable[[str, Any], Json]:
    limits = "" if low is None else (f" of {low:g} or more" if high is None else f" between {low:g} and {high:g}")

    def read(param: str, value: Any) -> Json:
        if not is_number(value) or (low is not None and value < low) or (high is not None and value > high):
            raise _wrong(param, value, f"a number{limits}")
        return {name: value}

    return read


def _whole(param: str, value: Any) -> int:
    """7.0 is an integer: some clients know only one kind of number."""
    if not is_number(value) or value != value // 1 or not -_LARGEST <= value <= _LARGEST:
        raise _wrong(param, value, f"an integer between {-_LARGEST} and {_LARGEST}")
    return int(value)


def _num_predict(param: str, value: Any) -> Json:
    """-1 (without end) and -2 (to the end of the context) are what engines do without a limit."""
    most = _whole(param, value)
    return {"max_tokens": most} if most > 0 else {}


def _seed(param: str, value: Any) -> Json:
    """-1: another one each time."""
    seed = _whole(param, value)
    return {"seed": seed} if seed >= 0 else {}


def _top_k(param: str, value: Any) -> Json:
    """All engines take 0 for all tokens; -1 means the same to some of them."""
    return {"top_k": max(_whole(param, value), 0)}


def _repeat_penalty(param: str, value: Any) -> Json:
    if not is_number(value) or value <= 0:
        raise _wrong(param, value, "a number above 0")
    return {"repetition_penalty": value}


def _stop(param: str, value: Any) -> Json:
    if not is_text_or_texts(value):
        raise _wrong(param, value, "a list of strings")
    texts = [text for text in ([value] if isinstance(value, str) else value) if text]
    return {"stop": texts} if texts else {}


def _wrong(param: str, value: Any, expected: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param!r} must be {expected}, not {shown(value)}.", param=param)


_OPTIONS: Final[dict[str, Callable[[str, Any], Json]]] = {
    "frequency_penalty": _number("frequency_penalty", -2, 2),
    "min_p": _number("min_p", 0, 1),
    "num_predict": _num_predict,
    "presence_penalty": _number("presence_penalty", -2, 2),
    "repeat_penalty": _repeat_penalty,
    "seed": _seed,
    "stop": _stop,
    "temperature": _number("temperature", 0),
    "top_k": _top_k,
    "top_p": _number("top_p", 0, 1),
}
# Options that ask for nothing with these values: some clients send the whole list of them.
_NEUTRAL: Final[dict[str, Any]] = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}
