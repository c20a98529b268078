"""Structured output: finds the constraint of a request in any spelling, so that each dialect can write its own.

An engine ignores a spelling that it does not know, and the client would get free text instead of JSON.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

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
_HINTS = frozenset({"guided_decoding_backend"})  # how to constrain, not what: dropped
_SPELLINGS = frozenset({*_FIELDS, *_HINTS, "structured_outputs"})
_REGEX_SPECIALS = frozenset("\\.^$*+?{}[]|()/-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    kind: Kind
    value: Any
    field: str  # of the request, for messages
    options: Json  # vLLM's further options, e.g. whitespace_pattern


def split_constraint(body: Json) -> tuple[Json, Constraint | None]:
    """The body without any spelling except OpenAI's `response_format`, and the constraint found in the others."""
    if body.keys().isdisjoint(_SPELLINGS):
        return body, None
    found = [
        Constraint(kind=kind, value=_schema(body[name]) if kind == "json" else body[name], field=name, options={})
        for name, kind in _FIELDS.items()
        if body.get(name) is not None
    ]
    found += _structured_outputs(body)
    if len(found) > 1:
        raise UnsupportedError(
            f"{found[0].field!r} and {found[1].field!r} are mutually exclusive", param=found[1].field
        )
    if found and (body.get("response_format") or {}).get("type", "text") != "text":
        raise UnsupportedError(f"{found[0].field!r} and 'response_format' are mutually exclusive", param=found[0].field)
    rest = {name: value for name, value in body.items() if name not in _SPELLINGS}
    return rest, found[0] if found else None


def choice_regex(choices: Any) -> str:
    """A regular expression that matches exactly the given texts."""
    escaped = ("".join("\\" + char if char in _REGEX_SPECIALS else char for char in str(choice)) for choice in choices)
    return "(" + "|".join(escaped) + ")"


def reject_options(constraint: Constraint, engine: str) -> None:
    """UnsupportedError for vLLM's further options."""
    for name in constraint.options:
        raise UnsupportedError(f"{engine} does not support {name!r} in {constraint.field!r}", param=constraint.field)


def _structured_outputs(body: Json) -> list[Constraint]:
    outputs = body.get("structured_outputs")
    if outputs is None:
        return []
    if not isinstance(outputs, dict):
        raise UnsupportedError("'structured_outputs' must be an object", param="structured_outputs")
    kinds: tuple[Kind, ...] = get_args(Kind)
    options = {name: value for name, value in outputs.items() if name not in kinds and value}
    return [
        Constraint(
            kind=kind,
            value=_schema(outputs[kind]) if kind == "json" else outputs[kind],
            field="structured_outputs",
            options=options,
        )
        for kind in kinds
        if outputs.get(kind) not in (None, False)
    ]


def _schema(value: Any) -> Any:
    """Parsed, where it is given as text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise UnsupportedError(f"the JSON schema is not valid JSON: {exc}", param="guided_json") from exc
