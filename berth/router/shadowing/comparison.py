"""Compares the answer that a client got with that of another replica; pure. Only numbers come out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from berth import json_text
from berth.canonical import InferenceRequest, Json
from berth.ipc.shadow import Result
from berth.router.forwarding.output_schema import expectation
from berth.router.shadowing.answers import Answer, Token

BEGINNING: Final = 16  # tokens
TIE_NATS: Final = 0.25  # an engine that is less sure than that of a token is undecided


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How an answer came about."""

    answer: Answer
    tokens: int = 0  # as the engine counts them; 0: it does not say
    first_token_s: float | None = None  # None: it was not streamed
    duration_s: float = 0.0


def compared(request: InferenceRequest, own: Side, other: Side) -> tuple[Result, Mapping[str, float]]:
    """`own`: the client's. The mapping has what to add to which cells."""
    found: dict[str, float] = {}
    is_broken = _structure(request, own.answer, other.answer, found)
    _rate(found, "finish", own.answer.finish_reason == other.answer.finish_reason)
    _mean(found, "length", _log_ratio(other.tokens, own.tokens))
    _mean(found, "first_token", _log_ratio(other.first_token_s, own.first_token_s))
    _mean(found, "duration", _log_ratio(other.duration_s, own.duration_s))
    if not is_greedy(request.body):
        return Result.STRUCTURE if is_broken else Result.SAMPLED, found
    result = _texts(own.answer, other.answer, found)
    return Result.STRUCTURE if is_broken else result, found


def is_greedy(body: Json) -> bool:
    """Without a temperature engines sample: by OpenAI's default, or the model's own."""
    return body.get("temperature") == 0 or body.get("top_k") == 1


def _structure(request: InferenceRequest, own: Answer, other: Answer, found: dict[str, float]) -> bool:
    """True where the other answer is not of the form that was requested, and the client's is."""
    schema, is_broken = expectation(request), other.is_empty and not own.is_empty
    if schema is not None:
        keeps = schema.problem(other.text, other.finish_reason) is None
        _rate(found, "schema", keeps)
        is_broken |= not keeps and schema.problem(own.text, own.finish_reason) is None
    names = {(tool.get("function") or {}).get("name") for tool in request.body.get("tools") or ()}
    return is_broken or (_misformed(other, names) and not _misformed(own, names))


def _misformed(answer: Answer, names: set[str | None]) -> bool:
    """A call of a tool that there is not, or whose arguments are no JSON object. One that is cut off is excused."""
    if answer.finish_reason == "length":
        return False
    return any(name not in names or not isinstance(_json(arguments), dict) for name, arguments in answer.calls)


def _texts(own: Answer, other: Answer, found: dict[str, float]) -> Result:
    if own.calls or other.calls:
        same_calls = [(name, _json(text)) for name, text in own.calls] == [
            (name, _json(text)) for name, text in other.calls
        ]
        _rate(found, "tools", same_calls)
    else:
        same_calls = True
    is_same = (own.text, own.reasoning) == (other.text, other.reasoning)
    _rate(found, "text", is_same)
    by_tokens = bool(own.tokens and other.tokens)
    ours, others = ([one.text for one in own.tokens], [one.text for one in other.tokens]) if by_tokens else (
        own.text.split(), other.text.split()
    )  # fmt: skip
    agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, others, strict=False)))
    if ours or others:
        _rate(found, "beginning", ours[:BEGINNING] == others[:BEGINNING])
        found["same tokens"] = agreed
        found["of tokens"] = agreed + (agreed < max(len(ours), len(others)))
    if by_tokens and agreed:
        pairs = zip(own.tokens[:agreed], other.tokens[:agreed], strict=True)
        _mean(found, "logprobs", sum(abs(one.logprob - two.logprob) for one, two in pairs) / agreed)
    if is_same and same_calls:
        return Result.SAME
    undecided = by_tokens and same_calls and _is_tie(own.tokens, other.tokens, agreed)
    return Result.TIE_BREAK if undecided else Result.DIVERGED


def _is_tie(own: Sequence[Token], other: Sequence[Token], place: int) -> bool:
    """One of the engines had the other's token as likely as its own."""
    if place >= min(len(own), len(other)):
        return False
    pairs = ((own[place], other[place].text), (other[place], own[place].text))
    return any(one.logprob - one.likeliest.get(text, -math.inf) <= TIE_NATS for one, text in pairs)


def _json(text: str) -> Any:
    try:
        return json_text.loads(text or "{}")
    except ValueError:
        return text


def _log_ratio(other: float | None, own: float | None) -> float | None:
    return math.log(other / own) if other and own else None


def _rate(found: dict[str, float], name: str, is_same: bool) -> None:
    found[f"of {name}"], found[f"same {name}"] = 1, is_same


def _mean(found: dict[str, float], name: str, value: float | None) -> None:
    if value is not None:
        found[f"count {name}"], found[f"sum {name}"], found[f"squares {name}"] = 1, value, value * value
