"""Type checks for log probabilities in OpenAI's formats.

A chat has a list of tokens, each with its alternatives; a completion has parallel lists. null is allowed for what an
engine may leave out: the alternatives (TensorRT-LLM), or what the first token of an echoed prompt cannot have.
"""

from typing import Any


def check_logprobs(logprobs: Any) -> None:
    """TypeError, KeyError or AttributeError where the `logprobs` of a choice are not of OpenAI's types."""
    if logprobs is None:
        return
    for name in ("content", "refusal"):
        for token in _list(logprobs.get(name)):
            for alternative in (token, *_list(token.get("top_logprobs"))):
                _check_text(alternative["token"])
                _check_number(alternative["logprob"])
                for byte in _list(alternative.get("bytes")):
                    _check_integer(byte)
    for text in _list(logprobs.get("tokens")):
        _check_text(text)
    for offset in _list(logprobs.get("text_offset")):
        _check_integer(offset)
    numbers = [number for number in _list(logprobs.get("token_logprobs")) if number is not None]
    for alternatives in _list(logprobs.get("top_logprobs")):
        numbers += ({} if alternatives is None else alternatives).values()
    for number in numbers:
        _check_number(number)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | None):
        raise TypeError(f"expected a list, got {value!r}")
    return value or []


def _check_text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")


def _check_integer(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, got {value!r}")


def _check_number(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"expected a number, got {value!r}")
