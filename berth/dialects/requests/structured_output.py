"""Structured output: finds the constraint of a request in any spelling, and writes it as each engine reads it.

An engine ignores a spelling that it does not know, and the client would get free text instead of JSON.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

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
    "json_schema": "json",  # and llama.cpp, which has `grammar` too
    "response_schema": "json",  # Gemini
    "responseSchema": "json",
    "response_json_schema": "json",
    "responseJsonSchema": "json",
}
# `response_format` of these types -> the kind, and where it has its value
_FORMATS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "regex": ("regex", ("regex", "pattern", "value")),
    "grammar": ("grammar", ("grammar", "value")),
    "ebnf": ("grammar", ("ebnf", "grammar", "value")),
    "gbnf": ("grammar", ("gbnf", "grammar", "value")),
    "choice": ("choice", ("choice", "choices", "value")),
}
_TGI: dict[str, Kind] = {"json": "json", "json_schema": "json", "regex": "regex"}  # types of `grammar`
_HINTS = frozenset({"guided_decoding_backend"})  # how to constrain, not what: dropped
_OBJECTS = frozenset({"grammar", "format"})  # of TGI or llama.cpp, and of Ollama
_SPELLINGS = frozenset({*_FIELDS, *_HINTS, *_OBJECTS, "structured_outputs"})
CONSTRAINING: Final = _SPELLINGS | {"response_format"}  # a request without them wants any text
_REGEX_SPECIALS = frozenset("\\.^$*+?{}[]|()/-")


_EXPECTED: dict[Kind, str] = {
    "json": "JSON schema",
    "regex": "regular expression",
    "choice": "list of texts",
    "grammar": "grammar",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    kind: Kind
    value: Any
    field: str  # of the request, for messages
    options: Json  # vLLM's further options, e.g. whitespace_pattern


def split_constraint(body: Json) -> tuple[Json, Constraint | None]:
    """The body without any spelling except OpenAI's `response_format`, and the constraint found in the others."""
    wanted = body.get("response_format")
    form = wanted.get("type", "text") if isinstance(wanted, dict) else "text"
    if _SPELLINGS.isdisjoint(body) and form not in _FORMATS:
        return body, None
    found = [_constraint(kind, body[name], name) for name, kind in _FIELDS.items() if body.get(name) is not None]
    found += [*_in_outputs(body.get("structured_outputs")), *_in_objects(body)]
    rest = {name: value for name, value in body.items() if name not in _SPELLINGS}
    if wanted and form in _FORMATS:
        kind, names = _FORMATS[form]
        value = next((wanted[name] for name in names if wanted.get(name) is not None), None)
        found.append(_constraint(kind, value, "response_format"))
        del rest["response_format"]
    elif found and form != "text":
        raise UnsupportedError(f"{found[0].field!r} and 'response_format' are mutually exclusive", param=found[0].field)
    if len(found) > 1:
        raise UnsupportedError(
            f"{found[0].field!r} and {found[1].field!r} are mutually exclusive", param=found[1].field
        )
    return rest, found[0] if found else None


def _constraint(kind: Kind, value: Any, field: str, options: Json | None = None) -> Constraint:
    """UnsupportedError for a value that is none of its kind."""
    if kind == "json" and isinstance(value, str):
        try:
            value = json_text.loads(value)
        except orjson.JSONDecodeError as exc:
            raise UnsupportedError(f"the JSON schema is not valid JSON: {exc}", param=field) from exc
    valid = {
        "json": isinstance(value, dict | bool),
        "regex": isinstance(value, str),
        "choice": isinstance(value, list) and bool(value),
        "grammar": isinstance(value, str),
    }
    if not valid.get(kind, True):
        raise UnsupportedError(f"{field!r} has no {_EXPECTED[kind]}", param=field)
    return Constraint(kind=kind, value=value, field=field, options=options or {})


def _in_outputs(outputs: Any) -> list[Constraint]:
    """The constraints in vLLM's `structured_outputs`."""
    if outputs is None:
        return []
    if not isinstance(outputs, dict):
        raise UnsupportedError("'structured_outputs' must be an object", param="structured_outputs")
    options = {name: value for name, value in outputs.items() if name not in _KINDS and value}
    return [
        _constraint(kind, outputs[kind], "structured_outputs", options)
        for kind in _KINDS
        if outputs.get(kind) not in (None, False)
    ]


def _in_objects(body: Json) -> list[Constraint]:
    """Those in `grammar` (text of llama.cpp, or TGI's object) and in Ollama's `format`."""
    found = []
    grammar, wanted = body.get("grammar"), body.get("format")
    if isinstance(grammar, dict):
        value = grammar.get("value")
        if grammar.get("type") == "json_schema" and isinstance(value, dict):
            value = value.get("schema", value)
        found.append(_constraint(_TGI.get(str(grammar.get("type")), "grammar"), value, "grammar"))
    elif grammar:
        found.append(_constraint("grammar", grammar, "grammar"))
    if wanted in ("json", {}):
        found.append(_constraint("json_object", value=True, field="format"))
    elif wanted:
        found.append(_constraint("json", wanted, "format"))
    return found


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
