"""OpenAI's own API, for attached servers of unknown kind, and the base of the engines' dialects."""

from collections.abc import Mapping
from copy import copy
from types import MappingProxyType
from typing import Final, Self

from berth.canonical import (
    CHAT,
    MEDIA,
    EngineResponse,
    Failure,
    FailureKind,
    InferenceRequest,
    Json,
    UpstreamRequest,
)
from berth.dialects import engine_load, request_checks, tokenize
from berth.dialects.answers import PATHS, read_answer, upstream_body, upstream_request, with_limit
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.choices import expected_choices
from berth.dialects.failures import ERROR_RULES, ErrorRule, judge_by_status
from berth.dialects.media import media_request
from berth.dialects.media_stream import MediaStreamDecoder
from berth.dialects.requests.fields import without_control
from berth.dialects.stream_decoder import OpenaiStreamDecoder
from berth.plan import DialectName, Task
from berth.state import EngineLoad

METRICS_PATH: Final = "/metrics"


class OpenaiDialect:
    """Fields are passed on unchanged, except those that control engines: the server itself rejects what it does not
    know. `passed`: what the operator allows clients to set besides.

    The engines' dialects are subclasses: each has a `spell` of its own, and reads responses as here.
    """

    name = DialectName.OPENAI
    honors_n = False  # False: it is not known, so a stream must finish as many choices as it began
    # Whether it continues an answer that a request brings, exactly. None: control asks the server, see `attachment`.
    continues_chat: bool | None = None
    continues_completion: bool | None = None
    limit_fields: tuple[str, ...] = ()  # under which names it gets a chat's token limit; (): as the client wrote it
    fragile = True  # a bad request may stop the server, for all
    needs_uuid = True  # some servers take nothing but a UUID as x-request-id
    # Where an attached server says that it is well: the first of these paths that it has.
    health_paths: tuple[str, ...] = ("/health/liveliness", "/health", "/v1/models")
    health_timeout_s = 10.0
    load_paths: tuple[str, ...] = ()  # where it says how busy it is
    load_series: engine_load.Series = MappingProxyType({})  # what it calls the figures there
    load_timeout_s = 1.0
    stream_type = b"text/event-stream"  # how the content type of its streams begins
    error_rules: tuple[ErrorRule, ...] = ERROR_RULES
    passed: frozenset[str] = frozenset()

    def for_context(self, context: int | None) -> Self:  # noqa: ARG002 - most servers decide that themselves
        """The dialect for a model with so much context; None: unknown."""
        return self

    def allowing(self, passed: frozenset[str]) -> Self:
        """The dialect for a model whose operator lets clients set these fields of the engine."""
        dialect = copy(self)
        dialect.passed = passed
        return dialect

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
        if request.operation is MEDIA:
            return media_request(request, served_name, self.passed)
        if request.operation in tokenize.TOKENS:
            request = tokenize.count_request(request, "an OpenAI-compatible server")
        if request.operation not in PATHS:
            raise UnsupportedError(f"OpenAI's API has no {request.operation} endpoint", param="model")
        body, ignored = without_control(upstream_body(request, served_name), self.passed)
        if self.limit_fields and request.operation is CHAT:
            body = with_limit(body, self.limit_fields)
        return upstream_request(request, body, ignored)

    def load(self, pages: Mapping[str, bytes], before: EngineLoad | None) -> EngineLoad | None:  # noqa: ARG002 - most pages say all that is needed
        """What its pages say about its load; see `Dialect.load`."""
        page = pages.get(METRICS_PATH)
        return engine_load.of_series(page, self.load_series) if page else None

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        return read_answer(request, model, status, body, judge=self.judge)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        if request.media is not None:
            return MediaStreamDecoder(request, model, judge=self.judge)
        choices = expected_choices(request) if self.honors_n else None
        return OpenaiStreamDecoder(request, model, choices=choices, judge=self.judge)

    def judge(self, status: int, message: str, error: Json) -> FailureKind:
        """Whose fault an error response is. `message`: cleaned, "" if it has none. `error`: its JSON object."""
        for rule in self.error_rules:
            if status in rule.statuses and rule.words.search(message):
                return rule.kind
        return judge_by_status(status, message, error)
