"""No schema and no text costs the event loop more than a bounded number of steps."""

from collections.abc import Callable
from typing import Any

import httpx
import jsonschema_rs
import orjson
import pytest

from berth.canonical import InferenceRequest, Json, Operation
from berth.router.forwarding.output_schema import OutputSchema, expectation
from berth.router.forwarding.schema_cost import MOST_STEPS, Outline, TooCostlyError
from tests.fakes.cpu_time import cpu_s
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import chat_answer

MOST_CPU_S = 0.5  # ten times the aim: the machine may be slow
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
TREE: Json = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value", "children"],
        }
    },
    "$ref": "#/$defs/node",
}


def chain(link: Callable[[Json], Json], length: int, end: Any = None) -> Json:
    """A definition for each link, which refers to the next one."""
    links = {f"a{i}": link({"$ref": f"#/$defs/a{i + 1}"}) for i in range(length)}
    return {"$defs": {**links, f"a{length}": {"type": "string"} if end is None else end}, "$ref": "#/$defs/a0"}


def nested(depth: int) -> Any:
    return orjson.loads("[" * depth + "]" * depth)


def tree(depth: int) -> Json:
    return {"value": depth, "children": [tree(depth - 1), tree(depth - 1)] if depth else []}


REFUSED: dict[str, Json | bool] = {
    "allOf doubles": chain(lambda ref: {"allOf": [ref, ref]}, 24),
    "anyOf doubles": chain(lambda ref: {"anyOf": [ref, ref]}, 24),
    "oneOf doubles": chain(lambda ref: {"oneOf": [ref, ref]}, 24),
    "if and then double": chain(lambda ref: {"if": ref, "then": ref, "else": ref}, 24),
    "not doubles": chain(lambda ref: {"not": {"allOf": [ref, {"not": ref}]}}, 18),
    "dependent schemas double": chain(lambda ref: {"dependentSchemas": {"a": ref, "b": ref}}, 24),
    "dependencies double": {**DRAFT_7, **chain(lambda ref: {"dependencies": {"a": ref, "b": ref, "c": ["d"]}}, 24)},
    "unevaluated in a chain": chain(lambda ref: {"anyOf": [ref], "unevaluatedProperties": False}, 12, {}),
    "a long chain from its end": {
        "$defs": {f"z{i:02}": {"not": {"$ref": f"#/$defs/z{i - 1:02}"}} for i in range(1, 60)} | {"z00": {}}
    },
    "a long chain": chain(lambda ref: {"allOf": [ref]}, 40),
    "references in a long chain": chain(lambda ref: ref, 3_000),
    "no end for one value": {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
    "dynamic reference": {"$dynamicAnchor": "n", "anyOf": [{"$dynamicRef": "#n"}]},
    "recursive reference": {"anyOf": [{"$recursiveRef": "#"}]},
    "reference by anchor": {"$ref": "#other", "$defs": {"a": {"$anchor": "other"}}},
    "reference elsewhere": {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    "reference to nothing": {"$ref": "#/$defs/none"},
    "reference into a list": {"$ref": "#/anyOf/x", "anyOf": [{}]},
    "another base on the way": {"$ref": "#/$defs/a/not", "$defs": {"a": {"$id": "https://x.example/", "not": {}}}},
    "another base": {"items": {"$id": "https://x.example/", "$ref": "#/$defs/a"}, "$defs": {"a": {}}},
    "many subschemas": {"anyOf": [{"items": {"enum": [1]}}] * 5_000},
    "many plain subschemas": {"anyOf": [{"type": "string"}] * 10_001},
    "many references": {"properties": {f"p{i}": {"$ref": "#/$defs/a"} for i in range(2_000)}, "$defs": {"a": {}}},
    "many patterns": {"patternProperties": {f"^p{i}": {} for i in range(200)}},
    "many classes": {"pattern": r"\w" * 1_000},
    "a pattern nobody uses": {"$defs": {"a": {"contentSchema": {"pattern": r"\s" * 1_000}}}},
    "a long pattern": {"pattern": "a" * 10_000},
    "long patterns": {"properties": {f"p{i}": {"pattern": f"{i}" + "a" * 5_000} for i in range(2)}},
    "a pattern in another mode": {"pattern": "(?x)(a{9}#)\n){9}"},
    "nested classes": {"pattern": "([[a])]{9}){9}"},
    "a class that begins with its end": {"pattern": "(a{99}[])]){99}"},
}


@pytest.mark.unmeasured  # it measures time
@pytest.mark.parametrize("name", REFUSED)
def test_rejects_schemas_without_a_small_bound(name: str) -> None:
    schema = orjson.loads(orjson.dumps(REFUSED[name]))

    def refused() -> None:
        with pytest.raises(TooCostlyError):
            Outline(schema)

    assert cpu_s(refused, runs=2) < MOST_CPU_S
    assert expected(REFUSED[name]) is None


TOO_MUCH: dict[str, tuple[Json | bool, Any]] = {
    "items double with each level": ({"items": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, nested(40)),
    "a chain of items": (chain(lambda ref: {"items": {"anyOf": [ref, ref]}}, 40), nested(40)),
    "properties double": (
        chain(lambda ref: {"properties": {"a": {"oneOf": [ref] * 9}}}, 9),
        orjson.loads('{"a":' * 9 + "{}" + "}" * 9),
    ),
    "deep": (chain(lambda ref: {"allOf": [ref]}, 15, {"items": {"$ref": "#"}}), nested(250)),
    "large": ({"items": {"$ref": "#"}}, [[1]] * 90_000),
    "large enum": ({"items": {"enum": [{"a": i} for i in range(5_000)]}}, [{"a": -1}] * 5_000),
    "unique items": ({"uniqueItems": True}, list(range(200_000))),
    "unique items of size": ({"uniqueItems": True}, [list(range(50_000))] * 2),
    "a large automaton": ({"pattern": "([a-z]{1,40}){1,40}b"}, "ac" * 2_500),
    "backtracking": ({"pattern": "^((a{1,30}){1,30}){1,30}b$"}, "a" * 5_000),
    "patterns of keys": ({"patternProperties": {"(a{1,99}){1,99}b": {}}}, {"a" * 99 + str(i): 1 for i in range(99)}),
    "names": ({"propertyNames": {"anyOf": [{"pattern": "(a{1,99}){1,99}b"}] * 9}}, {"a" * 99: 1}),
    "a regex as text": ({**DRAFT_7, "format": "regex"}, r"\w" * 100),
    "prefix items": ({"prefixItems": [{"items": {"$ref": "#"}}], "items": {"$ref": "#"}}, [[[]] * 30_000]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_says_why_a_schema_has_no_small_bound(name: str) -> None:
    schema = orjson.loads(orjson.dumps(REFUSED[name]))
    with pytest.raises(TooCostlyError) as refused:
        Outline(schema)
    assert str(refused.value).startswith(("a ", "more than ", "one value takes ", "patterns of ", "'"))


@pytest.mark.unmeasured  # it measures time
@pytest.mark.parametrize("name", TOO_MUCH)
def test_skips_the_check_of_texts_with_too_many_steps(name: str) -> None:
    schema, document = TOO_MUCH[name]
    text = orjson.dumps(document).decode()

    def skipped() -> None:
        assert Outline(schema).steps(document, text) is None

    assert cpu_s(skipped, runs=2) < MOST_CPU_S
    wanted = expected(schema)
    assert wanted is None or wanted.problem(text, "stop") is None


def large(definitions: int) -> Json:
    """As a tool with many types makes it: each has four fields, each of one of two kinds, or null."""
    return {
        "$defs": {
            f"d{i}": {
                "type": "object",
                "description": "x" * 200,
                "properties": {
                    f"p{k}": {"anyOf": [{"type": "string"}, {"$ref": f"#/$defs/d{(3 * i + k) % definitions}"}]}
                    for k in range(4)
                },
                "additionalProperties": False,
            }
            for i in range(definitions)
        },
        "$ref": "#/$defs/d0",
    }


CHECKED: dict[str, tuple[Json | bool, Any, Any]] = {  # the schema, a value that fits, one that does not
    "tree": (TREE, tree(8), {"value": 1, "children": [{"value": "x", "children": []}]}),
    "300 definitions": (large(300), {"p0": {"p1": "x", "p2": {}}}, {"p0": {"p1": 3}}),
    "a long array": ({"items": {"properties": {"a": {"type": "integer"}}}}, [{"a": 1}] * 20_000, [{"a": "x"}]),
    "zod": (
        {**DRAFT_7, "definitions": {"x/y": {"minLength": 1}}, "items": {"$ref": "#/definitions/x~1y"}},
        ["a"],
        [""],
    ),
    "a reference by index": ({"anyOf": [{"type": "string"}], "items": {"$ref": "#/anyOf/0"}}, "a", 1),
    "properties that are called id": ({"properties": {"id": {"type": "string"}, "$id": True}}, {"id": "a"}, {"id": 1}),
    "root id": ({"$id": "https://x.example/s", "$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}, None, 1),
    "mail": ({"pattern": r"^[\w.%+-]{1,64}@(?:[a-z]+\.)+[a-z]{2,63}$"}, "a.b@example.org", "a.b@"),
    "text with many words": ({"maxLength": 9_000, "pattern": "^[^<>]*$"}, "word " * 1_000, "<b>"),
    "unevaluated": ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, {"a": 1}, {"b": 1}),
    "names": ({"propertyNames": {"maxLength": 3}, "patternProperties": {"^a": {"const": 1}}}, {"abc": 1}, {"abcd": 1}),
    "prefix": ({"prefixItems": [{"const": "a"}], "items": False}, ["a"], ["a", 1]),
    "unique": ({"uniqueItems": True}, [{"a": i} for i in range(1_000)], [1, 1]),
}


@pytest.mark.parametrize("name", CHECKED)
def test_checks_schemas_of_real_tools(name: str) -> None:
    schema, good, bad = CHECKED[name]
    wanted = expected(schema)
    assert wanted is not None

    for document in (good, bad):
        fits = jsonschema_rs.is_valid(schema, document)
        assert (wanted.problem(orjson.dumps(document).decode(), "stop") is None) == fits
    assert jsonschema_rs.is_valid(schema, good)
    assert not jsonschema_rs.is_valid(schema, bad)


def test_counts_at_least_the_steps_of_the_check() -> None:
    """31 nodes with two fields, each looked at by one subschema or more."""
    document = tree(4)
    steps = Outline(TREE).steps(document, orjson.dumps(document).decode())

    assert steps is not None
    assert 31 * 3 <= steps <= MOST_STEPS


@pytest.mark.parametrize("schema", [True, False, {}])
def test_counts_few_steps_for_trivial_schemas(schema: Json | bool) -> None:
    assert (Outline(schema).steps([1], "[1]") or 0) < 10


def test_leaves_invalid_schemas_to_the_engine() -> None:
    wrong: Json = {"properties": [1], "items": 3, "dependencies": {"a": True}, "required": 3, "enum": 1, "$ref": 1}

    assert Outline(wrong).steps({}, "{}") is not None
    assert expected(wrong) is None


def test_omits_the_explanation_of_many_failed_alternatives() -> None:
    """The library would write down the value for each of them."""
    wanted = expected({"anyOf": [{"anyOf": [{"type": "string"}] * 10}] * 10})
    assert wanted is not None

    assert wanted.problem("1", "stop") is not None
    assert wanted.problem(orjson.dumps(["x" * 100_000]).decode(), "stop") == "output does not match the JSON schema"


@pytest.mark.parametrize("text", ["[" + "1," * 600_000 + "1]", "x" * 2_000_000])
def test_skips_the_check_of_very_long_texts(text: str) -> None:
    assert OutputSchema().problem(text, "stop") is None


def test_choices_of_a_request_share_the_step_budget() -> None:
    text = orjson.dumps([{"a": 1}] * 2_000).decode()
    schema: Json = {"items": {"properties": {"a": {"type": "string"}}}}

    assert expected(schema, n=1).problem(text, "stop") is not None  # type: ignore[union-attr] # it is compiled
    assert expected(schema, n=128).problem(text, "stop") is None  # type: ignore[union-attr] # the same


@pytest.mark.parametrize("schema", [{"description": "x" * 300_000}, orjson.loads('{"items":' * 500 + "{}" + "}" * 500)])
def test_leaves_large_schemas_to_the_engine(schema: Json) -> None:
    assert expected(schema) is None


def expected(schema: Json | bool, n: int = 1) -> OutputSchema | None:
    body = {"n": n, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    return expectation(InferenceRequest(operation=Operation.CHAT, model="m", body=body))


@pytest.mark.parametrize("field", ["response_format", "guided_json", "structured_outputs"])
def test_serves_requests_with_a_schema_bomb(router_fixture: RouterFixture, field: str) -> None:
    bomb = REFUSED["anyOf doubles"]
    constraints: Json = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": bomb}},
        "guided_json": bomb,
        "structured_outputs": {"json": bomb},
    }
    router_fixture.first.answers(chat_answer('{"a": 1}'))
    body = {"model": "solo", "messages": [{"role": "user", "content": "Hi"}], field: constraints[field]}

    with httpx.Client(base_url=router_fixture.url, timeout=10) as client:
        response = client.post("/v1/chat/completions", json=body)
        alive = client.get("/health")

    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == '{"a": 1}'
    assert alive.status_code == 200
