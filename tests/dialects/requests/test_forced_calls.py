"""Forced calls: which tools become strict, and which schemas are left alone."""

from typing import Any

import orjson
import pytest

from berth.canonical import InferenceRequest, Json, Operation
from berth.dialects.base import Dialect
from berth.dialects.openai import OpenaiDialect
from berth.dialects.requests.forced_calls import is_plain, is_plain_pattern, refers_to_part, strict_tools, subschemas
from berth.dialects.sglang import SglangDialect
from berth.dialects.vllm import VllmDialect
from tests.fakes.cpu_time import cpu_s

SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NAMED = {"type": "function", "function": {"name": "f"}}
FORCING = ("required", NAMED)


def tool(parameters: Any = SCHEMA, name: str = "f", **more: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def sent_tools(dialect: Dialect, choice: Any, *tools: Json) -> list[Json]:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [*tools]}
    if choice is not None:
        body["tool_choice"] = choice
    request = InferenceRequest(operation=Operation.CHAT, model="m", body=body)
    functions: list[Json] = [one["function"] for one in orjson.loads(dialect.request(request, "m").body)["tools"]]
    return functions


@pytest.mark.parametrize("dialect", [VllmDialect(), SglangDialect()], ids=["vllm", "sglang"])
@pytest.mark.parametrize("more", [{}, {"strict": None}, {"strict": False}, {"strict": True}], ids=str)
@pytest.mark.parametrize("choice", FORCING, ids=["required", "named"])
def test_tools_that_must_be_called_are_strict(dialect: Dialect, more: Json, choice: Any) -> None:
    functions = sent_tools(dialect, choice, tool(**more), tool(name="g"))

    assert functions[0] == {"name": "f", "parameters": SCHEMA, "strict": True}
    assert functions[1].get("strict") == (True if choice == "required" else None)


@pytest.mark.parametrize("dialect", [VllmDialect(), SglangDialect(), OpenaiDialect()], ids=lambda one: one.name)
@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_other_tools_stay_as_they_are(dialect: Dialect, choice: Any) -> None:
    assert sent_tools(dialect, choice, tool()) == [tool()["function"]]


def test_a_server_of_unknown_kind_gets_the_tools_as_they_are() -> None:
    assert sent_tools(OpenaiDialect(), "required", tool()) == [tool()["function"]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"type": "object", "properties": {}}),
        ({}, {"type": "object", "properties": {}}),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"allOf": [SCHEMA]}, {"type": "object", "allOf": [SCHEMA]}),
        ({"anyOf": [SCHEMA]}, {"anyOf": [SCHEMA]}),
        ({"$ref": "#/$defs/a", "$defs": {"a": SCHEMA}}, {"$ref": "#/$defs/a", "$defs": {"a": SCHEMA}}),
    ],
)
def test_arguments_are_objects_also_without_a_type(given: Any, expected: Json) -> None:
    (sent,) = strict_tools([tool(given)], "required")

    assert sent["function"] == {"name": "f", "parameters": expected, "strict": True}


# The first ones were rejected by vLLM 0.32 as invalid grammars.
UNFIT: dict[str, Any] = {
    "unknown type": {"type": "object", "properties": {"a": {"type": "any"}}},
    "unknown type in a list": {"type": ["object", "nil"]},
    "reference to nothing": {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
    "never true": {"type": "object", "properties": {"a": False}},
    "no alternatives": {"type": "object", "properties": {"a": {"enum": []}}},
    "half an integer": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1.5}}},
    "broken pattern": {"type": "object", "properties": {"a": {"type": "string", "pattern": "["}}},
    "properties as a list": {"type": "object", "properties": []},
    "required as text": {"type": "object", "required": "a"},
    "reference elsewhere": {"$ref": "https://example.com/schema"},
    "escaped reference": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": {}}},
    "reference by a number": {"type": "object", "properties": {"a": {"$ref": 1}}},
    "lookahead": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}},
    "written out": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a|b){1,10000}$"}}},
    "written out in a key": {"type": "object", "patternProperties": {"^(a|b){1000}$": {}}},
    "long pattern": {"type": "object", "properties": {"a": {"type": "string", "pattern": "a" * 300}}},
    "large size": {"type": "object", "properties": {"a": {"type": "array", "minItems": 10**9}}},
    "text": "object",
    "many": {"type": "object", "properties": {f"a{n}": {} for n in range(3000)}},
}


@pytest.mark.parametrize("schema", UNFIT.values(), ids=UNFIT)
def test_schema_that_an_engine_could_not_follow_is_sent_as_it_is(schema: Any) -> None:
    assert strict_tools([tool(schema)], "required") == [tool(schema)]


FIT: dict[str, Any] = {
    "recursion": {"type": "object", "properties": {"a": {"$ref": "#"}}},
    "definitions": {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {}}},
    "closed": {"type": "object", "properties": {"a": True}, "additionalProperties": False},
    "union": {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"type": ["string", "null"]}]}}},
    "sizes": {"type": "object", "properties": {"a": {"type": "string", "minLength": 1, "maxLength": 10_000}}},
    "numbers": {"type": "object", "properties": {"a": {"type": "number", "minimum": 1.5}}},
    "pattern": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?:[a-z]{1,64}|\\d+)$"}}},
    "tuple": {"type": "object", "properties": {"a": {"type": "array", "prefixItems": [{"type": "string"}]}}},
}


@pytest.mark.parametrize("schema", FIT.values(), ids=FIT)
def test_schema_that_engines_follow_is_strict(schema: Json) -> None:
    assert strict_tools([tool(schema)], "required") == [tool(schema, strict=True)]
    assert is_plain(schema, schema)


@pytest.mark.parametrize("pattern", ["a", "^[a-z]{1,64}$", r"\\d+(?:-\\d{4})?", "x{99}"])
def test_plain_patterns(pattern: str) -> None:
    assert is_plain_pattern(pattern)


@pytest.mark.parametrize("pattern", [1, "(", "(?i)a", "(?<=a)b", r"(a)\\1", "a{100}", "a{1,100}", "a" * 201])
def test_other_patterns(pattern: Any) -> None:
    assert not is_plain_pattern(pattern)


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", True),
        ("#/a", True),
        ("#/a/b", True),
        ("#/a/b~0c", False),
        ("#/b", False),
        ("", False),
        ("a", False),
        ("#a", False),
    ],
)
def test_references_to_parts(reference: str, found: bool) -> None:
    assert refers_to_part(reference, {"a": {"b": {}, "b~c": {}}}) == found


def test_counts_subschemas() -> None:
    schema = {"type": "object", "properties": {"a": True, "b": {"anyOf": [{}, {}]}}, "additionalProperties": False}

    assert subschemas(schema, 5) == 5
    assert subschemas(schema, 4) is None


def test_tools_share_one_budget() -> None:
    """Their grammars are compiled together."""
    schema = {"type": "object", "properties": {f"a{n}": {} for n in range(900)}}
    tools = [tool(schema, name=f"f{n}") for n in range(4)]

    strict = [one["function"].get("strict") for one in strict_tools(tools, "required")]

    assert strict == [True, True, None, None]


@pytest.mark.unmeasured  # it measures time
def test_cost_is_linear() -> None:
    def seconds(count: int) -> float:
        tools = [tool(name=f"f{n}") for n in range(count)]
        return cpu_s(lambda: strict_tools(tools, "required"))

    assert seconds(20_000) < 2.5 * seconds(10_000) + 0.02
