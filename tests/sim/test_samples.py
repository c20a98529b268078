import re
from typing import Any

import pytest

from berth.sim.structured_output import SchemaError, first_match, sample

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
def test_a_value_fits_its_schema(schema: Any, value: Any) -> None:
    assert sample(schema) == value


def test_a_huge_or_deep_schema_is_bounded() -> None:
    assert len(sample({"type": "string", "minLength": 10**12})) == 10_004
    assert len(sample({"type": "array", "minItems": 10**12})) == 10_000
    assert str(sample(DEEP)).count("inner") == 9


def test_a_type_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(SchemaError, match="unknown type 'nonsense'"):
        sample({"type": "nonsense"})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("(yes|no)", "yes"), ("yes", "yes"), (r"a\.b\nc", "a.b\nc"), ("[0-9]{3}", ""), ("(a|b)c", "")],
)
def test_a_plain_pattern_has_a_text(pattern: str, text: str) -> None:
    assert first_match(pattern) == text


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(re.error):
        first_match("[(")
