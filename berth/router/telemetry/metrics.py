"""The router's metrics, and /metrics: the sums of all workers in Prometheus' text format.

Nothing is counted per token: the frames and tokens of a stream are added once, when it ends.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from berth import __version__
from berth.canonical import Operation
from berth.ipc.journal import BROKEN
from berth.ipc.key_counters import CACHED, COMPLETION, FAILED, PROMPT, RATE_LIMITED, REJECTED, SUCCEEDED, USE_WIDTH
from berth.notices import Notice
from berth.plan import Plan, Replica
from berth.router.exchange.outcomes import FAILED_ATTEMPTS, ContinuationBlocker, Outcome, Preemption
from berth.router.exchange.request import CLIENT_GONE, RequestContext
from berth.router.telemetry.engine_metrics import engine_metrics, tracer_metrics
from berth.router.telemetry.host_metrics import host_metrics, notice_metric
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.quantiles import BOUNDS, QUANTITIES, SKETCHES, WIDTH, Latest, quantile_metrics, sketches
from berth.router.telemetry.residency_metrics import residency_metrics
from berth.router.telemetry.shared_counters import Family, Layout, Scoreboard
from berth.router.telemetry.status import is_away
from berth.state import ReplicaState, ReplicaStatus, State

# Of all APIs: TGI has 422 and 424, Anthropic 529.
STATUSES = (
    *(200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 424, 426, 429, CLIENT_GONE),
    *(500, 501, 502, 503, 508, 529),
)
TOKENS = ("prompt", "completion", "cached")
NO_MODEL = ""  # the label of requests whose model is unknown

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_REQUESTS = "berth_requests"
_ATTEMPTS = "berth_attempts"
_FALLBACKS = "berth_fallbacks"
_BROKEN = "berth_streams_broken"
_CONTINUED = "berth_streams_continued"
_PREEMPTED = "berth_requests_preempted"
_FRAMES = "berth_stream_frames"
_TOKENS = "berth_tokens"
_IN_FLIGHT = "berth_requests_in_flight"
_ON_REPLICA = "berth_replica_requests_in_flight"
_FIRST_TOKEN = "berth_time_to_first_token_seconds"  # noqa: S105 - no password
_DURATION = "berth_request_duration_seconds"
_QUEUED = "berth_queue_length"
_QUEUE_WAIT = "berth_queue_wait_seconds"
_REJECTED = "berth_queue_refused"
_IN_PROGRESS = "berth_tokens_in_progress"
_BODIES = "berth_request_bodies_bytes"
_RULES = "berth_rule_matches"
_SPARSE = frozenset({_REQUESTS})


class Rejection(StrEnum):
    """Why a request got no slot."""

    FULL = "full"  # the queue is full
    TIMEOUT = "timeout"


def layout(plan: Plan) -> Layout:
    """The numbers that the workers of this plan share. It is the same for all workers of a plan and version."""
    models = [route.name for route in plan.routes]
    names = tuple((name,) for name in models)
    replicas = tuple((replica.name, replica.engine.value) for replica in plan.replicas)
    requests = tuple(
        (name, operation.value, str(status))
        for name in (*models, NO_MODEL)
        for operation in Operation
        for status in STATUSES
    )
    attempts = tuple((*replica, outcome.value) for replica in replicas for outcome in Outcome)
    broken = tuple((name, blocker.value) for name in models for blocker in ContinuationBlocker)
    preempted = tuple((name, one.value) for name in models for one in Preemption)
    tokens = tuple((name, kind) for name in models for kind in TOKENS)
    rules = tuple((rule.name,) for rule in plan.rules)
    rejected = tuple((name, rejection.value) for name in models for rejection in Rejection)
    return Layout(
        (
            _counter(_REQUESTS, "Requests with a response.", ("model", "operation", "status"), requests),
            _counter(_ATTEMPTS, "Requests to engines.", ("replica", "engine", "outcome"), attempts),
            _counter(_FALLBACKS, "Requests that were sent to another replica.", ("replica", "engine"), replicas),
            _counter(_BROKEN, "Streams that ended with an error after they had begun.", ("model", "reason"), broken),
            _counter(_CONTINUED, "Streams that a replica continued after a cut.", ("model",), names),
            _counter(_PREEMPTED, "Requests whose engine made room meanwhile.", ("model", "outcome"), preempted),
            _counter(_FRAMES, "Frames of streams sent to clients.", ("replica", "engine"), replicas),
            _counter(_TOKENS, "Tokens, as the engines reported them.", ("model", "kind"), tokens),
            _gauge(_IN_FLIGHT, "Requests being served.", ("model",), names),
            _gauge(_ON_REPLICA, "Requests being served by a replica.", ("replica", "engine"), replicas),
            _gauge(_QUEUED, "Requests in the queue.", ("model",), names),
            _counter(_REJECTED, "Requests that the queue rejected.", ("model", "reason"), rejected),
            _gauge(_IN_PROGRESS, "Tokens so far of the streams in progress, by their frames.", ("model",), names),
            _gauge(_BODIES, "Memory that the bodies of requests take, by an estimate.", (), ((),)),
            _counter(_RULES, "Requests that a rule of BERTH_ROUTES decided.", ("rule",), rules),
            sketches(plan),
            _histogram(_QUEUE_WAIT, "Time in the queue, of the requests that were queued.", names),
            _histogram(_FIRST_TOKEN, "From a streamed request to the first token of its response.", names),
            _histogram(_DURATION, "From a request to the end of its response.", names),
        )
    )


class Meter:
    """Counts into this worker's row. The slot of each number is looked up once: requests are many."""

    def __init__(self, board: Scoreboard, keys: KeyBoard) -> None:
        self._board = board
        self.keys = keys
        self._row = board.row
        by_family: dict[str, dict[tuple[str, ...], int]] = {}
        for (family, *values), slot in board.layout.slots.items():
            by_family.setdefault(family, {})[tuple(values)] = slot
        self._requests = {
            (model, operation, int(status)): slot for (model, operation, status), slot in by_family[_REQUESTS].items()
        }
        self._attempts = {
            (replica, outcome): slot for (replica, _engine, outcome), slot in by_family[_ATTEMPTS].items()
        }
        self._fallbacks, self._frames, self._on_replica = (
            {replica: slot for (replica, _engine), slot in by_family[family].items()}
            for family in (_FALLBACKS, _FRAMES, _ON_REPLICA)
        )
        self._broken = {(model, blocker): slot for (model, blocker), slot in by_family[_BROKEN].items()}
        self._preempted = {(model, one): slot for (model, one), slot in by_family[_PREEMPTED].items()}
        self._rejected = {(model, reason): slot for (model, reason), slot in by_family[_REJECTED].items()}
        continued, self._in_flight, first_token, duration, self._queued, self._queue_wait = (
            {model: slot for (model,), slot in by_family[family].items()}
            for family in (_CONTINUED, _IN_FLIGHT, _FIRST_TOKEN, _DURATION, _QUEUED, _QUEUE_WAIT)
        )
        self._sketches = {
            replica: slot for (replica, quantity), slot in by_family[SKETCHES].items() if quantity == QUANTITIES[0]
        }
        self._rules = {rule: slot for (rule,), slot in by_family.get(_RULES, {}).items()}
        self._in_progress = {model: slot for (model,), slot in by_family[_IN_PROGRESS].items()}
        shape, routes = keys.shape, by_family[_IN_FLIGHT]  # in the order of Plan.routes
        self._use_step = shape.routes * USE_WIDTH
        self._bodies = by_family[_BODIES][()]
        # by model, what each of its requests counts into: one look-up for all of them
        self._of_model = {
            model: (
                *(shape.uses + number * USE_WIDTH, *(by_family[_TOKENS][model, kind] for kind in TOKENS)),
                *(self._in_progress[model], continued[model], first_token[model], duration[model]),
            )
            for number, (model,) in enumerate(routes)
        }

    def observe(self, ctx: RequestContext) -> float:
        """Everything about a request that is over. Returns its duration in seconds, from its acceptance on."""
        row, operation = self._row, ctx.request.operation if ctx.accepted else ctx.api.operation
        row[self._requests[ctx.model, operation, ctx.status if ctx.status in STATUSES else 500]] += 1
        if not ctx.accepted:
            return 0.0
        usage, use, status, first_s = ctx.usage, self.keys.row, ctx.status, ctx.first_token_s
        uses, prompt, completion, cached, in_progress, continued, first_token, duration = self._of_model[ctx.model]
        row[in_progress] -= ctx.live_tokens  # from now on the exact number counts
        at, duration_s = uses + ctx.key.slot * self._use_step, (ctx.ended or time.monotonic()) - ctx.since
        kind = SUCCEEDED if status < 400 else RATE_LIMITED if status == 429 else REJECTED if status < 500 else FAILED
        use[at + kind] += 1
        use[at + PROMPT] += usage.prompt_tokens
        use[at + COMPLETION] += usage.completion_tokens
        row[prompt] += usage.prompt_tokens
        row[completion] += usage.completion_tokens
        if usage.cached_tokens:
            use[at + CACHED] += usage.cached_tokens
            row[cached] += usage.cached_tokens
        row[continued] += ctx.continued
        if ctx.rule is not None:
            row[self._rules[ctx.rule.name]] += 1
        if first_s is not None:
            self._add(first_token, first_s)
        self._add(duration, duration_s)
        if ctx.served_by is not None and status < 400 and not ctx.flags & BROKEN:
            sketch = self._sketches[ctx.served_by.name]
            row[sketch + 2 * WIDTH + bisect_left(BOUNDS, duration_s)] += 1
            if first_s is not None:
                row[sketch + bisect_left(BOUNDS, first_s)] += 1
                if (tokens := usage.completion_tokens or ctx.frames) > 1:
                    row[sketch + WIDTH + bisect_left(BOUNDS, (duration_s - first_s) / (tokens - 1))] += 1
        return duration_s

    def in_flight(self, model: str, change: int) -> None:
        self._row[self._in_flight[model]] += change

    def attempt(self, replica: Replica, outcome: Outcome) -> None:
        self._row[self._attempts[replica.name, outcome]] += 1

    def fallback(self, replica: Replica) -> None:
        self._row[self._fallbacks[replica.name]] += 1

    def broken_stream(self, model: str, blocker: ContinuationBlocker) -> None:
        self._row[self._broken[model, blocker]] += 1

    def preempted(self, model: str, outcome: Preemption) -> None:
        self._row[self._preempted[model, outcome]] += 1

    def frames(self, replica: Replica, frames: int) -> None:
        self._row[self._frames[replica.name]] += frames

    def on_replica(self, replica: Replica, change: int) -> None:
        self._row[self._on_replica[replica.name]] += change

    def queued(self, model: str, change: int) -> None:
        self._row[self._queued[model]] += change

    def bodies(self, used_bytes: int) -> None:
        self._row[self._bodies] = used_bytes

    def in_progress(self, tokens: Mapping[str, int]) -> None:
        """The tokens so far of this worker's streams, by model. They count until their requests are over."""
        for model, slot in self._in_progress.items():
            self._row[slot] = tokens.get(model, 0)

    def waited(self, model: str, seconds: float) -> None:
        self._add(self._queue_wait[model], seconds)

    def rejected(self, model: str, rejection: Rejection) -> None:
        self._row[self._rejected[model, rejection]] += 1

    # over all workers

    def load(self, replica: Replica) -> float:
        """The requests that it serves, of all workers."""
        return self._sum(self._on_replica[replica.name])

    def own_load(self, replica: Replica) -> float:
        """The requests that it serves, of this worker."""
        return self._row[self._on_replica[replica.name]]

    def traffic(self, plan: Plan) -> list[int]:
        """What this worker reports to control: see berth.ipc.traffic."""
        row, replicas = self._row, plan.replicas
        loads = [row[self._on_replica[replica.name]] for replica in replicas]
        attempts, failures, unfit = (
            [sum([row[self._attempts[one.name, outcome]] for outcome in counted]) for one in replicas]
            for counted in (Outcome, FAILED_ATTEMPTS, (Outcome.UNFIT,))
        )
        waiting = [row[self._queued[one.name]] for one in plan.models]
        return [int(number) for number in (*loads, *attempts, *waiting, *failures, *unfit)]

    def queue_length(self, model: str) -> int:
        """The queued requests, of all workers."""
        return int(self._sum(self._queued[model]))

    def decided(self, rule: str) -> int:
        """The requests that a rule decided, of all workers."""
        slot = self._rules[rule]
        return int(sum(self._board.sums(slice(slot, slot + 1))))

    def other_queues(self, model: str) -> int:
        """The number of other workers with queued requests."""
        slot = self._queued[model]
        return sum(row[slot] > 0 for row in self._board.others)

    def _sum(self, slot: int) -> float:
        total = 0.0
        for row in self._board.live:
            total += row[slot]
        return total

    def _add(self, slot: int, seconds: float) -> None:
        """To a histogram."""
        self._row[slot + bisect_left(_SECONDS, seconds)] += 1
        self._row[slot + len(_SECONDS) + 1] += seconds


