"""Every spelling of a schema counts, or is refused."""

import orjson
import pytest

from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.completions import OpenaiCompletions
from berth.apis.openai.response_format import canonical_format
from berth.canonical import Json
from berth.errors import InvalidRequestError

SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
TEXT = orjson.dumps(SCHEMA).decode()
OPENAI: Json = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
SPELLINGS: list[Json] = [
    {"type": "json_object", "schema": SCHEMA},
    {"type": "json_object", "value": SCHEMA},
    {"type": "json_object", "json_schema": {"name": "x", "schema": SCHEMA}},
    {"type": "json_object", "schema": TEXT},
    {"type": "json", "schema": SCHEMA},
    {"type": "json", "value": SCHEMA},
    {"type": "json_schema", "schema": SCHEMA},
    {"type": "json_schema", "value": SCHEMA},
    {"type": "json_schema", "json_schema": SCHEMA},
    {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    {"type": "json_schema", "json_schema": {"schema": TEXT, "name": ""}},
    {"type": "json_schema", "json_schema": {"schema": SCHEMA, "name": None}},
]


@pytest.mark.parametrize("form", SPELLINGS, ids=lambda form: orjson.dumps(form).decode()[:60])
def test_schema_has_openais_form_afterwards(form: Json) -> None:
    assert canonical_format(form) == OPENAI


@pytest.mark.parametrize(
    "form",
    [
        OPENAI,
        {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True, "description": "d"}},
        {"type": "text"},
        {"type": "json_object"},
        {"type": "structural_tag", "format": {}},
        {"type": "regex", "pattern": "a"},
        {"type": "grammar", "grammar": 'root ::= "a"'},
    ],
    ids=lambda form: orjson.dumps(form).decode()[:60],
)
def test_other_formats_stay_as_they_are(form: Json) -> None:
    assert canonical_format(form) == form


def test_any_json_without_a_schema() -> None:
    assert canonical_format({"type": "json"}) == {"type": "json_object"}
    assert canonical_format({"type": "json_object", "schema": None}) == {"type": "json_object"}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": None},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": None}},
        {"type": "json_schema", "json_schema": "x"},
        {"type": "json_schema", "schema": "{"},
        {"type": "json_schema", "schema": "[]"},
        {"type": "json_object", "schema": [SCHEMA]},
        {"type": "json_object", "value": "x"},
        {"type": "yaml"},
        {"type": ""},
    ],
    ids=lambda form: orjson.dumps(form).decode()[:60],
)
def test_anything_else_is_refused(form: Json) -> None:
    """Also over both paths of OpenAI's API."""
    with pytest.raises(InvalidRequestError) as rejected:
        OpenaiChat().parse(
            orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": form})
        )
    assert rejected.value.param == "response_format"
    with pytest.raises(InvalidRequestError):
        OpenaiCompletions().parse(orjson.dumps({"model": "m", "prompt": "x", "response_format": form}))
