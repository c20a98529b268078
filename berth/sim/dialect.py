"""The interface of a dialect: its routes, how it parses requests and how it formats responses."""

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
    """The purpose of a path."""

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
    HEALTH_GENERATE = "health_generate"  # generates a token
    SLEEP = "sleep"
    WAKE = "wake"
    ASLEEP = "asleep"  # reports whether it sleeps
    RPC = "rpc"  # a method of the workers: vLLM reloads its weights so
    PAUSE = "pause"  # SGLang: requests wait
    CONTINUE = "continue"
    LOAD_ADAPTER = "load_adapter"
    UNLOAD_ADAPTER = "unload_adapter"


INFERENCE_ROUTES = (Route.CHAT, Route.COMPLETION, Route.EMBEDDING, Route.RERANK, Route.SCORE, Route.CLASSIFY)
SLEEP_ROUTES = (Route.SLEEP, Route.WAKE, Route.ASLEEP, Route.RPC, Route.PAUSE, Route.CONTINUE)
ADAPTER_ROUTES = (Route.LOAD_ADAPTER, Route.UNLOAD_ADAPTER)
HEALTH_ROUTES = (Route.PING, Route.READY, Route.HEALTH, Route.HEALTH_GENERATE)
Routes = Mapping[str, Mapping[str, Route]]  # path -> method -> purpose
TimedFrame = tuple[int, bytes]  # the token after which it is due, and the frame


class CrashError(Exception):
    """A request that crashes the engine: it resets every connection and its process dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A full response."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    early: bool = False  # sent before the engine's CORS layer


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters and state for the metrics pages."""

    started: float  # Unix seconds
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0  # 0 to 1
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them
    generation_tokens: int = 0
    finished: Mapping[str, int] = field(default_factory=dict)  # finish_reason -> requests
    first_token_s: tuple[float, ...] = ()  # of the most recent requests
    requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to a page."""

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
    """What a dialect needs of its engine."""

    options: Options
    tokenizer: Tokenizer


class RequestParser(Protocol):
    """Parses and checks inference requests: InvalidError, RejectionError and, for SGLang, CrashError."""

    def parse_generation(self, route: Route, body: Json, headers: Mapping[str, str]) -> GenerationRequest:
        """A request for chat or completion."""
        ...

    def parse_embedding(self, body: Json) -> EmbeddingRequest: ...


class ResponseFormatter(Protocol):
    """Formats responses."""

    def response(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> bytes: ...

    def embeddings(self, request: EmbeddingRequest) -> bytes: ...

    def frames(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Iterator[TimedFrame]:
        """The frames of a stream, in order. The last ones are due after the last token."""
        ...


class Dialect(Protocol):
    name: DialectName
    routes: Routes
    vary: bool  # responses have `vary: Origin`
    probe_s: float  # the extra duration of a health page that generates a token

    @property
    def parser(self) -> RequestParser: ...

    @property
    def formatter(self) -> ResponseFormatter: ...

    def respond(self, route: Route, call: Call, stats: EngineStats) -> Response:
        """Any page but inference and health. InvalidError or RejectionError."""
        ...

    def needs_key(self, path: str) -> bool:
        """Whether the path needs the API key."""
        ...

    def invalid(self, problem: InvalidError, path: str) -> Response: ...

    def rejected(self, problem: RejectionError) -> Response: ...

    def wrong_media_type(self) -> Response: ...

    def queue_full(self, *, stream: bool) -> Response | None:
        """The response if the queue is full; None for an engine with an unlimited queue."""
        ...

    def stream_error(self) -> bytes:
        """The frames that end a failed stream; empty if the engine only closes the connection."""
        ...


def engine_error(dialect: Dialect, status: int) -> Response:
    """An error of the engine itself, in the shape of its dialect."""
    return dialect.rejected(RejectionError(STATUS_TEXTS.get(status, "The engine failed."), status=status))


STATUS_TEXTS: Mapping[int, str] = {
    400: "The request was rejected (simulated).",
    429: "Too many requests (simulated).",
    500: "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    503: "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
    "instance.",
}
NOT_FOUND = Response(status=404, body=b'{"detail":"Not Found"}')


def detail(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=b'{"detail":"' + text.encode() + b'"}', headers=headers)
