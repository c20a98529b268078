"""Structured output: finds the constraint of a request in any spelling, and writes it as each engine reads it.

An engine ignores a spelling that it does not know, and the client would get free text instead of JSON.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

from berth import json_text
from berth.canonical import Json
from berth.dialects.base import UnsupportedError

Kind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]

_KINDS: tuple[Kind, ...] = get_args(Kind)
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
    outputs = body.get("structured_outputs")
    if outputs is not None:
        if not isinstance(outputs, dict):
            raise UnsupportedError("'structured_outputs' must be an object", param="structured_outputs")
        options = {name: value for name, value in outputs.items() if name not in _KINDS and value}
        found += [
            Constraint(
                kind=kind,
                value=_schema(outputs[kind]) if kind == "json" else outputs[kind],
                field="structured_outputs",
                options=options,
            )
            for kind in _KINDS
            if outputs.get(kind) not in (None, False)
        ]
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


def sglang_fields(constraint: Constraint) -> Json:
    """SGLang's fields: `response_format`, or its own `regex` and `ebnf`."""
    _reject_options(constraint, "SGLang")
    match constraint.kind:
        case "json":
            schema = {"name": "answer", "schema": constraint.value, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "regex":
            return {"regex": constraint.value}
        case "choice":
            return {"regex": choice_regex(constraint.value)}
        case "grammar":
            return {"ebnf": constraint.value}
    raise UnsupportedError("SGLang accepts structural tags in 'response_format' only", param=constraint.field)


def trtllm_response_format(constraint: Constraint) -> Json:
    _reject_options(constraint, "TensorRT-LLM")
    match constraint.kind:
        case "json":
            return {"type": "json", "schema": constraint.value}
        case "json_object":
            return {"type": "json_object"}
        case "regex":
            return {"type": "regex", "regex": constraint.value}
        case "choice":
            return {"type": "regex", "regex": choice_regex(constraint.value)}
        case "grammar":
            return {"type": "ebnf", "ebnf": constraint.value}
    raise UnsupportedError("TensorRT-LLM does not support vLLM's structural tags", param=constraint.field)


def _reject_options(constraint: Constraint, engine: str) -> None:
    """UnsupportedError for vLLM's further options."""
    for name in constraint.options:
        raise UnsupportedError(f"{engine} does not support {name!r} in {constraint.field!r}", param=constraint.field)


def _schema(value: Any) -> Any:
    """Parsed, where it is given as text."""
    if not isinstance(value, str):
        return value
    try:
        return json_text.loads(value)
    except orjson.JSONDecodeError as exc:
        raise UnsupportedError(f"the JSON schema is not valid JSON: {exc}", param="guided_json") from exc
