"""What the dialects have in common when they write answers: ids, frames, log probabilities."""

import json
import secrets
import time
from collections.abc import Iterable, Iterator
from heapq import merge

from berth.sim.body_validation import Json
from berth.sim.dialect import Setup, TimedFrame
from berth.sim.generation import Generation, Kind, Piece
from berth.sse import DONE, frame


def hex_id(length: int = 16) -> str:
    return secrets.token_hex(length // 2)


def now() -> int:
    return int(time.time())


def python_json_frame(data: Json) -> bytes:
    """A frame in the spelling of Python's own JSON, which engines use for errors inside a stream."""
    return frame(json.dumps(data).encode())


def interleaved(choices: Iterable[Iterable[TimedFrame]]) -> Iterator[TimedFrame]:
    """The frames of several choices in the order of their tokens."""
    return merge(*choices, key=lambda step: step[0])


def final_frames(steps: int, *frames: bytes) -> Iterator[TimedFrame]:
    """The frames after the last token, and the end of the stream."""
    for data in (*frames, DONE):
        yield steps, data


def last_step(generations: Iterable[Generation]) -> int:
    return 1 + max((len(generation.pieces) for generation in generations), default=0)


def token_logprobs(setup: Setup, token: int, tops: int) -> list[tuple[str, float]]:
    """The token and the alternatives beside it, each with a plausible figure. The token is the likeliest."""
    others = [(token + 1 + index) % setup.options.vocab_size for index in range(max(0, tops - 1))]
    text = setup.tokenizer.text
    return [(text(token), -0.125), *((text(other), -2.5 - index / 4) for index, other in enumerate(others))]


def chat_logprobs(setup: Setup, tops: int | None, pieces: Iterable[Piece], *, bytes_first: bool) -> Json | None:
    """Chat's shape; None where none are asked for, or there is no token. Engines differ in the order of the keys."""
    if tops is None:
        return None
    content = [_chat_log_probability(setup, piece, tops, bytes_first=bytes_first) for piece in pieces]
    return {"content": content} if content else None


def _chat_log_probability(setup: Setup, piece: Piece, tops: int, *, bytes_first: bool) -> Json:
    def entry(text: str, value: float) -> Json:
        raw = list(text.encode())
        parts: Json = {"bytes": raw, "logprob": value} if bytes_first else {"logprob": value, "bytes": raw}
        return {"token": text, **parts}

    shown = token_logprobs(setup, piece.token, tops)
    return {**entry(*shown[0]), "top_logprobs": [entry(*one) for one in shown[:tops]]}


def completion_logprobs(
    setup: Setup, pieces: Iterable[Piece], tops: int, *, offset: int = 0, prompt: tuple[int, ...] = ()
) -> Json:
    """The older shape, in lists. An echoed prompt comes first, and its first token has no figure."""
    tokens = [*prompt, *(piece.token for piece in pieces)]
    shown = [token_logprobs(setup, token, tops) for token in tokens]
    names = [setup.tokenizer.text(token) for token in tokens]
    offsets = [offset + sum(len(name) for name in names[:index]) for index in range(len(names))]
    blank = bool(prompt)
    return {
        "text_offset": offsets,
        "token_logprobs": [None if blank and not index else one[0][1] for index, one in enumerate(shown)],
        "tokens": names,
        "top_logprobs": [None if blank and not index else dict(one[: max(1, tops)]) for index, one in enumerate(shown)],
    }


def tool_call(generation: Generation) -> tuple[str, str] | None:
    """Name and arguments of the call that a script makes; None for no call, or one that was cut."""
    if generation.finish != "tool_calls":
        return None
    return generation.text(Kind.TOOL_NAME), generation.text(Kind.ARGUMENTS)
