"""The spellings of `response_format`: OpenAI's, and those of other servers that clients use with OpenAI's API.

A schema has one form afterwards, OpenAI's, because engines ignore the others without a word:

    {"type": "json_schema", "json_schema": {"name", "schema"}}      OpenAI
    {"type": "json_schema", "schema"} or "value"                    llama.cpp
    {"type": "json_schema", "json_schema": SCHEMA}                  TensorRT-LLM, clients that leave out the wrapper
    {"type": "json_object" or "json", "schema"} or "value"          llama.cpp, Together, Fireworks, TGI, TensorRT-LLM

Patterns and grammars stay as they are, and each dialect spells them: `regex`, `grammar`, `ebnf`, `gbnf`, `choice`.
"""

from typing import Any, Final

import orjson

from berth import json_text
from berth.apis.openai.fields import formatted
from berth.canonical import Json
from berth.errors import InvalidRequestError

_JSON: Final = ("json_object", "json")
_OTHERS: Final = ("text", "structural_tag", "regex", "grammar", "ebnf", "gbnf", "choice")
# One of these keys makes an object in the place of OpenAI's wrapper a schema.
_OF_SCHEMAS: Final = frozenset(
    {"type", "properties", "$ref", "$defs", "anyOf", "oneOf", "allOf", "enum", "const", "items", "additionalProperties"}
)


def canonical_format(given: Json) -> Json:
    """In OpenAI's form. InvalidRequestError for an unknown type, and for a schema that is none."""
    kind = given["type"]
    if kind in _JSON:
        schema = _schema_in(given, "schema", "value", "json_schema")
        return {"type": "json_object"} if schema is None else _json_schema({}, schema)
    if kind == "json_schema":
        wrapper = given.get("json_schema")
        if wrapper is None:
            return _json_schema({}, _required(_schema_in(given, "schema", "value"), given))
        if not isinstance(wrapper, dict):
            raise _rejected("'response_format.json_schema' must be an object with a 'schema'", wrapper)
        if "schema" not in wrapper and not _OF_SCHEMAS.isdisjoint(wrapper):
            return _json_schema({}, wrapper)
        return _json_schema(wrapper, _required(_schema_in(wrapper, "schema"), wrapper))
    if kind not in _OTHERS:
        known = ", ".join((*_JSON, "json_schema", *_OTHERS))
        raise _rejected(f"'response_format.type' must be one of {known}", kind)
    return given


def _json_schema(wrapper: Json, schema: Json) -> Json:
    name = wrapper.get("name")
    name = name if isinstance(name, str) and name else "answer"  # required by some engines
    return {"type": "json_schema", "json_schema": {**wrapper, "name": name, "schema": schema}}


def _schema_in(holder: Json, *names: str) -> Json | None:
    """The schema in the first of these fields, which may be text; None without one."""
    value = next((holder[name] for name in names if holder.get(name) is not None), None)
    if "json_schema" in names and isinstance(value, dict) and isinstance(value.get("schema"), dict):
        value = value["schema"]
    if isinstance(value, str):
        try:
            value = json_text.loads(value)
        except orjson.JSONDecodeError as exc:
            raise _rejected("the schema in 'response_format' must be an object", value) from exc
    if not isinstance(value, dict | None):
        raise _rejected("the schema in 'response_format' must be an object", value)
    return value


def _required(schema: Json | None, given: Json) -> Json:
    if schema is None:
        raise _rejected("'response_format' of type 'json_schema' must have a 'schema'", given)
    return schema


def _rejected(message: str, value: Any) -> InvalidRequestError:
    return InvalidRequestError(f"{message}, not {formatted(value)}.", param="response_format")
