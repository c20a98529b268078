"""OpenAI's own API, for attached servers of unknown kind, and the base of the engines' dialects."""

from berth.canonical import EngineResponse, Failure, FailureKind, InferenceRequest, Operation, UpstreamRequest
from berth.dialects import request_checks, tokenize
from berth.dialects.answers import PATHS, read_answer, upstream_body, upstream_request
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.choices import expected_choices
from berth.dialects.failures import classify_rejection
from berth.dialects.fields import without_control
from berth.dialects.media import media_request
from berth.dialects.media_stream import MediaStreamDecoder
from berth.dialects.stream_decoder import OpenaiStreamDecoder
from berth.plan import DialectName, Task


class OpenaiDialect:
    """Fields are passed on unchanged, except those that control engines: the server itself rejects what it does not
    know. `passed`: what the operator allows clients to set besides.

    The engines' dialects are subclasses: each has a `spell` of its own, and reads responses as here.
    """

    name = DialectName.OPENAI
    honors_n = False  # False: it is not known, so a stream must finish as many choices as it began

    def __init__(self, passed: frozenset[str] = frozenset()) -> None:
        self.passed = passed

    def request(
        self,
        request: InferenceRequest,
        served_name: str,
        *,
        task: Task | None = None,
        vocab_size: int | None = None,
    ) -> UpstreamRequest:
        request_checks.check(request, vocab_size=vocab_size, task=task, dialect=self.name)
        return self.spell(request, served_name)

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        """The request in the words of this engine, without the checks. UnsupportedError as for `request`."""
        if request.operation is Operation.MEDIA:
            return media_request(request, served_name, self.passed)
        if request.operation in tokenize.TOKENS:
            request = tokenize.count_request(request, "an OpenAI-compatible server")
        if request.operation not in PATHS:
            raise UnsupportedError(f"OpenAI's API has no {request.operation} endpoint", param="model")
        return upstream_request(request, *without_control(upstream_body(request, served_name), self.passed))

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        return read_answer(request, model, status, body, classify=self.classify)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        if request.media is not None:
            return MediaStreamDecoder(request, model)
        choices = expected_choices(request) if self.honors_n else None
        return OpenaiStreamDecoder(request, model, choices=choices, classify=self.classify)

    def classify(self, message: str) -> FailureKind:
        """What a 400, 413 or 422 with this message means."""
        return classify_rejection(message)
