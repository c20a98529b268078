"""Log probabilities are rejected where the official client's types, without a single conversion, refuse them."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.completion_choice import Logprobs
from pydantic import BaseModel, ValidationError

from berth.dialects.choices import check_logprobs

ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, 1, 1.5, "x", [], {}, [None], [1], ["x"], {"x": 1}, [{}]])
INTEGERS = st.lists(st.integers(-1, 9) | ODD, max_size=2)
TOP = st.fixed_dictionaries(
    {"token": st.text(max_size=2) | ODD, "logprob": st.floats(-9, 0) | ODD},
    optional={"bytes": INTEGERS | ODD},
)
TOKEN = st.builds(lambda token, tops: {**token, "top_logprobs": tops}, TOP, st.lists(TOP | ODD, max_size=2) | ODD)
CHAT = st.fixed_dictionaries({}, optional=dict.fromkeys(("content", "refusal"), st.lists(TOKEN, max_size=2) | ODD))
COMPLETION = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.lists(st.text(max_size=2) | ODD, max_size=2) | ODD,
        "token_logprobs": st.lists(st.floats(-9, 0) | ODD, max_size=2) | ODD,
        "top_logprobs": st.lists(st.dictionaries(st.text(max_size=2), st.floats(-9, 0) | ODD) | ODD) | ODD,
        "text_offset": INTEGERS | ODD,
    },
)


def is_taken(logprobs: Any) -> bool:
    try:
        check_logprobs(logprobs)
    except (AttributeError, KeyError, TypeError):
        return False
    return True


def is_of_the_type(kind: type[BaseModel], logprobs: Any) -> bool:
    try:
        kind.model_validate(logprobs, strict=True)
    except ValidationError as exc:
        return all(error["input"] is None and may_be_null(error["loc"]) for error in exc.errors())
    return True


def may_be_null(place: tuple[int | str, ...]) -> bool:
    """Where OpenAI's own responses have null too, and for alternatives that were not requested."""
    of_an_echo = len(place) == 2 and place[0] in {"token_logprobs", "top_logprobs"}
    return of_an_echo or place[-1] == "top_logprobs"


@given(logprobs=CHAT)
@example(logprobs={"content": [{"token": "x", "logprob": -1, "bytes": [120], "top_logprobs": None}]})
def test_checks_logprobs_of_a_chat(logprobs: Any) -> None:
    assert is_taken(logprobs) is is_of_the_type(ChoiceLogprobs, logprobs)


@given(logprobs=COMPLETION)
@example(logprobs={"tokens": ["x"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [-1]})
def test_checks_logprobs_of_a_completion(logprobs: Any) -> None:
    assert is_taken(logprobs) is is_of_the_type(Logprobs, logprobs)


@pytest.mark.parametrize(("logprobs", "taken"), [(None, True), ({}, True), (7, False), ([], False), ("x", False)])
def test_logprobs_are_an_object_or_null(logprobs: Any, taken: bool) -> None:
    assert is_taken(logprobs) is taken
