"""OpenAI's own API, for attached servers of no known kind: fields are passed on as they are."""

from berth.canonical import EngineResponse, Failure, InferenceRequest, Operation, UpstreamRequest
from berth.dialects import request_checks, tokenize
from berth.dialects.answers import PATHS, read_answer, upstream_body, upstream_request
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.media import media_request
from berth.dialects.media_stream import MediaStreamDecoder
from berth.dialects.stream_decoder import OpenaiStreamDecoder
from berth.plan import DialectName, Task


class OpenaiDialect:
    """Fields are passed on as they are: the server itself says what it does not know."""

    name = DialectName.OPENAI

    def request(
        self,
        request: InferenceRequest,
        served_name: str,
        *,
        task: Task | None = None,
        vocab_size: int | None = None,
    ) -> UpstreamRequest:
        request_checks.check(request, vocab_size=vocab_size, task=task, dialect=self.name)
        if request.operation is Operation.MEDIA:
            return media_request(request, served_name)
        if request.operation in tokenize.TOKENS:
            request = tokenize.counting(request, "a server of OpenAI's API alone")
        if request.operation not in PATHS:
            raise UnsupportedError(f"OpenAI's API has nothing to {request.operation} with", param="model")
        return upstream_request(request, upstream_body(request, served_name))

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        return read_answer(request, model, status, body)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        """Nobody knows whether it honours `n`: as many choices must finish as it began."""
        if request.media is not None:
            return MediaStreamDecoder(request, model)
        return OpenaiStreamDecoder(request, model, choices=None)
