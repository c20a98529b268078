"""Values that fit a JSON schema: the arguments of simulated tool calls and simulated structured output.

Structured output: the text that a schema, a choice, a pattern or a grammar makes the engine say.
"""

import json
import re
from typing import Any

from berth.sim import body_validation
from berth.sim.body_validation import Json

TYPES = ("string", "integer", "number", "boolean", "object", "array", "null")
_DEEPEST = 8
_LARGEST = 10_000  # characters and items that a schema can ask for
_NAMED = {
    "city": "Paris",
    "location": "Paris",
    "place": "Paris",
    "country": "France",
    "name": "Ada",
    "date": "2026-01-31",
}


class SchemaError(ValueError):
    """A schema that no engine could follow. `kind` is the type that does not exist."""

    def __init__(self, kind: object) -> None:
        super().__init__(f"unknown type {kind!r}")
        self.kind = kind


def sample(schema: object, name: str = "", depth: int = 0) -> Any:
    """One value that fits; optional properties are left out where some are required, else all are given."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None if schema is False else "text"
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return sample(schema[key][0], name, depth + 1)
    return _of_type(schema, name, depth)


def first_match(pattern: str) -> str:
    """A text that a simple pattern allows: its first alternative where that is plain text, "" otherwise.

    re.error for a pattern that is none.
    """
    compiled = re.compile(pattern)
    inner = pattern.removeprefix("(").removesuffix(")").split("|")[0]
    plain = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], inner)
    return plain if compiled.fullmatch(plain) else ""


def _of_type(schema: dict[str, Any], name: str, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "string"
    if kind not in TYPES:
        raise SchemaError(kind)
    if kind == "object":
        return _object(schema, depth)
    if kind == "array":
        return [sample(schema.get("items", {}), name, depth + 1)] * min(
            _LARGEST, max(1, _number(schema, "minItems", 1))
        )
    if kind == "string":
        return _string(schema, name)
    if kind in ("integer", "number"):
        return _number(schema, "minimum", min(1, _number(schema, "maximum", 1)))
    return True if kind == "boolean" else None


def _object(schema: dict[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    names = required if isinstance(required, list) and required else list(properties)
    return {str(name): sample(properties.get(name, {}), str(name), depth + 1) for name in names}


def _string(schema: dict[str, Any], name: str) -> str:
    text = _NAMED.get(name, "text")
    text += "x" * min(_LARGEST, _number(schema, "minLength", 0) - len(text))
    return text[: max(0, _number(schema, "maxLength", len(text)))]


def _number(schema: dict[str, Any], key: str, default: int) -> int:
    value = schema.get(key, default)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


class PatternError(ValueError):
    """A regular expression that is none."""


def response_schema(body: Json) -> Any:
    """The JSON schema that `response_format` asks for; {} for any object, None where it asks for text."""
    wanted = body.get("response_format")
    kind = body_validation.inside(wanted, "type")
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json":
        return body_validation.inside(wanted, "schema")
    return (
        body_validation.inside(body_validation.inside(wanted, "json_schema"), "schema")
        if kind == "json_schema"
        else None
    )


def structured(*, schema: Any = None, choice: Any = None, regex: Any = None, grammar: Any = None) -> str | None:
    """None where nothing is asked for, or where the simulation knows no text that fits.

    SchemaError and PatternError for what no engine can follow.
    """
    if schema is not None:
        return json.dumps(sample(schema), ensure_ascii=False)
    if isinstance(choice, list) and choice:
        return str(choice[0])
    if isinstance(regex, str):
        try:
            return first_match(regex) or None
        except re.error as error:
            raise PatternError(str(error)) from error
    literal = re.search(r'"([^"]+)"', grammar) if isinstance(grammar, str) else None
    return literal[1] if literal else None
