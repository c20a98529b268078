"""What an answer will say, token by token, decided before the first one is sent. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, cycle, islice

from berth.sim.tokenizer import UNKNOWN, Tokenizer

REASONING_TEXT = "The user asks about the train. I recall the harbour and the fox, so the answer can stay short."
_BETWEEN = "\n\n"  # paragraphs of an endless answer


class Kind(StrEnum):
    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_NAME = "tool_name"
    ARGUMENTS = "arguments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    name: str
    arguments: str  # JSON text
    named: bool = False  # the request chose it by name
    forced: bool = False  # by name, or the request wanted any call


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One inference request, read and checked by its dialect."""

    chat: bool
    model: str  # as answers show it
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    n: int = 1
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False  # the end of the text is no end
    min_tokens: int = 0
    stream: bool = False
    usage: bool = False  # at the end of a stream
    usage_per_chunk: bool = False  # in every frame of a stream
    top_logprobs: int | None = None  # alternatives to show beside each token; None: no log probabilities
    prompt_logprobs: int | None = None
    echo: tuple[str, ...] = ()  # one text before each answer
    continues: tuple[str, ...] = ()  # for each prompt, the text that the answer goes on from
    reasoning: bool = False
    hide_reasoning: bool = False
    max_reasoning_tokens: int | None = None  # tokens of reasoning
    tool: Tool | None = None
    forced_text: str | None = None  # instead of the engine's text
    return_token_ids: bool = False
    request_id: str = ""  # "" makes one

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    kind: Kind
    text: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One choice of an answer."""

    pieces: tuple[Piece, ...]
    finish: str  # "stop", "length", "tool_calls"
    stop: str | None = None  # the stop string that ended it
    tokens: int  # what usage counts

    def text(self, kind: Kind) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind is kind)

    def count(self, kind: Kind) -> int:
        return sum(piece.kind is kind for piece in self.pieces)

    def chunks(self) -> Iterator[tuple[int, tuple[Piece, ...], bool]]:
        """Step, new pieces, and whether it is the last chunk: the one of the last piece, or one without pieces.

        The last piece ends the generation if it reaches a limit or a stop string.
        """
        ends_with_piece = bool(self.pieces) and (self.finish == "length" or self.stop is not None)
        for step, piece in enumerate(self.pieces, 1):
            yield step, (piece,), ends_with_piece and step == len(self.pieces)
        if not ends_with_piece:
            yield len(self.pieces) + 1, (), True


def generations(request: GenerationRequest, tokenizer: Tokenizer, text: str) -> tuple[Generation, ...]:
    """One for each choice: the n of the first prompt, then those of the next."""
    made = [generation(request, tokenizer, text, given) for given in request.continues or ("",) * len(request.prompts)]
    return tuple(one for one in made for _ in range(request.n))


def generation(request: GenerationRequest, tokenizer: Tokenizer, text: str, given: str = "") -> Generation:
    thoughts = _pieces(Kind.REASONING, tokenizer, tokenizer.encode(REASONING_TEXT)) if request.reasoning else []
    thoughts = thoughts[: request.max_reasoning_tokens]
    if request.tool is not None:
        return _bounded(request, [*thoughts, *_call(request.tool, tokenizer)], "tool_calls")
    room = max(0, request.max_tokens - len(thoughts))
    spoken = list(islice(_spoken(request, tokenizer, text, given), room + 1))
    stopped = _stopped(request, tokenizer, spoken[:room], thoughts)
    return stopped or _bounded(request, thoughts + spoken, "stop")


def overlap_length(given: str, text: str) -> int:
    """How much of `text` is already said: the longest beginning of it that `given` ends with."""
    at = given.find(text[0], max(0, len(given) - len(text))) if text else -1
    while at != -1:
        if text.startswith(given[at:]):
            return len(given) - at
        at = given.find(text[0], at + 1)
    return 0


def _spoken(request: GenerationRequest, tokenizer: Tokenizer, text: str, given: str) -> Iterator[Piece]:
    def said(words: str) -> list[Piece]:
        return _pieces(Kind.CONTENT, tokenizer, tokenizer.encode(words))

    if request.forced_text is not None:
        return iter(said(request.forced_text))
    rest = said(text[overlap_length(given, text) :])
    if not request.ignore_eos and len(rest) >= request.min_tokens:
        return iter(rest)
    unit = text + _BETWEEN
    for_ever = chain(said(unit[overlap_length(given, unit) :]), cycle(said(unit)))
    return for_ever if request.ignore_eos else islice(for_ever, request.min_tokens)


def _pieces(kind: Kind, tokenizer: Tokenizer, ids: Sequence[int]) -> list[Piece]:
    return [Piece(kind=kind, text=text, token=token) for text, token in zip(tokenizer.texts(ids), ids, strict=True)]


def _call(tool: Tool, tokenizer: Tokenizer) -> list[Piece]:
    name = Piece(kind=Kind.TOOL_NAME, text=tool.name, token=(tokenizer.encode(tool.name) or (UNKNOWN,))[0])
    return [name, *_pieces(Kind.ARGUMENTS, tokenizer, tokenizer.encode(tool.arguments))]


def _bounded(request: GenerationRequest, pieces: list[Piece], finish: str) -> Generation:
    """Cut to max_tokens. An answer that ends by itself costs one token more, its end."""
    if len(pieces) >= max(1, request.max_tokens) or not request.max_tokens:
        kept = tuple(pieces[: request.max_tokens])
        return Generation(pieces=kept, finish="length", tokens=len(kept))
    return Generation(pieces=tuple(pieces), finish=finish, tokens=len(pieces) + 1)


def _stopped(
    request: GenerationRequest, tokenizer: Tokenizer, spoken: list[Piece], thoughts: list[Piece]
) -> Generation | None:
    said = "".join(piece.text for piece in spoken) if request.stop else ""
    hits = [(at, stop) for stop in request.stop if (at := said.find(stop)) != -1]
    if not hits:
        return None
    at, stop = min(hits)
    end = at + len(stop)
    kept = tokenizer.encode(said[: end if request.include_stop else at])
    used = len(tokenizer.encode(said[:end])) + len(thoughts)
    return Generation(
        pieces=(*thoughts, *_pieces(Kind.CONTENT, tokenizer, kept)), finish="stop", stop=stop, tokens=used
    )
