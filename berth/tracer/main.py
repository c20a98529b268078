"""The program `berth tracer`, a child of supervisord where traces are wanted."""

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from berth import __version__
from berth.errors import ControlError
from berth.ipc.journal import Names, Reader
from berth.ipc.key_poll import KeyPoll
from berth.ipc.reserved_file import write
from berth.log import configure, log
from berth.plan import Keys, Plan, Tracing, read_keys, read_plan
from berth.processes import channel, follow_supervisor
from berth.state import TracerState
from berth.tracer.spans import Spans

READ_S: Final = 0.5
QUEUED: Final = 8192  # spans that wait for the collector; then the oldest ones are dropped
BATCH: Final = 512
LAST_S: Final = 1.0  # for the spans that are left at the end


class Outbox:
    """The spans that wait, sent by a thread of its own: a silent collector holds up nothing but that."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._waiting: deque[ReadableSpan] = deque()
        self._lock = threading.Lock()
        self._filled, self._closing = threading.Event(), False
        self.sent = self.dropped = 0
        self._failing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, spans: Sequence[ReadableSpan]) -> None:
        with self._lock:
            self._waiting.extend(spans)
            for _ in range(len(self._waiting) - QUEUED):
                self._waiting.popleft()
                self.dropped += 1
        if spans:
            self._filled.set()

    def close(self, timeout_s: float) -> None:
        """Sends what is left, within that time."""
        self._closing = True
        self._filled.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._filled.wait()
            self._filled.clear()
            while self._waiting:
                with self._lock:
                    batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                self._send(batch)
            if self._closing:
                return

    def _send(self, batch: Sequence[ReadableSpan]) -> None:
        is_sent = self._exporter.export(batch) is SpanExportResult.SUCCESS
        with self._lock:
            self.sent += len(batch) if is_sent else 0
            self.dropped += 0 if is_sent else len(batch)
        if is_sent is self._failing:
            self._failing = not is_sent
            write_event = log.info if is_sent else log.warning
            write_event("collector reachable again" if is_sent else "collector unreachable, spans dropped")


class Tracer:
    """Of one plan. `read` is called a few times a second."""

    def __init__(self, plan: Plan, keys: Keys, exporter: SpanExporter, resource: Resource) -> None:
        self._plan = plan
        self._keys = KeyPoll(plan, keys)
        self._path = plan.paths.tracer
        self._reader = Reader(plan.paths.journal, Names(plan, keys.names()), attempts=True)
        self._spans = Spans(plan, resource)
        self._written = TracerState()
        self._missed = 0
        self.outbox = Outbox(exporter)
        self._reader.new()  # what was before has been sent, or lost, by the tracer before

    def read(self) -> None:
        """The spans of what has ended since the last time, and the state for /metrics."""
        if self._keys.changed():
            self._reader.names = Names(self._plan, self._keys.current.names())
        records, missed = self._reader.new()
        self._missed += missed
        self.outbox.put([span for record in records for span in self._spans.of(record)])
        state = TracerState(sent=self.outbox.sent, dropped=self.outbox.dropped + self._missed)
        if state != self._written:
            with suppress(OSError):  # a full disk: the next time
                write(self._path, msgspec.json.encode(state))
                self._written = state


def serve(run_dir: str) -> int:
    """Runs until SIGTERM. ControlError without a readable plan, or with one without traces."""
    plan, keys = read_plan(run_dir), read_keys(run_dir)
    if plan.tracing is None:
        raise ControlError("this plan has no traces: set OTEL_EXPORTER_OTLP_ENDPOINT and start Berth again")
    output = channel(plan.paths, "tracer")
    configure(program="tracer", log_format=plan.logs.format, level=plan.logs.level, channel=output)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a traceback for each batch
    os.environ.update(keys.otel)  # for the SDK, which has no other way for most of them
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    follow_supervisor(plan.paths)
    run(plan, keys, exporter_of(plan.tracing), stop.wait)
    return 0


def run(plan: Plan, keys: Keys, exporter: SpanExporter, wait: Callable[[float], bool]) -> None:
    """Until `wait` returns True."""
    tracer = Tracer(plan, keys, exporter, Resource.create({"service.version": __version__}))
    log.info("tracer started")
    while not wait(READ_S):
        tracer.read()
    tracer.read()
    tracer.outbox.close(LAST_S)
    tracer.read()


def exporter_of(wanted: Tracing) -> SpanExporter:
    return OTLPSpanExporter(endpoint=wanted.endpoint)
