"""remote: an engine that somebody else runs, attached by its URL. There is nothing to start, only to probe.

Its dialect is that of the engine where the user says which; else OpenAI's own, in which nothing is translated.
"""

from berth.canonical import Answer, Failure, InferenceRequest, Operation, UpstreamRequest
from berth.engines import tokens
from berth.engines.base import LaunchOrder, StreamDecoder, UnsupportedError
from berth.engines.media import media_request
from berth.engines.media_stream import MediaStreamDecoder
from berth.engines.openai_stream import OpenaiStreamDecoder
from berth.engines.openai_wire import PATHS, read_answer, upstream_body, upstream_request
from berth.plan import DialectName, EngineName, Launch, Probe, Sleep


class RemoteEngine:
    name = EngineName.REMOTE
    dialect = DialectName.OPENAI
    ready = Probe(path="/v1/models")  # registry.probes has the dialect's own
    alive = Probe(path="/v1/models")
    sleep: Sleep | None = None  # that is for those to decide who run it
    takes_socket = False
    start_timeout_s = 0.0
    stop_timeout_s = 0.0

    def launch(self, order: LaunchOrder) -> Launch:
        raise ValueError(f"{order.replica!r} is attached by URL: there is nothing to start")

    def overhead_bytes(self, *, gpus: int) -> int:  # noqa: ARG002 - the interface asks
        return 0

    def concurrency(self, order: LaunchOrder) -> int | None:  # noqa: ARG002 - the interface asks
        return None


class OpenaiDialect:
    """Fields are passed on as they are: the server itself says what it does not know."""

    name = DialectName.OPENAI

    def request(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        if request.operation is Operation.MEDIA:
            return media_request(request, served_name)
        if request.operation in tokens.TOKENS:
            request = tokens.counting(request, "a server of OpenAI's API alone")
        if request.operation not in PATHS:
            raise UnsupportedError(f"OpenAI's API has nothing to {request.operation} with", param="model")
        return upstream_request(request, upstream_body(request, served_name))

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> Answer | Failure:
        return read_answer(request, model, status, body)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        """Nobody knows whether it honours `n`: as many choices must finish as it began."""
        if request.media is not None:
            return MediaStreamDecoder(request, model)
        return OpenaiStreamDecoder(request, model, choices=None)
