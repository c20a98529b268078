"""What answers say: of frames and of bodies, of chats and of completions."""

import orjson
import pytest

from berth.router.shadowing.answers import Answer, Token, of_body, of_frames
from berth.sse import DONE
from berth.sse import frame as sse


def frames(*choices: dict[str, object]) -> bytes:
    parts = [sse(orjson.dumps({"choices": [choice]})) for choice in choices]
    return b": comment\n\n" + b"".join(parts) + sse(b'{"choices":[],"usage":{}}') + DONE


def test_a_stream_says_what_a_whole_answer_says() -> None:
    call = {"index": 0, "id": "1", "function": {"name": "look", "arguments": ""}}
    streamed = frames(
        {"delta": {"role": "assistant", "content": ""}},
        {"delta": {"reasoning_content": "hm", "reasoning": "hm"}},
        {"delta": {"content": "Good "}, "logprobs": {"content": [{"token": "Good ", "logprob": -0.5}]}},
        {"delta": {"content": "day"}, "logprobs": {"content": [{"token": "day", "logprob": -1, "top_logprobs": [
            {"token": "day", "logprob": -1}, {"token": "night", "logprob": -2}]}]}},
        {"delta": {"tool_calls": [call]}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}},
        {"delta": {}, "finish_reason": "tool_calls"},
    )  # fmt: skip
    tokens = (
        Token(text="Good ", logprob=-0.5),
        Token(text="day", logprob=-1, likeliest={"day": -1, "night": -2}),
    )
    expected = Answer(
        text="Good day", reasoning="hm", calls=(("look", '{"x":1}'),), finish_reason="tool_calls", tokens=tokens
    )
    assert of_frames(streamed) == expected
    message = {
        "content": "Good day",
        "reasoning": "hm",
        "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": '{"x":1}'}}],
    }
    logprobs = {
        "content": [
            {"token": one.text, "logprob": one.logprob, "top_logprobs": [
                {"token": text, "logprob": value} for text, value in one.likeliest.items()]}
            for one in tokens
        ]
    }  # fmt: skip
    body = {"choices": [{"message": message, "finish_reason": "tool_calls", "logprobs": logprobs}]}
    assert of_body(orjson.dumps(body)) == expected


def test_the_log_probabilities_of_a_completion_are_lists() -> None:
    logprobs = {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -0.5, -1.5],
        "top_logprobs": [None, {"b": -0.5, "x": -1.0}, None],
    }
    body = {"choices": [{"text": "abc", "finish_reason": "length", "logprobs": logprobs}]}
    found = of_body(orjson.dumps(body))
    assert (found.text, found.finish_reason, found.is_empty) == ("abc", "length", False)
    assert found.tokens == (
        Token(text="b", logprob=-0.5, likeliest={"b": -0.5, "x": -1.0}),
        Token(text="c", logprob=-1.5),
    )
    assert of_frames(frames({"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1]}})).tokens == (
        Token(text="a", logprob=-1),
    )


def test_an_empty_answer() -> None:
    assert of_body(b'{"choices":[{"message":{"content":null,"tool_calls":null}}]}').is_empty
    assert of_frames(b"") == Answer()


def test_what_is_no_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="unexpected end"):
        of_body(b"[")
