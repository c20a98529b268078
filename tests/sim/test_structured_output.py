from typing import Any

import pytest

from berth.sim.structured_output import PatternError, response_schema, structured

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}}


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
def test_the_schema_is_found(response_format: Any, schema: Any) -> None:
    assert response_schema({"response_format": response_format}) == schema


@pytest.mark.parametrize(
    ("wanted", "text"),
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
def test_the_engine_says_what_fits(wanted: dict[str, Any], text: str | None) -> None:
    assert structured(**wanted) == text


def test_a_bad_pattern_is_an_error() -> None:
    with pytest.raises(PatternError):
        structured(regex="[(")
