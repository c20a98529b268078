"""What a dialect of the simulated engine is: its routes, how it reads requests and how it spells everything it says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from berth.plan import DialectName
from berth.sim.body_validation import InvalidError, Json, RefusalError
from berth.sim.generation import Ask, Script
from berth.sim.options import Options
from berth.sim.tokenizer import Tokenizer


class Route(StrEnum):
    """What a path of an engine is for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    SCORE = "score"
    CLASSIFY = "classify"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    MODELS = "models"
    MODEL = "model"  # one model, its name in the path
    MODEL_INFO = "model_info"
    VERSION = "version"
    METRICS = "metrics"
    PROMETHEUS = "prometheus"
    LOAD = "load"
    ABORT = "abort"
    ROOT = "root"
    EMPTY = "empty"  # 200 and `{}`
    PING = "ping"
    READY = "ready"
    HEALTH = "health"
    HEALTH_GENERATE = "health_generate"  # answers after a real token
    SLEEP = "sleep"
    WAKE = "wake"
    ASLEEP = "asleep"  # whether it sleeps


INFERENCE = (Route.CHAT, Route.COMPLETION, Route.EMBEDDING, Route.RERANK, Route.SCORE, Route.CLASSIFY)
SLUMBER = (Route.SLEEP, Route.WAKE, Route.ASLEEP)
HEALTH = (Route.PING, Route.READY, Route.HEALTH, Route.HEALTH_GENERATE)
Routes = Mapping[str, Mapping[str, Route]]  # path -> method -> what it is for
Step = tuple[int, bytes]  # the token after which a frame is due, and the frame


class CrashError(Exception):
    """A request that kills this engine: every connection is reset and the process is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An answer that is sent whole."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    early: bool = False  # written before the engine's CORS layer has seen it


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the metrics pages tell, and where the engine stands."""

    started: float  # Unix seconds
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0  # 0 to 1
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Mapping[str, int] = field(default_factory=dict)  # finish_reason -> requests
    first_token_s: tuple[float, ...] = ()  # of the latest requests
    requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to one of the pages: path, its last part where that is a name, headers and body."""

    path: str
    tail: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedAsk:
    model: str
    inputs: tuple[tuple[int, ...], ...]
    base64: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a dialect needs to know about its engine."""

    options: Options
    tokenizer: Tokenizer


class Reader(Protocol):
    """Reads and checks inference requests: InvalidError, RefusalError and, for SGLang, CrashError."""

    def ask(self, route: Route, body: Json, headers: Mapping[str, str]) -> Ask:
        """A request for chat or completion."""
        ...

    def embed(self, body: Json) -> EmbedAsk: ...


class Writer(Protocol):
    """Spells answers."""

    def answer(self, ask: Ask, scripts: tuple[Script, ...]) -> bytes: ...

    def embeddings(self, ask: EmbedAsk) -> bytes: ...

    def frames(self, ask: Ask, scripts: tuple[Script, ...]) -> Iterator[Step]:
        """The frames of a stream, in order. The last ones are due after the last token."""
        ...


class Dialect(Protocol):
    name: DialectName
    routes: Routes
    vary: bool  # answers carry `vary: Origin`
    probe_s: float  # how long a health page that generates takes, on top of a token

    @property
    def reader(self) -> Reader: ...

    @property
    def writer(self) -> Writer: ...

    def page(self, route: Route, call: Call, figures: Figures) -> Page:
        """Any page but inference and health. InvalidError or RefusalError."""
        ...

    def guarded(self, path: str) -> bool:
        """Whether the path needs the API key."""
        ...

    def invalid(self, problem: InvalidError, path: str) -> Page: ...

    def refused(self, problem: RefusalError) -> Page: ...

    def wrong_media_type(self) -> Page: ...

    def full(self, *, stream: bool) -> Page | None:
        """The answer when the queue is full; None for an engine whose queue has no end."""
        ...

    def broken_stream(self) -> bytes:
        """What ends a stream that fails; empty where the connection just ends."""
        ...


def broken(dialect: Dialect, status: int) -> Page:
    """An error of the engine's own, in its shape."""
    return dialect.refused(RefusalError(STATUS_TEXTS.get(status, "The engine failed."), status=status))


STATUS_TEXTS: Mapping[int, str] = {
    400: "The request was refused (simulated).",
    429: "Too many requests (simulated).",
    500: "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    503: "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
    "instance.",
}
NOT_FOUND = Page(status=404, body=b'{"detail":"Not Found"}')


def detail(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Page:
    return Page(status=status, body=b'{"detail":"' + text.encode() + b'"}', headers=headers)
