from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.sim.generation import (
    REASONING_TEXT,
    Generation,
    GenerationRequest,
    Kind,
    Tool,
    generation,
    generations,
    overlap_length,
)
from berth.sim.options import PARAGRAPH
from berth.sim.tokenizer import Tokenizer

TEXT = "One two three four five."
TOKENS = Tokenizer((TEXT, PARAGRAPH, REASONING_TEXT), 32000)
CALL = Tool(name="get_weather", arguments='{"city": "Paris"}')


def made(given: str = "", **changes: Any) -> Generation:
    return generation(
        GenerationRequest(**{"chat": True, "model": "m", "prompts": ((1,),), "max_tokens": 100, **changes}),
        TOKENS,
        TEXT,
        given,
    )


@pytest.mark.parametrize(
    ("changes", "said", "finish", "stop", "tokens"),
    [
        ({}, TEXT, "stop", None, 7),
        ({"max_tokens": 2}, "One two", "length", None, 2),
        ({"max_tokens": 6}, TEXT, "length", None, 6),
        ({"max_tokens": 0}, "", "length", None, 0),
        ({"stop": ("three", "two")}, "One ", "stop", "two", 2),
        ({"stop": ("two",), "include_stop": True}, "One two", "stop", "two", 2),
        ({"stop": ("four",), "max_tokens": 2}, "One two", "length", None, 2),
        ({"stop": ("never",)}, TEXT, "stop", None, 7),
        ({"forced_text": "One."}, "One.", "stop", None, 3),
        ({"ignore_eos": True, "max_tokens": 8}, f"{TEXT}\n\n", "length", None, 8),
        ({"ignore_eos": True, "max_tokens": 9, "stop": ("five",)}, "One two three four ", "stop", "five", 5),
        ({"min_tokens": 9}, f"{TEXT}\n\nOne", "stop", None, 10),
        ({"min_tokens": 2}, TEXT, "stop", None, 7),
        ({"forced_text": ""}, "", "stop", None, 1),
    ],
)
def test_generates_text_and_finish_reason(
    changes: dict[str, Any], said: str, finish: str, stop: str | None, tokens: int
) -> None:
    one = made(**changes)
    assert (one.text(Kind.CONTENT), one.finish, one.stop, one.tokens) == (said, finish, stop, tokens)


def test_reasoning_comes_first_and_counts_as_tokens() -> None:
    one = made(reasoning=True, stop=("three",))
    assert (one.text(Kind.REASONING), one.text(Kind.CONTENT)) == (REASONING_TEXT, "One two ")
    assert one.tokens == one.count(Kind.REASONING) + 3
    assert made(reasoning=True, max_reasoning_tokens=2).count(Kind.REASONING) == 2
    assert made(reasoning=True, max_tokens=3).text(Kind.CONTENT) == ""


def test_tool_call_is_a_name_and_arguments() -> None:
    one = made(tool=CALL)
    assert (one.text(Kind.TOOL_NAME), one.text(Kind.ARGUMENTS)) == (CALL.name, CALL.arguments)
    assert (one.finish, made(tool=CALL, max_tokens=2).finish) == ("tool_calls", "length")
    assert made(tool=Tool(name="", arguments="{}")).text(Kind.TOOL_NAME) == ""


@given(cut=st.integers(0, len(PARAGRAPH)), before=st.text(max_size=10))
def test_overlap_is_the_longest_common_part(cut: int, before: str) -> None:
    said = overlap_length(PARAGRAPH[:cut], PARAGRAPH)
    assert said == cut
    assert PARAGRAPH.startswith(before[-1:] + "T") or overlap_length(before + PARAGRAPH[:cut], PARAGRAPH) >= cut


@pytest.mark.parametrize(
    ("given", "rest"),
    [("One tw", "o three four five."), (TEXT, ""), ("Other words", TEXT), ("chat: One two", " three four five.")],
)
def test_continues_after_the_given_text(given: str, rest: str) -> None:
    assert made(given).text(Kind.CONTENT) == rest


def test_endless_text_repeats_after_its_end() -> None:
    assert made(f"{TEXT}\n", ignore_eos=True, max_tokens=3).text(Kind.CONTENT) == "\nOne two"
    assert overlap_length("x", "") == 0


def test_makes_a_generation_per_choice_and_prompt() -> None:
    request = GenerationRequest(chat=False, model="m", prompts=((1,), (2,)), n=2, max_tokens=1, continues=("", "One"))
    texts = [one.text(Kind.CONTENT) for one in generations(request, TOKENS, TEXT)]
    assert (texts, request.choices, request.prompt_tokens) == (["One", "One", " two", " two"], 4, 2)
