"""The context of one client request, and the writer of its response."""

import time
from collections.abc import Sequence

from berth.apis.base import NO_HEADERS, ApiFormat, EncodingError, StreamEncoder
from berth.canonical import InferenceRequest, Usage
from berth.dialects.base import StreamDecoder
from berth.errors import ApiError
from berth.ipc.journal import BROKEN, NO_TRACE, Trace
from berth.plan import ApiKey, ModelRoute, Replica, RoutingRule
from berth.plan.keys import OPEN
from berth.router.exchange.headers import Priority, request_id_headers
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.mirrored import Mirrored
from berth.router.exchange.outcomes import Attempt
from berth.router.exchange.recording import Recording
from berth.router.exchange.responses import Headers, Reply, error_reply

CLIENT_GONE = 499  # nginx's status for a client that disconnected before its response
_STREAM_HEADERS: Headers = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # an nginx in front would buffer the frames
]
_NO_USAGE = Usage()
_NAMES_SHOWN, _NAME_LENGTH = 20, 60


class Grant:
    """What a request of a client with a key is expected to use, and what it has taken of the client's limits."""

    __slots__ = ("answer", "headers", "price", "prompt", "queued", "reserved", "running")

    def __init__(self, prompt: float, answer: float, price: float) -> None:
        self.prompt = prompt  # tokens
        self.answer = answer
        self.price = price  # for the turns in the queue
        self.queued = False  # the price is paid
        self.reserved = 0.0  # tokens of the rate
        self.running = False  # it counts as one of the client's requests at a time
        self.headers: Sequence[tuple[bytes, bytes]] = ()  # for the client: what is left