def exposition(
    plan: Plan,
    board: Scoreboard,
    state: State | None,
    statuses: Mapping[str, ReplicaState],
    clients: Sequence[Metric] = (),
    *,
    oldest_request_s: float = 0.0,
    queued_s: Mapping[str, float] = MappingProxyType({}),
    found: Sequence[Notice] = (),
    latest: Latest | None = None,
) -> bytes:
    """The body of /metrics. `clients`: what there is about keys and shadows; `found`: what needs attention; `queued_s`:
    the oldest request in each queue, by public name.
    """
    sums, workers = board.totals()
    families = [family for family in board.layout.families.values() if family.kind != "sketch"]
    metrics = [_metric(family, sums, board.layout.slots) for family in families]
    if latest is not None:
        metrics += quantile_metrics(plan, latest, state.canaries if state else ())
    metrics.append(_single("berth_router_workers", "Router workers alive.", workers))
    text = "Age of the oldest request in progress; 0 if none has lasted for a second."
    metrics.append(_single("berth_oldest_request_seconds", text, oldest_request_s))
    text = "Age of the oldest request in the queue; 0 if none has lasted for a second."
    queued = GaugeMetricFamily("berth_queue_oldest_seconds", text, labels=("model",))
    for route in plan.models:
        names = {route.name, *(one.name for one in plan.routes if one.base == route.name)}
        queued.add_metric((route.name,), max((queued_s.get(name, 0.0) for name in names), default=0.0))
    metrics += [queued, notice_metric(found)]
    build = GaugeMetricFamily("berth_build_info", "The version of Berth.", labels=("version",))
    build.add_metric((__version__,), 1)
    return text_of([*metrics, build, *_from_state(plan, state, statuses), *engine_metrics(plan, statuses), *clients])


