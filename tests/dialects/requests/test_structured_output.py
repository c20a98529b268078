import re

import pytest

from berth.canonical import Json
from berth.dialects.base import UnsupportedError
from berth.dialects.requests.structured_output import choice_regex, split_constraint

FOUND: dict[str, tuple[Json, str, object]] = {
    "guided_json": ({"guided_json": {"a": 1}}, "json", {"a": 1}),
    "guided_json as text": ({"guided_json": '{"a": 1}'}, "json", {"a": 1}),
    "guided_grammar": ({"guided_grammar": "g"}, "grammar", "g"),
    "ebnf": ({"ebnf": "g", "guided_decoding_backend": "xgrammar"}, "grammar", "g"),
    "structured_outputs": ({"structured_outputs": {"json": "{}", "regex": None}}, "json", {}),
    "llama.cpp's grammar": ({"grammar": "g"}, "grammar", "g"),
    "TGI's grammar": ({"grammar": {"type": "json", "value": {"a": 1}}}, "json", {"a": 1}),
    "TGI's grammar with a name": (
        {"grammar": {"type": "json_schema", "value": {"name": "n", "schema": {"a": 1}}}},
        "json",
        {"a": 1},
    ),
    "TGI's regex": ({"grammar": {"type": "regex", "value": "r"}}, "regex", "r"),
    "Gemini's": ({"response_schema": {"a": 1}}, "json", {"a": 1}),
    "Gemini's in JSON": ({"responseJsonSchema": {"a": 1}}, "json", {"a": 1}),
    "Ollama's": ({"format": {"a": 1}}, "json", {"a": 1}),
    "Ollama's any": ({"format": "json"}, "json_object", True),
    "a format of a regex": ({"response_format": {"type": "regex", "pattern": "r"}}, "regex", "r"),
    "a format of TGI's regex": ({"response_format": {"type": "regex", "value": "r"}}, "regex", "r"),
    "a format of a grammar": ({"response_format": {"type": "grammar", "grammar": "g"}}, "grammar", "g"),
    "a format of GBNF": ({"response_format": {"type": "gbnf", "grammar": "g"}}, "grammar", "g"),
    "a format of EBNF": ({"response_format": {"type": "ebnf", "ebnf": "g"}}, "grammar", "g"),
    "a format of a choice": ({"response_format": {"type": "choice", "choices": ["a"]}}, "choice", ["a"]),
    "with an ordinary format": ({"guided_regex": "r", "response_format": {"type": "text"}}, "regex", "r"),
}


@pytest.mark.parametrize(("body", "kind", "value"), FOUND.values(), ids=FOUND)
def test_finds_the_constraint_in_every_spelling(body: Json, kind: str, value: object) -> None:
    rest, constraint = split_constraint({"model": "m", **body})

    assert constraint is not None
    assert (constraint.kind, constraint.value) == (kind, value)
    assert set(rest) <= {"model", "response_format"}


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        ({"model": "m"}, {"model": "m"}),
        ({"model": "m", "response_format": {"type": "json_object"}}, None),
        ({"model": "m", "guided_json": None, "structured_outputs": None}, {"model": "m"}),
        ({"model": "m", "guided_decoding_backend": "outlines"}, {"model": "m"}),
    ],
)
def test_finds_no_constraint(body: Json, rest: Json | None) -> None:
    assert split_constraint(body) == (rest if rest is not None else body, None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"guided_json": {}, "guided_regex": "a"}, "mutually exclusive"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "mutually exclusive"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "mutually exclusive"),
        ({"structured_outputs": "json"}, "must be an object"),
        ({"guided_json": "{not json"}, "not valid JSON"),
        ({"guided_json": [1]}, "no JSON schema"),
        ({"guided_choice": []}, "no list of texts"),
        ({"regex": 1}, "no regular expression"),
        ({"grammar": {"type": "yaml", "value": 1}}, "no grammar"),
        ({"grammar": {"type": "json"}}, "no JSON schema"),
        ({"format": "yaml"}, "not valid JSON"),
        ({"format": {"a": 1}, "grammar": "g"}, "mutually exclusive"),
        ({"regex": "a", "response_format": {"type": "regex", "regex": "b"}}, "mutually exclusive"),
        ({"response_format": {"type": "regex"}}, "no regular expression"),
    ],
)
def test_rejects_contradictions(body: Json, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        split_constraint(body)


@pytest.mark.parametrize("text", ["plain", "a.b", "1+1=2?", "[x]{y}(z)", "a|b", r"back\slash", "^$*", "café /-"])
def test_choice_regex_matches_only_the_choice(text: str) -> None:
    pattern = re.compile(choice_regex([text, "other"]))

    assert pattern.fullmatch(text)
    assert pattern.fullmatch("other")
    assert not pattern.fullmatch(text + "x")
