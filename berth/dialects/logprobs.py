"""Whether the log probabilities of an answer are of OpenAI's types.

A chat has a list of tokens, each with its alternatives; a completion has lists side by side. null stands for all that
an engine may leave out: the alternatives (TensorRT-LLM), or what the first token of an echoed prompt cannot have.
"""

from collections.abc import Callable
from typing import Any

from berth.canonical import Json


def check_logprobs(told: Any) -> None:
    """TypeError, KeyError or AttributeError where the `logprobs` of a choice are not of OpenAI's types."""
    if told is None:
        return
    for name in ("content", "refusal"):
        _check_each(told.get(name), _check_token)
    _check_each(told.get("tokens"), _check_text)
    _check_each(told.get("text_offset"), _check_integer)
    _check_each(told.get("token_logprobs"), _check_number_or_null)
    _check_each(told.get("top_logprobs"), _check_alternatives)


def _check_each(values: Any, check: Callable[[Any], None]) -> None:
    """Of a list, or of null."""
    if not isinstance(values, list | None):
        raise TypeError(f"{values!r} is no list")
    for value in values or ():
        check(value)


def _check_token(token: Json) -> None:
    _check_alternative(token)
    _check_each(token.get("top_logprobs"), _check_alternative)


def _check_alternative(token: Json) -> None:
    _check_text(token["token"])
    _check_number(token["logprob"])
    _check_each(token.get("bytes"), _check_integer)


def _check_alternatives(top: Any) -> None:
    for value in ({} if top is None else top).values():
        _check_number(value)


def _check_text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")


def _check_integer(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no integer")


def _check_number(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")


def _check_number_or_null(value: Any) -> None:
    if value is not None:
        _check_number(value)
