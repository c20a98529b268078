from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.sim.generation import THOUGHTS, Ask, Kind, Script, Tool, go_on, script, scripts
from berth.sim.options import PARAGRAPH
from berth.sim.tokenizer import Tokenizer

TEXT = "One two three four five."
TOKENS = Tokenizer((TEXT, PARAGRAPH, THOUGHTS), 32000)
CALL = Tool(name="get_weather", arguments='{"city": "Paris"}')


def made(given: str = "", **changes: Any) -> Script:
    return script(
        Ask(**{"chat": True, "model": "m", "prompts": ((1,),), "max_tokens": 100, **changes}), TOKENS, TEXT, given
    )


@pytest.mark.parametrize(
    ("changes", "said", "finish", "stop", "tokens"),
    [
        ({}, TEXT, "stop", None, 7),
        ({"max_tokens": 2}, "One two", "length", None, 2),
        ({"max_tokens": 6}, TEXT, "length", None, 6),
        ({"max_tokens": 0}, "", "length", None, 0),
        ({"stop": ("three", "two")}, "One ", "stop", "two", 2),
        ({"stop": ("two",), "keep_stop": True}, "One two", "stop", "two", 2),
        ({"stop": ("four",), "max_tokens": 2}, "One two", "length", None, 2),
        ({"stop": ("never",)}, TEXT, "stop", None, 7),
        ({"says": "One."}, "One.", "stop", None, 3),
        ({"endless": True, "max_tokens": 8}, f"{TEXT}\n\n", "length", None, 8),
        ({"endless": True, "max_tokens": 9, "stop": ("five",)}, "One two three four ", "stop", "five", 5),
        ({"least_tokens": 9}, f"{TEXT}\n\nOne", "stop", None, 10),
        ({"least_tokens": 2}, TEXT, "stop", None, 7),
        ({"says": ""}, "", "stop", None, 1),
    ],
)
def test_an_answer_has_its_text_and_its_end(
    changes: dict[str, Any], said: str, finish: str, stop: str | None, tokens: int
) -> None:
    one = made(**changes)
    assert (one.text(Kind.CONTENT), one.finish, one.stop, one.tokens) == (said, finish, stop, tokens)


def test_reasoning_comes_first_and_costs_tokens() -> None:
    one = made(thinking=True, stop=("three",))
    assert (one.text(Kind.REASONING), one.text(Kind.CONTENT)) == (THOUGHTS, "One two ")
    assert one.tokens == one.count(Kind.REASONING) + 3
    assert made(thinking=True, most_thoughts=2).count(Kind.REASONING) == 2
    assert made(thinking=True, max_tokens=3).text(Kind.CONTENT) == ""


def test_a_tool_call_is_a_name_and_arguments() -> None:
    one = made(tool=CALL)
    assert (one.text(Kind.TOOL_NAME), one.text(Kind.ARGUMENTS)) == (CALL.name, CALL.arguments)
    assert (one.finish, made(tool=CALL, max_tokens=2).finish) == ("tool_calls", "length")
    assert made(tool=Tool(name="", arguments="{}")).text(Kind.TOOL_NAME) == ""


@given(cut=st.integers(0, len(PARAGRAPH)), before=st.text(max_size=10))
def test_it_goes_on_exactly_where_the_given_text_stopped(cut: int, before: str) -> None:
    said = go_on(PARAGRAPH[:cut], PARAGRAPH)
    assert said == cut
    assert PARAGRAPH.startswith(before[-1:] + "T") or go_on(before + PARAGRAPH[:cut], PARAGRAPH) >= cut


@pytest.mark.parametrize(
    ("given", "rest"),
    [("One tw", "o three four five."), (TEXT, ""), ("Other words", TEXT), ("chat: One two", " three four five.")],
)
def test_the_rest_follows(given: str, rest: str) -> None:
    assert made(given).text(Kind.CONTENT) == rest


def test_an_endless_answer_goes_on_into_the_next_round() -> None:
    assert made(f"{TEXT}\n", endless=True, max_tokens=3).text(Kind.CONTENT) == "\nOne two"
    assert go_on("x", "") == 0


def test_there_is_a_script_for_every_choice_of_every_prompt() -> None:
    ask = Ask(chat=False, model="m", prompts=((1,), (2,)), n=2, max_tokens=1, continues=("", "One"))
    texts = [one.text(Kind.CONTENT) for one in scripts(ask, TOKENS, TEXT)]
    assert (texts, ask.choices, ask.prompt_tokens) == (["One", "One", " two", " two"], 4, 2)
