"""What an answer will say, token by token, decided before the first one is sent. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, cycle, islice

from berth.sim.tokenizer import UNKNOWN, Tokenizer

THOUGHTS = "The user asks about the train. I recall the harbour and the fox, so the answer can stay short."
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
class Ask:
    """One inference request, read and checked by its dialect."""

    chat: bool
    model: str  # as answers show it
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    n: int = 1
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    endless: bool = False  # the end of the text is no end
    least_tokens: int = 0
    stream: bool = False
    usage: bool = False  # at the end of a stream
    continuous: bool = False  # in every frame of a stream
    tops: int | None = None  # alternatives to show beside each token; None: no log probabilities
    prompt_tops: int | None = None
    echo: tuple[str, ...] = ()  # one text before each answer
    continues: tuple[str, ...] = ()  # for each prompt, the text that the answer goes on from
    thinking: bool = False
    hide_thinking: bool = False
    most_thoughts: int | None = None  # tokens of reasoning
    tool: Tool | None = None
    says: str | None = None  # instead of the engine's text
    with_ids: bool = False
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
class Script:
    """One choice of an answer."""

    pieces: tuple[Piece, ...]
    finish: str  # "stop", "length", "tool_calls"
    stop: str | None = None  # the stop string that ended it
    tokens: int  # what usage counts

    def text(self, kind: Kind) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind is kind)

    def count(self, kind: Kind) -> int:
        return sum(piece.kind is kind for piece in self.pieces)


def scripts(ask: Ask, tokenizer: Tokenizer, text: str) -> tuple[Script, ...]:
    """One for each choice: the n of the first prompt, then those of the next."""
    made = [script(ask, tokenizer, text, given) for given in ask.continues or ("",) * len(ask.prompts)]
    return tuple(one for one in made for _ in range(ask.n))


def script(ask: Ask, tokenizer: Tokenizer, text: str, given: str = "") -> Script:
    thoughts = _pieces(Kind.REASONING, tokenizer, tokenizer.encode(THOUGHTS)) if ask.thinking else []
    thoughts = thoughts[: ask.most_thoughts]
    if ask.tool is not None:
        return _bounded(ask, [*thoughts, *_call(ask.tool, tokenizer)], "tool_calls")
    room = max(0, ask.max_tokens - len(thoughts))
    spoken = list(islice(_spoken(ask, tokenizer, text, given), room + 1))
    stopped = _stopped(ask, tokenizer, spoken[:room], thoughts)
    return stopped or _bounded(ask, thoughts + spoken, "stop")


def go_on(given: str, text: str) -> int:
    """How much of `text` is already said: the longest beginning of it that `given` ends with."""
    at = given.find(text[0], max(0, len(given) - len(text))) if text else -1
    while at != -1:
        if text.startswith(given[at:]):
            return len(given) - at
        at = given.find(text[0], at + 1)
    return 0


def _spoken(ask: Ask, tokenizer: Tokenizer, text: str, given: str) -> Iterator[Piece]:
    def said(words: str) -> list[Piece]:
        return _pieces(Kind.CONTENT, tokenizer, tokenizer.encode(words))

    if ask.says is not None:
        return iter(said(ask.says))
    rest = said(text[go_on(given, text) :])
    if not ask.endless and len(rest) >= ask.least_tokens:
        return iter(rest)
    unit = text + _BETWEEN
    for_ever = chain(said(unit[go_on(given, unit) :]), cycle(said(unit)))
    return for_ever if ask.endless else islice(for_ever, ask.least_tokens)


def _pieces(kind: Kind, tokenizer: Tokenizer, ids: Sequence[int]) -> list[Piece]:
    return [Piece(kind=kind, text=text, token=token) for text, token in zip(tokenizer.texts(ids), ids, strict=True)]


def _call(tool: Tool, tokenizer: Tokenizer) -> list[Piece]:
    name = Piece(kind=Kind.TOOL_NAME, text=tool.name, token=(tokenizer.encode(tool.name) or (UNKNOWN,))[0])
    return [name, *_pieces(Kind.ARGUMENTS, tokenizer, tokenizer.encode(tool.arguments))]


def _bounded(ask: Ask, pieces: list[Piece], finish: str) -> Script:
    """Cut to max_tokens. An answer that ends by itself costs one token more, its end."""
    if len(pieces) >= max(1, ask.max_tokens) or not ask.max_tokens:
        kept = tuple(pieces[: ask.max_tokens])
        return Script(pieces=kept, finish="length", tokens=len(kept))
    return Script(pieces=tuple(pieces), finish=finish, tokens=len(pieces) + 1)


def _stopped(ask: Ask, tokenizer: Tokenizer, spoken: list[Piece], thoughts: list[Piece]) -> Script | None:
    said = "".join(piece.text for piece in spoken) if ask.stop else ""
    hits = [(at, stop) for stop in ask.stop if (at := said.find(stop)) != -1]
    if not hits:
        return None
    at, stop = min(hits)
    end = at + len(stop)
    kept = tokenizer.encode(said[: end if ask.keep_stop else at])
    used = len(tokenizer.encode(said[:end])) + len(thoughts)
    return Script(pieces=(*thoughts, *_pieces(Kind.CONTENT, tokenizer, kept)), finish="stop", stop=stop, tokens=used)
