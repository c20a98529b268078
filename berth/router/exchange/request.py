"""One client's inference request on its way: what was tried for it so far, and how its answer is written."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from berth.apis.base import ApiFormat, StreamEncoder
from berth.canonical import InferenceRequest, Usage
from berth.errors import ApiError
from berth.plan import ModelRoute, Replica
from berth.router.exchange.headers import Priority
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.outcomes import Attempt
from berth.router.exchange.responses import JSON, Headers, Reply, error_headers, write

_STREAM_HEADERS: Headers = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx in front would collect the frames
]
_NOTHING = Usage()
_NAMES_SHOWN, _NAME_LENGTH = 20, 60


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """Mutable. The answer goes out through `reply`, or through `start`, `more` and `end`; `fail` fits at any time."""

    api: ApiFormat
    request: InferenceRequest
    route: ModelRoute
    request_id: str
    flight: InflightRequest
    session: bytes = b""  # what tells its conversation from others; b"": nothing does, or nobody asks
    priority: Priority = Priority.NORMAL
    since: float = field(default_factory=time.monotonic)
    served_by: Replica | None = None  # the last one that the request was sent to
    attempts: int = 0
    failures: list[Attempt] = field(default_factory=list)
    status: int = 0  # of the answer; 0: there is none yet
    first_token_s: float | None = None  # after `since`; None: nothing of a stream came
    usage: Usage = _NOTHING
    continued: bool = False  # another replica went on with the answer
    ignored: tuple[str, ...] = ()  # fields that have no effect on the replica which answers
    _encoder: StreamEncoder | None = None

    @property
    def encoder(self) -> StreamEncoder:
        """Of the stream; the same one when another replica goes on."""
        if self._encoder is None:
            self._encoder = self.api.stream(self.request)
        return self._encoder

    @property
    def translate(self) -> Callable[[bytes], bytes] | None:
        """Canonical frames to the client's; None where they are the same."""
        return None if self.encoder.plain else self.encoder.feed

    async def reply(self, body: bytes, content_type: bytes = JSON) -> None:
        """The whole answer, canonical."""
        shown = self.api.answer(self.request, body)
        self.status = 200
        await write(self.flight.send, Reply(body=shown, content_type=content_type), self._headers())

    async def start(self) -> None:
        """The head of a stream."""
        self.status = 200
        headers = [(b"content-type", self.api.stream_type), *_STREAM_HEADERS, *self._headers()]
        await self.flight.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def more(self, frames: bytes) -> None:
        """Canonical frames."""
        await self._write(self.encoder.feed(frames))

    async def beat(self, text: str) -> None:
        """Tells the client of a stream that it is waited for, in its API's own way."""
        if not self.flight.started:
            await self.start()
        await self._write(self.encoder.heartbeat(text))

    async def end(self, frames: bytes) -> None:
        """The last canonical frames."""
        await self.flight.send({"type": "http.response.body", "body": self.encoder.feed(frames)})

    async def _write(self, shown: bytes) -> None:
        if shown:
            await self.flight.send({"type": "http.response.body", "body": shown, "more_body": True})

    async def fail(self, error: ApiError) -> None:
        """An error answer; the error frame that ends it, when the stream has begun."""
        if self.flight.started:
            await self.flight.send({"type": "http.response.body", "body": self.encoder.fail(error)})
            return
        self.status = self.api.status(error)
        reply = Reply(status=self.status, body=self.api.error(error), headers=error_headers(error))
        await write(self.flight.send, reply, self._headers())

    def _headers(self) -> Headers:
        """Who served it, after how many attempts, and how long Berth waited for the engines."""
        headers = [
            *request_id_headers(self.api, self.request_id),
            (b"x-berth-attempts", b"%d" % self.attempts),
            (b"x-berth-mode", b"native" if self.api.native else b"translated"),
        ]
        if self.served_by is not None:
            waited_ms = (time.monotonic() - self.since) * 1000
            headers += (
                (b"x-berth-engine", self.served_by.engine.encode()),
                (b"x-berth-replica", self.served_by.name.encode()),
                (b"server-timing", b"upstream;dur=%.1f" % waited_ms),
            )
        if ignored := (*self.request.ignored, *self.ignored):
            headers.append((b"x-berth-ignored", _listed(ignored)))
        return headers


def _listed(names: tuple[str, ...]) -> bytes:
    """Clients make these names: what has no place in a header is escaped, and what would be too much is counted."""
    shown = [ascii(name)[1:-1][:_NAME_LENGTH] for name in names[:_NAMES_SHOWN]]
    more = [f"and {len(names) - _NAMES_SHOWN} more"] if len(names) > _NAMES_SHOWN else []
    return ", ".join([*shown, *more]).encode()


def request_id_headers(api: ApiFormat, request_id: str) -> Headers:
    """x-request-id always; beside it the one that the API's own clients read."""
    value = request_id.encode()
    own = api.request_id_header
    return [(b"x-request-id", value)] if own == b"x-request-id" else [(b"x-request-id", value), (own, value)]
