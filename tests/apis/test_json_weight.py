import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis import json_weight
from berth.apis.openai.fields import read_object
from berth.errors import TooLargeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a":1,"b":2}', 11),
        (b"[[],[]]", 31),
        (b'{"a":"[{,"}', 10),
        (rb'{"a":"\"[{,\\"}', 10),
        (rb'["\\\\",[","]]', 21),
    ],
)
def test_weighs_without_strings(text: bytes, expected: int) -> None:
    json.loads(text)
    assert json_weight.exact_weight(text) == expected
    assert json_weight.weight(text) >= expected


def commas_and_containers(value: Any) -> int:
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return 10 + max(len(value) - 1, 0) + sum(map(commas_and_containers, parts))
    return 0


_TEXT = st.text(alphabet='{}[],"\\aé:')
_JSON = st.recursive(
    st.none() | st.integers() | _TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner)
)


@given(_JSON, st.booleans())
def test_weight_is_that_of_the_values(value: Any, spaced: bool) -> None:
    text = json.dumps(value, indent=1 if spaced else None).encode()
    assert json_weight.exact_weight(text) == commas_and_containers(value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"z":[' + b"[]," * 120_000 + b"[]]}",
        b'{"z":[' + b'{"":0},' * 120_000 + b"0]}",
        b'{"z":[' + b'"",' * 1_300_000 + b"0]}",
        b'{"z":[' + b"0," * 1_300_000 + b"0]}",
        b'{"a":"' + rb"\\" * 300_000 + b'","z":[' + b"[]," * 120_000 + b"[]]}",
    ],
)
def test_rejects_too_many_values_before_they_are_parsed(body: bytes) -> None:
    with pytest.raises(TooLargeError, match="too many values"):
        read_object(body)


def test_text_is_not_counted() -> None:
    code = 'def f(x): return {"a": [x, "b"]}\n' * 60_000
    assert read_object(orjson.dumps({"prompt": code}))["prompt"] == code


def test_a_prompt_of_a_million_token_ids_is_allowed() -> None:
    assert len(read_object(b'{"prompt":[' + b"7," * 1_048_575 + b"7]}")["prompt"]) == 1 << 20


@pytest.mark.parametrize("shift", range(4))
def test_escapes_at_the_ends_of_pieces(shift: int) -> None:
    text = b'{"' + b"a" * shift + b'":"' + rb"\\\"[{" * 200_000 + b'"}'
    json.loads(text)
    assert json_weight.exact_weight(text) == 10
    assert json_weight.weight(text) == 10 + 20 * 200_000
