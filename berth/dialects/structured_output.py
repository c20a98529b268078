"""Structured output: one request, many spellings. Found here in any of them, so that each dialect can write its own.

An engine ignores the spellings it does not know, and the client gets free text where it asked for JSON; so nothing is
left to the engine.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import orjson

from berth.canonical import Json
from berth.dialects.base import UnsupportedError

Kind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]

_FIELDS: dict[str, Kind] = {
    "guided_json": "json",  # vLLM before 0.12
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "regex": "regex",  # SGLang
    "ebnf": "grammar",
    "json_schema": "json",
}
_HINTS = frozenset({"guided_decoding_backend"})  # says how, not what: dropped
_SPELLINGS = frozenset({*_FIELDS, *_HINTS, "structured_outputs"})
_REGEX_SPECIALS = frozenset("\\.^$*+?{}[]|()/-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    kind: Kind
    value: Any
    field: str  # where it stood, for messages
    options: Json  # vLLM's options beside it, e.g. whitespace_pattern


def split_constraint(body: Json) -> tuple[Json, Constraint | None]:
    """The body without any spelling but OpenAI's `response_format`, and the constraint of the others."""
    if body.keys().isdisjoint(_SPELLINGS):
        return body, None
    found = _in_fields(body) + _in_structured_outputs(body)
    if len(found) > 1:
        raise UnsupportedError(f"{found[0].field!r} and {found[1].field!r} exclude each other", param=found[1].field)
    if found and (body.get("response_format") or {}).get("type", "text") != "text":
        raise UnsupportedError(f"{found[0].field!r} and 'response_format' exclude each other", param=found[0].field)
    rest = {
        name: value
        for name, value in body.items()
        if name not in _FIELDS and name not in _HINTS and name != "structured_outputs"
    }
    return rest, found[0] if found else None


def choice_regex(choices: Any) -> str:
    """A regular expression that matches exactly the given texts."""
    return "(" + "|".join(_escaped(str(choice)) for choice in choices) + ")"


def _in_fields(body: Json) -> list[Constraint]:
    return [
        Constraint(kind=kind, value=_schema(body[name]) if kind == "json" else body[name], field=name, options={})
        for name, kind in _FIELDS.items()
        if body.get(name) is not None
    ]


def _in_structured_outputs(body: Json) -> list[Constraint]:
    outputs = body.get("structured_outputs")
    if outputs is None:
        return []
    if not isinstance(outputs, dict):
        raise UnsupportedError("'structured_outputs' must be an object", param="structured_outputs")
    kinds = [cast("Kind", name) for name in get_args(Kind) if outputs.get(name) not in (None, False)]
    options = {name: value for name, value in outputs.items() if name not in get_args(Kind) and value}
    return [
        Constraint(
            kind=kind,
            value=_schema(outputs[kind]) if kind == "json" else outputs[kind],
            field="structured_outputs",
            options=options,
        )
        for kind in kinds
    ]


def _schema(value: Any) -> Any:
    """A JSON schema may come as text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise UnsupportedError(f"the JSON schema is not JSON: {exc}", param="guided_json") from exc


def _escaped(text: str) -> str:
    return "".join("\\" + char if char in _REGEX_SPECIALS else char for char in text)