class RequestContext:
    """Exists from the first byte on; `accept` adds the request once it is read and valid. The response goes out through
    `send`, or through `start`, `more` and `end`; `fail` fits at any time.
    """

    __slots__ = (
        *("_encoder", "accepted", "api", "attempts", "began", "continued", "decoder", "error_code", "failures"),
        *("first_token_s", "flags", "frames", "grant", "headers", "hops", "ignored", "inflight", "key", "large"),
        *("live_tokens", "load_s", "mirrored", "model", "moved_at_token", "preemptions", "prefix", "previous"),
        *("priority", "queue_s", "queued_at", "recording", "request", "request_id", "route", "rule", "served_by"),
        *("attempt_s", "ended", "served_headers"),
        *("session", "since", "status", "trace", "usage", "beginnings"),
    )

    request: InferenceRequest  # these are set by `accept`
    route: ModelRoute
    session: bytes  # identifies its conversation; b"": unknown, or not needed
    beginnings: Sequence[bytes]  # the hashes of those of its prompt; (): short, or not needed
    priority: Priority
    since: float
    recording: Recording | None  # None: it is not captured
    mirrored: Mirrored | None  # None: it is not sent to another replica too

    def __init__(self, api: ApiFormat, request_id: str, inflight: InflightRequest) -> None:
        self.api = api
        self.request_id = request_id
        self.inflight = inflight
        self.accepted = False
        self.headers = NO_HEADERS  # of the request, as its client sent them
        # written by the endpoint and by the methods below
        self.key = OPEN  # whose request it is
        self.grant: Grant | None = None  # None: anonymous, or not there yet
        self.rule: RoutingRule | None = None  # that decides about it
        self.hops = 0  # Berths that have sent it to this one
        self.large = False  # it is translated outside of the event loop
        self.prefix = self.model = ""  # of a rule, in its path; the public name of its model, if it is known already
        self.status = 0  # of the response; 0: none yet
        self._encoder: StreamEncoder | None = None
        # written by forwarding
        # The last two of time.monotonic(): of the last attempt, and of the end; 0: not yet. `attempt_s`: how long the
        # first one took, if it has a trace and was all that the request needed; -1: else.
        self.attempts, self.attempt_s, self.began, self.ended = 0, -1.0, 0.0, 0.0
        self.failures: list[Attempt] = []
        self.served_by: Replica | None = None  # the last one that the request was sent to
        self.served_headers: Sequence[tuple[bytes, bytes]] = ()  # that name it
        self.ignored: tuple[str, ...] = ()  # fields that have no effect on that replica
        self.first_token_s: float | None = None  # after `since`; None: no token yet, or not a stream
        self.usage = _NO_USAGE
        self.frames = 0  # of its streams that are over
        self.continued = False  # another replica continued the response
        # for the journal
        self.flags = 0  # those of berth.ipc.journal that are set on the way
        self.trace: Trace = NO_TRACE
        # waited for a slot or a model, and for a model only; the last one of time.monotonic(), 0: it does not wait
        self.queue_s, self.load_s, self.queued_at = 0.0, 0.0, 0.0
        self.previous: Replica | None = None  # that failed before `served_by`
        self.moved_at_token = self.preemptions = 0  # where the last continuation began; how often it was preempted
        self.decoder: StreamDecoder | None = None  # of the stream in progress
        self.error_code = ""
        # the first: the tokens of the stream in progress, as the metrics have them
        self.live_tokens, self.recording, self.mirrored = 0, None, None

    def accept(
        self,
        request: InferenceRequest,
        route: ModelRoute,
        *,
        session: bytes = b"",
        beginnings: Sequence[bytes] = (),
        key: ApiKey = OPEN,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        self.request = request
        self.route = route
        self.model = route.name
        self.session = session
        self.beginnings = beginnings
        self.key = key
        self.priority = priority
        self.since = time.monotonic()
        self.accepted = True

    @property
    def encoder(self) -> StreamEncoder:
        """Of the stream; the same one when another replica continues it."""
        if self._encoder is None:
            self._encoder = self.api.stream(self.request)
        return self._encoder

    def encoded(self, body: bytes) -> bytes:
        """The complete response, canonical, in the client's API. EncodingError if it has no form there."""
        try:
            return self.api.response(self.request, body)
        except Exception as exc:
            raise EncodingError(str(exc) or repr(exc)) from exc

    async def send(self, reply: Reply) -> None:
        """The complete response, in the client's API."""
        self.status, body = reply.status, reply.body
        headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(body)), *self._headers()]
        headers += [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        inflight, start = self.inflight, {"type": "http.response.start", "status": reply.status, "headers": headers}
        for message in (start, {"type": "http.response.body", "body": body}):
            if (wait := inflight.push(message)) is not None:  # as `send`, without a coroutine
                await inflight.drained(wait)
        inflight.complete = True

    async def start(self) -> None:
        """The head of a stream."""
        self.status = 200
        headers = [(b"content-type", self.api.stream_type), *_STREAM_HEADERS, *self._headers()]
        await self.inflight.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def more(self, frames: bytes) -> None:
        """Canonical frames."""
        await self.write(self.encoder.feed(frames))

    async def heartbeat(self, text: str) -> None:
        """Shows the client of a stream that the server still works on it, in the API's own way."""
        if not self.inflight.started:
            await self.start()
        await self.write(self.encoder.heartbeat(text))

    async def end(self, frames: bytes) -> None:
        """The last canonical frames."""
        await self.inflight.send({"type": "http.response.body", "body": self.encoder.feed(frames)})
        self.inflight.complete = True

    async def write(self, encoded: bytes) -> None:
        """Bytes of a stream, in the client's API."""
        if encoded:
            await self.inflight.send({"type": "http.response.body", "body": encoded, "more_body": True})

    async def fail(self, error: ApiError) -> None:
        """An error response, or the error frame that ends a stream that has begun."""
        self.error_code = error.code or error.type
        if self.inflight.started:
            self.flags |= BROKEN
            await self.inflight.send({"type": "http.response.body", "body": self.encoder.fail(error)})
            self.inflight.complete = True
        else:
            await self.send(error_reply(self.api, error))

    def _headers(self) -> Headers:
        """The request id. Once the request is accepted also who served it, after how many attempts and milliseconds."""
        headers = request_id_headers(self.api, self.request_id)
        if self.trace.sampled:
            headers.append((b"x-berth-trace", self.trace.trace_id.hex().encode()))
        if not self.accepted:
            return headers
        headers.append((b"x-berth-attempts", b"%d" % self.attempts))
        headers.append((b"x-berth-mode", b"native" if self.api.native else b"translated"))
        if self.rule is not None:
            headers.append((b"x-berth-rule", self.rule.name.encode()))
        if self.grant is not None:
            headers += self.grant.headers
        if self.load_s:
            model = self.route.base or self.route.name
            headers += [(b"x-berth-load-ms", b"%d" % (self.load_s * 1000)), (b"x-berth-loaded", model.encode())]
        if self.queue_s:
            headers.append((b"x-berth-queue-ms", b"%d" % (self.queue_s * 1000)))
        if self.served_by is not None:
            headers += self.served_headers
            headers.append((b"server-timing", b"upstream;dur=%.1f" % ((time.monotonic() - self.since) * 1000)))
        if ignored := (*self.request.ignored, *self.ignored):
            # clients may send any names: escaped for a header, shortened, and counted where there are too many
            shown = [ascii(name)[1:-1][:_NAME_LENGTH] for name in ignored[:_NAMES_SHOWN]]
            if len(ignored) > _NAMES_SHOWN:
                shown.append(f"and {len(ignored) - _NAMES_SHOWN} more")
            headers.append((b"x-berth-ignored", ", ".join(shown).encode()))
        return headers
