import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.tool_arguments import StreamedArguments, arguments_text, keep_arguments, keep_inputs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"city": "Paris"}', '{"city": "Paris"}'),
        (' {"a":  1.50e0}\n', '{"a":  1.50e0}'),
        ('{"a": "\\ud99c"}', '{"a": "\\ud99c"}'),
        ('{"a": "\ud99c"}', '{"a": "\\ud99c"}'),
        ('{"a": 1e400, "b": NaN, "c": "NaN"}', '{"a": 1e400, "b": null, "c": "NaN"}'),
        (None, "{}"),
        ("", "{}"),
        (" \n", "{}"),
        ("null", "{}"),
        ("[1]", None),
        ("true", None),
        ('{"city": "Par', None),
        ("{'a': 1}", None),
    ],
)
def test_text_of_an_object_is_kept(text: str | None, expected: str | None) -> None:
    assert arguments_text(text) == expected


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    return [piece for start, end in pairwise([0, *ends]) if (piece := text[start:end])]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='{}[]"\\aé '),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='{"\\a', max_size=3), inner, max_size=3)
    ),
)


@given(_JSON, st.lists(st.integers(0, 60), max_size=12), st.sampled_from(["", " \n", "x", "{}", '"']))
def test_streamed_arguments_are_complete_when_they_are_an_object(value: Any, cuts: list[int], rest: str) -> None:
    text = json.dumps(value, ensure_ascii=False) + rest
    streamed = StreamedArguments()
    for piece in pieces_of(text, cuts):
        assert streamed.is_complete() in (False, arguments_text(streamed.text) is not None)
        streamed.pieces.append(piece)
    assert streamed.text == text
    assert streamed.begin_object() is text.startswith("{")
    assert streamed.is_complete() is (text.startswith("{") and arguments_text(text) is not None)


def test_streamed_arguments_that_close_more_than_they_open_are_never_complete() -> None:
    streamed = StreamedArguments()
    streamed.pieces += ["}", "{}"]
    assert not streamed.is_complete()


def test_only_white_space_may_follow_what_is_complete() -> None:
    streamed, complete = StreamedArguments(), []
    for piece in ('{"a": ', "1}", " \n", "x", " "):
        streamed.pieces.append(piece)
        complete.append(streamed.is_complete())
    assert complete == [False, True, True, False, False]


@pytest.mark.parametrize("body", [b'{"messages": [', b'{"messages": 1}', b"[" * 100_000, b'"\xff"'])
def test_what_cannot_be_read_again_stays_as_it_was_read(body: bytes) -> None:
    inputs: dict[str, Any] = {"messages": [{"content": [{"type": "tool_use", "input": {"a": 1}}]}]}
    arguments: dict[str, Any] = {"messages": [{"tool_calls": [{"function": {"arguments": {"a": 1}}}]}]}
    keep_inputs(inputs, body)
    keep_arguments(arguments, body)
    assert inputs["messages"][0]["content"][0]["input"] == {"a": 1}
    assert arguments["messages"][0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


@pytest.mark.parametrize(
    "text",
    ['{"a":{"b":[1,{}]}}', '{"}":"\\"}{"}', '{"a\\\\":"]"}', "{}", '{"a":1e400}', '{"a":NaN}', '{"a":"\\ud99c"}'],
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_streamed_arguments_are_complete_with_their_last_piece(text: str, size: int) -> None:
    streamed, complete = StreamedArguments(), []
    for begin in range(0, len(text), size):
        streamed.pieces.append(text[begin : begin + size])
        complete.append(streamed.is_complete())

    assert complete == [False] * (len(complete) - 1) + [True]
