"""What two answers have in common, and the one result about them."""

import math
from typing import Any

import pytest

from berth.canonical import InferenceRequest, Operation
from berth.ipc.shadow import Result
from berth.router.shadowing.answers import Answer, Token
from berth.router.shadowing.comparison import Side, compared, is_greedy

TOOLS = [{"type": "function", "function": {"name": "look"}}, {"type": "function", "function": {"name": "go"}}]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "n", "schema": {"type": "object", "required": ["a"]}},
}


def request(**body: Any) -> InferenceRequest:
    messages = [{"role": "user", "content": "Hello"}]
    return InferenceRequest(operation=Operation.CHAT, model="m", body={"messages": messages, "temperature": 0, **body})


def judged(own: Answer, other: Answer, **body: Any) -> tuple[Result, dict[str, float]]:
    result, found = compared(request(**body), Side(answer=own), Side(answer=other))
    return result, {name: value for name, value in found.items() if not name.startswith("of ")}


def said(text: str = "", finish: str = "stop", **fields: Any) -> Answer:
    return Answer(text=text, finish_reason=finish, **fields)


def scored(*tokens: tuple[str, float, dict[str, float]]) -> Answer:
    return said(
        "".join(text for text, _, _ in tokens),
        tokens=tuple(Token(text=text, logprob=value, likeliest=tops) for text, value, tops in tokens),
    )


SURE = ("b", -0.01, {"b": -0.01, "c": -5.0})
UNSURE = ("b", -0.7, {"b": -0.7, "c": -0.8})
OTHER = ("c", -0.01, {"c": -0.01, "b": -5.0})
BEGINS: tuple[str, float, dict[str, float]] = ("a", -0.1, {})

PAIRS: dict[str, tuple[Answer, Answer, dict[str, Any], Result]] = {
    "equal texts": (said("a b"), said("a b"), {}, Result.SAME),
    "other reasoning": (said("a", reasoning="x"), said("a", reasoning="y"), {}, Result.DIVERGED),
    "other texts": (said("a b"), said("a c"), {}, Result.DIVERGED),
    "nothing at all": (said("a b"), said(), {}, Result.STRUCTURE),
    "both say nothing": (said(), said(), {}, Result.SAME),
    "samples": (said("a b"), said("a c"), {"temperature": 0.5}, Result.SAMPLED),
    "samples by default": (said("a b"), said("a c"), {"temperature": None}, Result.SAMPLED),
    "samples, and says nothing": (said("a b"), said(), {"temperature": 1}, Result.STRUCTURE),
    "the likeliest of one": (said("a b"), said("a b"), {"temperature": 1, "top_k": 1}, Result.SAME),
    "a tie": (scored(BEGINS, UNSURE), scored(BEGINS, OTHER), {}, Result.TIE_BREAK),
    "a tie of the candidate": (scored(BEGINS, OTHER), scored(BEGINS, UNSURE), {}, Result.TIE_BREAK),
    "sure of another": (scored(BEGINS, SURE), scored(BEGINS, OTHER), {}, Result.DIVERGED),
    "shorter": (scored(BEGINS, SURE), scored(BEGINS), {}, Result.DIVERGED),
    "keeps to no schema": (said('{"a": 1}'), said('{"b": 1}'), {"response_format": SCHEMA}, Result.STRUCTURE),
    "neither keeps to the schema": (said("x"), said("y"), {"response_format": SCHEMA}, Result.DIVERGED),
    "another spelling of a call": (
        said(calls=(("look", '{"x": 1, "y": 2}'),)),
        said(calls=(("look", '{"y":2,"x":1}'),)),
        {"tools": TOOLS},
        Result.SAME,
    ),
    "other arguments": (
        said(calls=(("look", '{"x": 1}'),)), said(calls=(("look", '{"x": 2}'),)), {"tools": TOOLS}, Result.DIVERGED,
    ),
    "a text in place of a call": (said(calls=(("look", ""),)), said("a"), {"tools": TOOLS}, Result.DIVERGED),
    "a tool that there is not": (
        said(calls=(("look", "{}"),)), said(calls=(("run", "{}"),)), {"tools": TOOLS}, Result.STRUCTURE,
    ),
    "broken arguments": (
        said(calls=(("look", "{}"),)), said(calls=(("look", '{"x": '),)), {"tools": TOOLS}, Result.STRUCTURE,
    ),
    "arguments that are cut off": (
        said(calls=(("look", "{}"),)),
        said("", "length", calls=(("look", '{"x": '),)),
        {"tools": TOOLS},
        Result.DIVERGED,
    ),
    "broken on both sides": (
        said(calls=(("run", "{}"),)), said(calls=(("run", "1"),)), {"tools": TOOLS}, Result.DIVERGED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_each_pair_has_one_result(case: str) -> None:
    own, other, body, result = PAIRS[case]
    assert judged(own, other, **body)[0] is result


def test_tokens_count_up_to_the_first_other_one() -> None:
    _, found = compared(request(), Side(answer=said("a b c d")), Side(answer=said("a b x d")))
    assert (found["same tokens"], found["of tokens"], found["same beginning"]) == (2, 3, False)
    _, found = compared(request(), Side(answer=said("a b")), Side(answer=said("a b c")))
    assert (found["same tokens"], found["of tokens"]) == (2, 3)
    long = " ".join("abcdefghijklmnop")
    _, found = compared(request(), Side(answer=said(f"{long} q")), Side(answer=said(f"{long} r")))
    assert (found["same beginning"], found["same text"], found["of tokens"]) == (True, False, 17)


def test_log_probabilities_are_compared_as_far_as_the_tokens_are_the_same() -> None:
    own = scored(("a", -0.1, {}), ("b", -0.2, {}), ("c", -1.0, {}))
    other = scored(("a", -0.2, {}), ("b", -0.5, {}), ("d", -9.0, {}))
    _, found = compared(request(), Side(answer=own), Side(answer=other))
    assert (found["count logprobs"], round(found["sum logprobs"], 6)) == (1, 0.2)
    assert "count logprobs" not in judged(own, said("a b c"))[1]


def test_times_and_lengths_are_ratios_where_both_are_known() -> None:
    own = Side(answer=said("a"), tokens=10, first_token_s=0.1, duration_s=2.0)
    other = Side(answer=said("a"), tokens=20, first_token_s=0.2, duration_s=1.0)
    _, found = compared(request(), own, other)
    assert {name: round(math.exp(value), 6) for name, value in found.items() if name.startswith("sum ")} == {
        "sum length": 2, "sum first_token": 2, "sum duration": 0.5,
    }  # fmt: skip
    _, found = compared(request(), own, Side(answer=said("a"), duration_s=1.0))
    assert [name for name in found if name.startswith("sum ")] == ["sum duration"]


def test_a_sampled_text_is_not_compared() -> None:
    _, found = compared(request(temperature=0.7), Side(answer=said("a b")), Side(answer=said("a c", "length")))
    assert {name for name in found if name.startswith("of ")} == {"of finish"}
    assert not is_greedy({})
