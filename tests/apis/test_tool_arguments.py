import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.tool_arguments import StreamedArguments, arguments_object


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"city": "Paris"}', {"city": "Paris"}),
        (None, {}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ("[1]", None),
        ('{"city": "Par', None),
    ],
)
def test_only_objects_and_missing_arguments_are_objects(text: str | None, expected: Any) -> None:
    assert arguments_object(text) == expected


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
        assert streamed.is_complete() in (False, arguments_object(streamed.text) is not None)
        streamed.pieces.append(piece)
    assert streamed.text == text
    assert streamed.is_complete() is (text.lstrip().startswith("{") and arguments_object(text) is not None)


def test_streamed_arguments_that_close_more_than_they_open_are_never_complete() -> None:
    streamed = StreamedArguments()
    streamed.pieces += ["}", "{}"]
    assert not streamed.is_complete()
