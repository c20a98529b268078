"""Structured output: the text that a schema, a choice, a pattern or a grammar forces on the engine.

The same sample values are the arguments of simulated tool calls.
"""

import json
import re
from typing import Any

from berth.sim import body_validation
from berth.sim.body_validation import Json

TYPES = ("string", "integer", "number", "boolean", "object", "array", "null")
MAX_CHARACTERS = 100_000  # that minItems and minLength of one schema add, over all its values
_MAX_DEPTH = 8
_NAMED = {
    "city": "Paris",
    "location": "Paris",
    "place": "Paris",
    "country": "France",
    "name": "Ada",
    "date": "2026-01-31",
}
_LITERAL = re.compile(r"(?:[^\\.^$*+?{}\[\]()|]|\\\W|\\n)*")  # a pattern without metacharacters


class SchemaError(ValueError):
    """A schema that no engine can follow. `kind` is the unknown type."""

    def __init__(self, kind: object) -> None:
        super().__init__(f"unknown type {kind!r}")
        self.kind = kind


class PatternError(ValueError):
    """An invalid regular expression."""


def sample(schema: object) -> Any:
    """One value that fits. Optional properties are omitted if the schema requires others, else all are set.

    The size of the value is linear in the size of the schema: `minItems` and `minLength` share one budget, also nested.
    """
    return _Sampler().value(schema)


class _Sampler:
    def __init__(self) -> None:
        self._characters_left = MAX_CHARACTERS

    def value(self, schema: object, name: str = "", depth: int = 0) -> Any:
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return self._counted(None if schema is False else "text")
        for key in ("const", "default"):
            if key in schema:
                return self._counted(schema[key])
        for key in ("enum", "examples", "anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                first = schema[key][0]
                return self.value(first, name, depth + 1) if key.endswith("Of") else self._counted(first)
        return self._of_type(schema, name, depth)

    def _of_type(self, schema: Json, name: str, depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = kind[0] if kind else "string"
        if kind not in TYPES:
            raise SchemaError(kind)
        if kind == "array":  # at least one item; all are equal, so the cost of the first one decides how many fit
            before = self._characters_left
            item = self.value(schema.get("items", {}), name, depth + 1)
            cost = before - self._characters_left
            more = max(0, min(_number(schema, "minItems", 1) - 1, self._characters_left // cost))
            self._characters_left -= more * cost
            return [item] * (1 + more)
        if kind != "object":
            return self._scalar(kind, schema, name)
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return self._counted({})
        required = schema.get("required")
        names = [str(name) for name in required] if isinstance(required, list) and required else list(properties)
        self._counted(names)
        return {name: self.value(properties.get(name, {}), name, depth + 1) for name in names}

    def _scalar(self, kind: str, schema: Json, name: str) -> object:
        if kind == "string":
            text = _NAMED.get(name, "text")
            text += "x" * min(self._characters_left, _number(schema, "minLength", 0) - len(text))
            return self._counted(text[: max(0, _number(schema, "maxLength", len(text)))])
        if kind in ("integer", "number"):
            return self._counted(_number(schema, "minimum", min(1, _number(schema, "maximum", 1))))
        return self._counted(True if kind == "boolean" else None)

    def _counted(self, value: Any) -> Any:
        self._characters_left -= len(json.dumps(value)) + 2  # and the separator
        return value


def first_match(pattern: str) -> str:
    """The first alternative of a pattern if it is plain text, else "". re.error for an invalid pattern.

    Nothing is matched against the pattern: a client's pattern can take exponential time.
    """
    re.compile(pattern)
    inner = pattern[1:-1]
    is_group = pattern.startswith("(") and pattern.endswith(")") and "(" not in inner and ")" not in inner
    first = (inner if is_group else pattern).split("|")[0]
    if not _LITERAL.fullmatch(first):
        return ""
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], first)


def response_schema(body: Json) -> Any:
    """The JSON schema that `response_format` requests: {} for any object, None for text."""
    requested = body.get("response_format")
    kind = body_validation.member(requested, "type")
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json":
        return body_validation.member(requested, "schema")
    if kind == "json_schema":
        return body_validation.member(body_validation.member(requested, "json_schema"), "schema")
    return None


def structured(*, schema: Any = None, choice: Any = None, regex: Any = None, grammar: Any = None) -> str | None:
    """None if nothing is requested, or if the simulation finds no text that fits.

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


def _number(schema: Json, key: str, default: int) -> int:
    value = schema.get(key, default)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