def text_of(metrics: Sequence[Metric]) -> bytes:
    """In Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(metrics))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def _metric(family: Family, sums: Sequence[float], slots: Mapping[tuple[str, ...], int]) -> Metric:
    slots_of = [(values, slots[family.name, *values]) for values in family.series]
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for values, slot in slots_of:
            total, buckets = 0.0, []
            numbers = sums[slot : slot + family.width]
            for bound, count in zip((*map(str, _SECONDS), "+Inf"), numbers, strict=False):
                total += count
                buckets.append((bound, total))
            histogram.add_metric(values, buckets, sum_value=numbers[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for values, slot in slots_of:
        if sums[slot] or family.name not in _SPARSE:  # most combinations never happen
            metric.add_metric(values, sums[slot])
    return metric


def _from_state(plan: Plan, state: State | None, statuses: Mapping[str, ReplicaState]) -> Iterator[Metric]:
    labels = ("replica", "model", "engine")
    ready = GaugeMetricFamily("berth_replica_ready", "1: the replica is ready.", labels=labels)
    restarts = CounterMetricFamily("berth_replica_restarts", "Restarts of the replica since boot.", labels=labels)
    for replica in plan.replicas:
        values = (replica.name, replica.model, replica.engine.value)
        ready.add_metric(values, statuses[replica.name].status is ReplicaStatus.READY)
        restarts.add_metric(values, statuses[replica.name].restarts)
    away = GaugeMetricFamily("berth_model_away", "1: the model was unloaded or put to sleep.", labels=("model",))
    for route in plan.models:
        away.add_metric((route.name,), is_away(route, statuses))
    yield from (ready, restarts, away)
    if plan.tracing is not None:
        yield from tracer_metrics(plan.paths.tracer)
    if state is not None:
        age_s = max(0.0, time.time() - state.published_at)
        yield _single("berth_state_age_seconds", "Since control published its state.", age_s)
        capturing = float(state.capture is not None)
        yield _single("berth_capture_active", "1: an operator has requests captured.", capturing)
        yield from host_metrics(plan, state)
        yield from residency_metrics(plan, state)


def _single(name: str, text: str, value: float) -> Metric:
    metric = GaugeMetricFamily(name, text)
    metric.add_metric((), value)
    return metric


def _counter(name: str, text: str, labels: tuple[str, ...], series: tuple[tuple[str, ...], ...]) -> Family:
    return Family(name=name, help=text, kind="counter", labels=labels, series=series)


def _gauge(name: str, text: str, labels: tuple[str, ...], series: tuple[tuple[str, ...], ...]) -> Family:
    return Family(name=name, help=text, kind="gauge", labels=labels, series=series)


def _histogram(name: str, text: str, series: tuple[tuple[str, ...], ...]) -> Family:
    return Family(name=name, help=text, kind="histogram", labels=("model",), series=series, buckets=_SECONDS)
