"""Records of the journal as spans.

A request is a span of the kind SERVER, child of the client's; its time in the queue, if there was one, and each attempt
are children of it: attempts are of the kind CLIENT, and parents of the engine's own spans. They have names, numbers and
times, and no content.
"""

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from berth import __version__
from berth.canonical import Operation
from berth.ipc.journal import Record, attempt_id
from berth.plan import Plan, Replica

Attributes = Mapping[str, str | int | float | bool]

# Names of OpenTelemetry's conventions for generative AI, of this version.
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.38.0"
OPERATIONS: Final[Mapping[str, str]] = {
    Operation.CHAT: "chat",
    Operation.COMPLETION: "text_completion",
    Operation.EMBEDDING: "embeddings",
}
PROVIDERS: Final[Mapping[str, str]] = {"trtllm": "tensorrt_llm", "openai-cloud": "openai"}

QUEUE_S: Final = 0.001  # a shorter time in the queue has no span
_QUEUE_NUMBER: Final = 0xFFFF_FFFF  # of its span: attempts count from 1
_OK: Final = frozenset(
    {"ok", "client", "stopped", "unsupported", "preempted"}
)  # outcomes that are no fault of the engine


class Spans:
    """Of one plan."""

    def __init__(self, plan: Plan, resource: Resource) -> None:
        self._replicas = {replica.name: replica for replica in plan.replicas}
        self._resource = resource
        self._scope = InstrumentationScope("berth", __version__, SCHEMA_URL)

    def of(self, record: Record) -> Iterator[ReadableSpan]:
        """None for a request that is not sampled."""
        trace = record.trace
        if not trace.sampled:
            return
        if "attempt" in record.flags:
            name = f"{_operation(record)} {record.model}"
            yield self._span(name, record, SpanKind.CLIENT, _attempt(record, self._replicas.get(record.replica)))
            return
        if (attempt := record.only_attempt()) is not None:
            yield from self.of(attempt)
        yield self._span(f"{record.api} {record.operation}", record, SpanKind.SERVER, _request(record))
        if record.queue_s > QUEUE_S:
            yield self._queue(record)

    def _span(self, name: str, record: Record, kind: SpanKind, attributes: Attributes) -> ReadableSpan:
        trace = record.trace
        is_remote = kind is SpanKind.SERVER  # the parent is the client's
        return ReadableSpan(
            name=name,
            context=_context(trace.trace_id, trace.span_id),
            parent=_context(trace.trace_id, trace.parent_id, is_remote=is_remote) if any(trace.parent_id) else None,
            resource=self._resource,
            instrumentation_scope=self._scope,
            attributes=attributes,
            kind=kind,
            status=Status(StatusCode.ERROR) if "error.type" in attributes else Status(StatusCode.UNSET),
            start_time=round(record.start * 1e9),
            end_time=round((record.start + record.duration_s) * 1e9),
        )

    def _queue(self, record: Record) -> ReadableSpan:
        """Where a request was in the queue several times, the sum, from its start on."""
        trace = record.trace
        return ReadableSpan(
            name="queue",
            context=_context(trace.trace_id, attempt_id(trace.span_id, _QUEUE_NUMBER)),
            parent=_context(trace.trace_id, trace.span_id),
            resource=self._resource,
            instrumentation_scope=self._scope,
            kind=SpanKind.INTERNAL,
            start_time=round(record.start * 1e9),
            end_time=round((record.start + record.queue_s) * 1e9),
        )


def _context(trace_id: bytes, span_id: bytes, *, is_remote: bool = False) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int.from_bytes(trace_id), int.from_bytes(span_id), is_remote, flags)


def _operation(record: Record) -> str:
    return OPERATIONS.get(record.operation, record.operation)


def _request(record: Record) -> Attributes:
    found: dict[str, str | int | float | bool] = {
        "http.request.method": "POST",
        "http.response.status_code": record.status,
        "berth.api": record.api,
        "berth.operation": record.operation,
        "berth.model": record.model,
        "berth.key": record.key,
        "berth.request": record.request_id,
        "berth.attempts": record.attempts,
        "berth.replica": record.replica,
        "berth.fallback": "fallback" in record.flags,
        "berth.continued": "continued" in record.flags,
    }
    if "continued" in record.flags:
        found["berth.continued_at_token"] = record.moved_at_token
    if record.status >= 500 or "broken" in record.flags:
        found["error.type"] = record.error_code or str(record.status)
    return found


def _attempt(record: Record, replica: Replica | None) -> Attributes:
    found: dict[str, str | int | float | bool] = {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.request.stream": "stream" in record.flags,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "berth.replica": record.replica,
        "berth.attempt": record.attempts,
        "berth.outcome": record.error_code,
        "berth.fallback": "fallback" in record.flags,
        "berth.continuation": "continued" in record.flags,
    }
    if record.first_token_s is not None:
        found["gen_ai.response.time_to_first_chunk"] = record.first_token_s
    if replica is not None:
        address = urlsplit(replica.url)
        found["gen_ai.provider.name"] = PROVIDERS.get(replica.kind, replica.kind)
        found["server.address"] = replica.socket_path or address.hostname or ""
        if not replica.socket_path and address.port:
            found["server.port"] = address.port
    if record.error_code not in _OK:
        found["error.type"] = record.error_code
    return found
