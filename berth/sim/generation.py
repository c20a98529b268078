"""The text of a response, token by token, decided before the first one is sent. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, cycle, islice

from berth.sim.load import divergence
from berth.sim.tokenizer import UNKNOWN, Tokenizer

REASONING_TEXT = "The user asks about the train. I recall the harbour and the fox, so the answer can stay short."
_PARAGRAPH_BREAK = "\n\n"  # between the repetitions of an endless text


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
    forced: bool = False  # by name, or because the request requires a call


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request for chat or completion, parsed and checked by its dialect."""

    chat: bool
    model: str  # as in responses
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    n: int = 1
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False  # the text repeats
    min_tokens: int = 0
    stream: bool = False
    usage: bool = False  # at the end of a stream
    usage_per_chunk: bool = False  # in every frame of a stream
    top_logprobs: int | None = None  # alternatives per token; None: no log probabilities
    prompt_logprobs: int | None = None
    echo: tuple[str, ...] = ()  # for each prompt, the text before the response
    continues: tuple[str, ...] = ()  # for each prompt, the text that the response continues
    reasoning: bool = False
    hide_reasoning: bool = False
    max_reasoning_tokens: int | None = None
    tool: Tool | None = None
    forced_text: str | None = None  # instead of the engine's own
    return_token_ids: bool = False
    request_id: str = ""  # "": the engine makes one
    cached_tokens: int = 0  # of the prompts

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
    """The content of one choice."""

    pieces: tuple[Piece, ...]
    finish: str  # "stop", "length", "tool_calls"
    stop: str | None = None  # the stop string that ended it
    tokens: int  # as usage counts them

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


def generations(
    request: GenerationRequest, tokenizer: Tokenizer, text: str, differs: float = 0.0, seed: int = 0
) -> tuple[Generation, ...]:
    """One for each choice: the n of the first prompt, then those of the next. A share of the tokens differs."""
    given = request.continues or ("",) * len(request.prompts)
    made = [generation(request, tokenizer, text, one) for one in given]
    if differs and request.tool is None and request.forced_text is None:
        made = [
            replace(one, pieces=_diverging(one.pieces, tokenizer, len(prompt), differs, seed))
            for one, prompt in zip(made, request.prompts, strict=True)
        ]
    return tuple(one for one in made for _ in range(request.n))


def generation(request: GenerationRequest, tokenizer: Tokenizer, text: str, given: str = "") -> Generation:
    reasoning = _pieces(Kind.REASONING, tokenizer, tokenizer.encode(REASONING_TEXT)) if request.reasoning else []
    reasoning = reasoning[: request.max_reasoning_tokens]
    if request.tool is not None:
        name, arguments = request.tool.name, tokenizer.encode(request.tool.arguments)
        call = Piece(kind=Kind.TOOL_NAME, text=name, token=(tokenizer.encode(name) or (UNKNOWN,))[0])
        pieces = [*reasoning, call, *_pieces(Kind.ARGUMENTS, tokenizer, arguments)]
        return _limited(request, pieces, "tool_calls")
    most = max(0, request.max_tokens - len(reasoning))
    content = list(islice(_content(request, tokenizer, text, given), most + 1))
    stopped = _stopped(request, tokenizer, content[:most], reasoning) if request.stop else None
    return stopped or _limited(request, reasoning + content, "stop")


def _diverging(
    pieces: Sequence[Piece], tokenizer: Tokenizer, prompt_tokens: int, share: float, seed: int
) -> tuple[Piece, ...]:
    tokens = [divergence.other(one.token, prompt_tokens + at, share, seed) for at, one in enumerate(pieces)]
    return tuple(
        one if token is None else replace(one, token=token, text=tokenizer.text(token))
        for one, token in zip(pieces, tokens, strict=True)
    )


def overlap_length(given: str, text: str) -> int:
    """The length of the longest beginning of `text` that `given` ends with."""
    at = given.find(text[0], max(0, len(given) - len(text))) if text else -1
    while at != -1:
        if text.startswith(given[at:]):
            return len(given) - at
        at = given.find(text[0], at + 1)
    return 0


def _content(request: GenerationRequest, tokenizer: Tokenizer, text: str, given: str) -> Iterator[Piece]:
    """Pieces of the text, less what `given` has of it already; repeated as far as the request demands."""

    def pieces(part: str) -> list[Piece]:
        return _pieces(Kind.CONTENT, tokenizer, tokenizer.encode(part))

    if request.forced_text is not None:
        return iter(pieces(request.forced_text))
    rest = pieces(text[overlap_length(given, text) :])
    if not request.ignore_eos and len(rest) >= request.min_tokens:
        return iter(rest)
    paragraph = text + _PARAGRAPH_BREAK
    endless = chain(pieces(paragraph[overlap_length(given, paragraph) :]), cycle(pieces(paragraph)))
    return endless if request.ignore_eos else islice(endless, min(request.min_tokens, request.max_tokens + 1))


def _pieces(kind: Kind, tokenizer: Tokenizer, ids: Sequence[int]) -> list[Piece]:
    return [Piece(kind=kind, text=text, token=token) for text, token in zip(tokenizer.texts(ids), ids, strict=True)]


def _limited(request: GenerationRequest, pieces: list[Piece], finish: str) -> Generation:
    """Cut to max_tokens. A generation that ends by itself counts one token more, its end token."""
    if len(pieces) >= max(1, request.max_tokens) or not request.max_tokens:
        kept = tuple(pieces[: request.max_tokens])
        return Generation(pieces=kept, finish="length", tokens=len(kept))
    return Generation(pieces=tuple(pieces), finish=finish, tokens=len(pieces) + 1)


def _stopped(
    request: GenerationRequest, tokenizer: Tokenizer, content: list[Piece], reasoning: list[Piece]
) -> Generation | None:
    """The generation up to the first stop string; None without one in the content."""
    text = "".join(piece.text for piece in content)
    matches = [(at, stop) for stop in request.stop if (at := text.find(stop)) != -1]
    if not matches:
        return None
    at, stop = min(matches)
    end = at + len(stop)
    kept = tokenizer.encode(text[: end if request.include_stop else at])
    tokens = len(tokenizer.encode(text[:end])) + len(reasoning)
    pieces = (*reasoning, *_pieces(Kind.CONTENT, tokenizer, kept))
    return Generation(pieces=pieces, finish="stop", stop=stop, tokens=tokens)
