import pytest

from berth.apis.openai.fields import formatted, is_prompt, read_object
from berth.errors import InvalidRequestError

DEEP = 100_000

BROKEN = {
    "nothing": (b"", "no body"),
    "white space": (b" \n", "no body"),
    "an array": (b"[1]", "must be a JSON object, not an array"),
    "a string": (b'"x"', "not a string"),
    "a number": (b"7", "not a number"),
    "true": (b"true", "not a boolean"),
    "null": (b"null", "not null"),
    "half an object": (b'{"model":', "line 1, column"),
    "second line": (b'{"a": 1,\n bad}', "line 2, column 2"),
    "NaN": (b'{"temperature": NaN}', "line 1, column"),
    "Infinity": (b'{"temperature": Infinity}', "not valid JSON"),
    "a number too large": (b'{"temperature": 1e999}', "not valid JSON"),
    "NaN in a list": (b'{"logit_bias": {"1": [NaN]}}', "not valid JSON"),
    "bytes that are not UTF-8": (b'{"a": "\xff"}', "UTF-8"),
    "100,000 arrays": (b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
    "100,000 objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested too deeply"),
    "deep, with a large integer": (
        b'{"i":123456789012345678901234567890,"a":' + b"[" * 251 + b"]" * 251 + b"}",
        "nested too deeply",
    ),
    "deeper than can be written": (b'{"a":' + b"[" * 251 + b"]" * 251 + b"}", "nested too deeply"),
}


@pytest.mark.parametrize(("body", "words"), BROKEN.values(), ids=BROKEN)
def test_rejects_body_that_is_not_a_json_object(body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as refused:
        read_object(body)

    assert refused.value.status == 400
    assert len(refused.value.message) < 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": "x\\ud83e"}', {"a": "x\ufffd"}),
        (b'{"a": "\\udd8a\\ud83e\\udd8a\\ud83ex"}', {"a": "\ufffd\U0001f98a\ufffdx"}),
        (b'{"a": "\\\\ud83e"}', {"a": "\\ud83e"}),
        (b'{"a": "\\\\ud83e \\ud83e"}', {"a": "\\ud83e \ufffd"}),
        (b'{"tools": [NaN, 1e999]}', {"tools": ["NaN", "1e999"]}),
    ],
)
def test_accepts_json_that_other_readers_accept(body: bytes, expected: object) -> None:
    found = read_object(body)

    if "tools" in found:
        found = {"tools": [number.text for number in found["tools"]]}
    assert found == expected


def test_accepts_large_integers_among_many_brackets() -> None:
    assert read_object(b'{"i":123456789012345678901234567890,"a":[' + b"{}," * 500 + b"[]]}")["i"] > 2**64


def test_accepts_many_brackets_without_depth() -> None:
    assert len(read_object(b'{"a":[' + b"{}," * 5000 + b"[]]}")["a"]) == 5001


@pytest.mark.parametrize("value", ["", "text", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_accepts_prompts(value: object) -> None:
    assert is_prompt(value)


@pytest.mark.parametrize("value", [None, 7, [], [[]], [1, "a"], [["a"]], [True], [1.5], [[1], []], [[1], "a"], {}])
def test_rejects_invalid_prompts(value: object) -> None:
    assert not is_prompt(value)


def test_truncates_long_values_in_messages() -> None:
    assert formatted("x" * 500) == '"' + "x" * 79 + "..."
    assert formatted({"a": None}) == '{"a":null}'
