"""What an answer says, from canonical frames or a canonical body; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from berth import json_text
from berth.canonical import Json
from berth.sse import data_of, frames_of

_REASONING: Final = ("reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """With its log probability, and those of the likeliest tokens in its place."""

    text: str
    logprob: float
    likeliest: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one choice."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()  # names and arguments, in order
    finish_reason: str = ""
    tokens: tuple[Token, ...] = ()  # (): the client did not ask for log probabilities, or the engine gave none

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.reasoning or self.calls)


def of_body(body: bytes) -> Answer:
    """ValueError, KeyError and the like for what is no answer."""
    return _joined([json_text.loads(body)])


def of_frames(frames: bytes) -> Answer:
    """The same."""
    found = (data_of(frame) for frame in frames_of(frames))
    return _joined([json_text.loads(data) for data in found if data and data != b"[DONE]"])


def _joined(documents: Iterable[Json]) -> Answer:
    """A stream is many documents with parts, a body is one with everything."""
    text, reasoning, finish_reason = [], [], ""
    calls: dict[int, list[str]] = {}
    tokens: list[Token] = []
    for choice in (one for document in documents for one in document.get("choices") or ()):
        said: Json = choice.get("delta") or choice.get("message") or {}
        text.append(said.get("content") or choice.get("text") or "")
        reasoning.append(next((said[name] for name in _REASONING if said.get(name)), ""))
        for number, call in enumerate(said.get("tool_calls") or ()):
            function, parts = call.get("function") or {}, calls.setdefault(call.get("index", number), ["", ""])
            parts[0] += function.get("name") or ""
            parts[1] += function.get("arguments") or ""
        finish_reason = choice.get("finish_reason") or finish_reason
        tokens += _tokens(choice.get("logprobs") or {})
    return Answer(
        text="".join(text),
        reasoning="".join(reasoning),
        calls=tuple((name, arguments) for _index, (name, arguments) in sorted(calls.items())),
        finish_reason=finish_reason,
        tokens=tuple(tokens),
    )


def _tokens(logprobs: Json) -> list[Token]:
    """A chat's have an object for each token, a completion's have lists."""
    if (content := logprobs.get("content")) is not None:
        return [
            Token(
                text=one["token"],
                logprob=one["logprob"],
                likeliest={other["token"]: other["logprob"] for other in one.get("top_logprobs") or ()},
            )
            for one in content
        ]
    texts, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops: list[Any] = logprobs.get("top_logprobs") or [None] * len(texts)
    return [
        Token(text=text, logprob=value, likeliest=top or {})
        for text, value, top in zip(texts, values, tops, strict=False)
        if value is not None  # a prompt's first
    ]
