import json
import re
from typing import Any

import pytest

from berth.sim.structured_output import (
    MAX_CHARACTERS,
    PatternError,
    SchemaError,
    first_match,
    response_schema,
    sample,
    structured,
)

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}}

DEEP: dict[str, Any] = {"type": "string"}
for _ in range(20):
    DEEP = {"type": "object", "properties": {"inner": DEEP}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"city": {"type": "string"}}}, {"city": "Paris"}),
        ({"properties": {"a": {"type": "integer"}, "b": {"type": "null"}}, "required": ["a"]}, {"a": 1}),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}, {"b": "text"}),
        ({"type": "object"}, {}),
        ({"type": "object", "properties": "x"}, {}),
        ({"enum": ["celsius", "kelvin"]}, "celsius"),
        ({"const": 4}, 4),
        ({"default": None}, None),
        ({"examples": ["x"]}, "x"),
        ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, True),
        ({"type": "array", "items": {"type": "integer", "minimum": 7}, "minItems": 2}, [7, 7]),
        ({"type": "array"}, ["text"]),
        ({"type": ["null", "string"]}, None),
        ({"type": []}, "text"),
        ({"type": "number", "maximum": -3}, -3),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({}, "text"),
        (True, "text"),
        (False, None),
        ("odd", "text"),
    ],
)
def test_samples_fit_the_schema(schema: Any, value: Any) -> None:
    assert sample(schema) == value


HUGE = 10**12


def _nested(item: object, levels: int) -> dict[str, Any]:
    schema: Any = item
    for _ in range(levels):
        schema = {"type": "array", "minItems": HUGE, "items": schema}
    return {"type": "object", "properties": {"a": schema, "b": schema}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": HUGE},
        {"type": "array", "minItems": HUGE},
        {"type": "array", "minItems": HUGE, "items": {"type": "string", "minLength": HUGE}},
        {"type": "array", "minItems": HUGE, "items": {"type": "object", "properties": {"x" * 500: {}}}},
        _nested({"type": "integer"}, 2),
        _nested({"const": "x" * 1000}, 7),
        {"type": "object", "properties": {str(at): {"type": "array", "minItems": HUGE} for at in range(100)}},
    ],
)
def test_bounds_the_size_of_samples(schema: Any) -> None:
    text = json.dumps(sample(schema))

    assert MAX_CHARACTERS / 2 < len(text) < 2 * MAX_CHARACTERS


def test_bounds_the_depth_of_samples() -> None:
    assert str(sample(DEEP)).count("inner") == 9


def test_rejects_unknown_types() -> None:
    with pytest.raises(SchemaError, match="unknown type 'nonsense'"):
        sample({"type": "nonsense"})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(yes|no)", "yes"),
        ("yes", "yes"),
        (r"a\.b\nc", "a.b\nc"),
        ("[0-9]{3}", ""),
        ("(a|b)c", ""),
        ("(a)|(b)", ""),
        ("a|b+", "a"),
    ],
)
def test_returns_the_first_plain_alternative(pattern: str, text: str) -> None:
    assert first_match(pattern) == text


def test_rejects_invalid_patterns() -> None:
    with pytest.raises(re.error):
        first_match("[(")


def test_matches_nothing_against_a_pattern() -> None:
    assert first_match(f"({'a' * 60}?|(a+)+b)") == ""  # exponential time to match


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "json_schema": "x"}, None),
        ({"type": "json_schema"}, None),
        ("json", None),
    ],
)
def test_reads_the_schema_of_response_format(response_format: Any, schema: Any) -> None:
    assert response_schema({"response_format": response_format}) == schema


@pytest.mark.parametrize(
    ("requested", "text"),
    [
        ({}, None),
        ({"schema": SCHEMA}, '{"ok": true}'),
        ({"choice": ["yes", "no"]}, "yes"),
        ({"choice": []}, None),
        ({"regex": "(yes|no)"}, "yes"),
        ({"regex": "[0-9]+"}, None),
        ({"grammar": 'root ::= "a" | "b"'}, "a"),
        ({"grammar": "root ::= b"}, None),
    ],
)
def test_generates_structured_output(requested: dict[str, Any], text: str | None) -> None:
    assert structured(**requested) == text


def test_reports_invalid_patterns() -> None:
    with pytest.raises(PatternError):
        structured(regex="[(")
