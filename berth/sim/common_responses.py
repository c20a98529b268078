"""What the dialects share when they format responses: ids, streams, log probabilities."""

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

import orjson

from berth.sim.body_validation import Json
from berth.sim.dialect import Setup, TimedFrame
from berth.sim.generation import Generation, GenerationRequest, Kind, Piece
from berth.sim.load import divergence
from berth.sse import DONE, frame

UNLIKELY = -2.5  # of one that differs
LIKELY = -0.125  # the log probability of each chosen token


class BaseFormatter(ABC):
    """Formats generations as a full response or as the frames of a stream. Each dialect adds its fields."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def response(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> bytes:
        choice = self.chat_choice if request.chat else self.completion_choice
        choices = [choice(request, index, one) for index, one in enumerate(generations)]
        return orjson.dumps(self.full_body(request, choices, generations))

    def frames(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Iterator[TimedFrame]:
        """In order, each with the token after which it is due. The last ones are due after the last token."""
        heads = self.heads(request, len(generations))
        yield from ((1, data) for data in self.opening_frames(request, heads))
        deltas = self.chat_deltas if request.chat else self.completion_deltas
        streams = [deltas(request, heads[index], index, one) for index, one in enumerate(generations)]
        yield from merge(*streams, key=lambda timed: timed[0])
        steps = 1 + max((len(one.pieces) for one in generations), default=0)
        for data in (*self.closing_frames(request, heads[-1], generations), DONE):
            yield steps, data

    @abstractmethod
    def full_body(self, request: GenerationRequest, choices: list[Json], generations: tuple[Generation, ...]) -> Json:
        """The full response around its choices."""

    @abstractmethod
    def chat_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json: ...

    @abstractmethod
    def completion_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json: ...

    @abstractmethod
    def heads(self, request: GenerationRequest, choices: int) -> Sequence[Json]:
        """The fields that begin the frames of a stream, for each choice."""

    def opening_frames(self, request: GenerationRequest, heads: Sequence[Json]) -> Iterator[bytes]:
        """Before the first token of any choice."""
        yield from ()

    @abstractmethod
    def chat_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]: ...

    @abstractmethod
    def completion_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]: ...

    @abstractmethod
    def closing_frames(
        self, request: GenerationRequest, head: Json, generations: tuple[Generation, ...]
    ) -> Iterator[bytes]:
        """Between the last token and the end of the stream."""


def hex_id(length: int = 16) -> str:
    return secrets.token_hex(length // 2)


def now() -> int:
    return int(time.time())


def python_json_frame(data: Json) -> bytes:
    """A frame with the spaces of Python's JSON encoder, which engines use for errors inside a stream."""
    return frame(json.dumps(data).encode())


def token_logprobs(setup: Setup, token: int, tops: int, *, position: int | None = None) -> list[tuple[str, float]]:
    """The token and its alternatives, each with a plausible value. The token is the most likely, unless it is given in
    a prompt at this position, and the engine would have another one there: then that comes second.
    """
    text, options = setup.tokenizer.text, setup.options
    other = None if position is None else divergence.other(token, position, options.differs, options.seed)
    if other is not None:
        return [(text(token), UNLIKELY), (text(other), LIKELY)]
    others = [(token + 1 + index) % options.vocab_size for index in range(max(0, tops - 1))]
    return [(text(token), LIKELY), *((text(other), -2.5 - index / 4) for index, other in enumerate(others))]


def chat_logprobs(setup: Setup, tops: int | None, pieces: Iterable[Piece], *, bytes_first: bool) -> Json | None:
    """The shape of chat; None if not requested or without a token. Engines differ in the order of the keys."""
    if tops is None:
        return None

    def entry(text: str, value: float) -> Json:
        raw = list(text.encode())
        values: Json = {"bytes": raw, "logprob": value} if bytes_first else {"logprob": value, "bytes": raw}
        return {"token": text, **values}

    content: list[Json] = []
    for piece in pieces:
        likely = token_logprobs(setup, piece.token, tops)
        content.append({**entry(*likely[0]), "top_logprobs": [entry(*one) for one in likely[:tops]]})
    return {"content": content} if content else None


def completion_logprobs(setup: Setup, pieces: Iterable[Piece], tops: int, *, prompt: tuple[int, ...] = ()) -> Json:
    """The older shape, in lists. An echoed prompt comes first, and its first token has no value."""
    tokens = [*prompt, *(piece.token for piece in pieces)]
    likely = [
        token_logprobs(setup, token, tops, position=at if at < len(prompt) else None) for at, token in enumerate(tokens)
    ]
    names = [setup.tokenizer.text(token) for token in tokens]
    offsets = [sum(len(name) for name in names[:index]) for index in range(len(names))]
    blank = bool(prompt)
    return {
        "text_offset": offsets,
        "token_logprobs": [None if blank and not index else one[0][1] for index, one in enumerate(likely)],
        "tokens": names,
        "top_logprobs": [
            None if blank and not index else dict(one[: max(1, tops)]) for index, one in enumerate(likely)
        ],
    }


def tool_call(generation: Generation) -> tuple[str, str] | None:
    """Name and arguments of the call; None without a call or if it is incomplete."""
    if generation.finish != "tool_calls":
        return None
    return generation.text(Kind.TOOL_NAME), generation.text(Kind.ARGUMENTS)
