"""What a dialect of the simulated engine is: its routes, how it reads requests and how it spells everything it says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from berth.plan import DialectName
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.generation import Generation, GenerationRequest
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


INFERENCE_ROUTES = (Route.CHAT, Route.COMPLETION, Route.EMBEDDING, Route.RERANK, Route.SCORE, Route.CLASSIFY)
SLEEP_ROUTES = (Route.SLEEP, Route.WAKE, Route.ASLEEP)
HEALTH_ROUTES = (Route.PING, Route.READY, Route.HEALTH, Route.HEALTH_GENERATE)
Routes = Mapping[str, Mapping[str, Route]]  # path -> method -> what it is for
TimedFrame = tuple[int, bytes]  # the token after which a frame is due, and the frame


class CrashError(Exception):
    """A request that kills this engine: every connection is reset and the process is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer that is sent whole."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    early: bool = False  # written before the engine's CORS layer has seen it


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
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
    model: str = ""  # in the path
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    model: str
    inputs: tuple[tuple[int, ...], ...]
    base64: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a dialect needs to know about its engine."""

    options: Options
    tokenizer: Tokenizer


class RequestParser(Protocol):
    """Reads and checks inference requests: InvalidError, RefusalError and, for SGLang, CrashError."""

    def parse_generation(self, route: Route, body: Json, headers: Mapping[str, str]) -> GenerationRequest:
        """A request for chat or completion."""
        ...

    def parse_embedding(self, body: Json) -> EmbeddingRequest: ...


class ResponseFormatter(Protocol):
    """Spells answers."""

    def response(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> bytes: ...

    def embeddings(self, request: EmbeddingRequest) -> bytes: ...

    def frames(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Iterator[TimedFrame]:
        """The frames of a stream, in order. The last ones are due after the last token."""
        ...


class Dialect(Protocol):
    name: DialectName
    routes: Routes
    vary: bool  # answers carry `vary: Origin`
    probe_s: float  # how long a health page that generates takes, on top of a token

    @property
    def parser(self) -> RequestParser: ...

    @property
    def formatter(self) -> ResponseFormatter: ...

    def respond(self, route: Route, call: Call, stats: EngineStats) -> Response:
        """Any page but inference and health. InvalidError or RefusalError."""
        ...

    def needs_key(self, path: str) -> bool:
        """Whether the path needs the API key."""
        ...

    def invalid(self, problem: InvalidError, path: str) -> Response: ...

    def rejected(self, problem: RejectionError) -> Response: ...

    def wrong_media_type(self) -> Response: ...

    def queue_full(self, *, stream: bool) -> Response | None:
        """The answer when the queue is full; None for an engine whose queue has no end."""
        ...

    def stream_error(self) -> bytes:
        """What ends a stream that fails; empty where the connection just ends."""
        ...


def engine_error(dialect: Dialect, status: int) -> Response:
    """An error of the engine's own, in its shape."""
    return dialect.rejected(RejectionError(STATUS_TEXTS.get(status, "The engine failed."), status=status))


STATUS_TEXTS: Mapping[int, str] = {
    400: "The request was refused (simulated).",
    429: "Too many requests (simulated).",
    500: "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    503: "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
    "instance.",
}
NOT_FOUND = Response(status=404, body=b'{"detail":"Not Found"}')


def detail(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=b'{"detail":"' + text.encode() + b'"}', headers=headers)
