"""Metrics of clients by the names of their keys, or by numbers (BERTH_METRICS_KEY_LABELS). What never happened is left
out: most clients use few models.
"""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

from berth.ipc.key_counters import (
    CACHED,
    CHARGED,
    CLASSES,
    COMPLETION,
    KEY_WIDTH,
    LIMITED,
    LIMITS,
    PROMPT,
    USE_WIDTH,
    WAIT_S,
    WAITS,
)
from berth.plan import Keys, Plan
from berth.plan.keys import OPEN
from berth.router.telemetry.key_board import KeyBoard

_KINDS = (("prompt", PROMPT), ("cached", CACHED), ("completion", COMPLETION))


def key_metrics(plan: Plan, keys: Keys, board: KeyBoard) -> Iterator[Metric]:
    slots = {**keys.retired, **{key.name: key.slot for key in keys.api_keys}}
    names = {slot: _label(name, slot, named=plan.metrics_key_labels) for name, slot in slots.items()}
    names[OPEN.slot] = OPEN.name
    by_model = ("key", "model")
    requests = CounterMetricFamily("berth_key_requests", "Requests of a key.", labels=(*by_model, "status"))
    tokens = CounterMetricFamily("berth_key_tokens", "Tokens of a key's requests.", labels=(*by_model, "kind"))
    limited = CounterMetricFamily("berth_key_limited", "Requests that a limit rejected.", labels=("key", "limit"))
    waits = SummaryMetricFamily("berth_key_queue_wait_seconds", "Time that requests waited.", labels=("key",))
    running = GaugeMetricFamily("berth_key_requests_in_flight", "Requests being served.", labels=("key",))
    for slot, name in sorted(names.items()):
        at = slot * KEY_WIDTH
        for number, limit in enumerate(LIMITS):
            if count := board.total(at + LIMITED + number):
                limited.add_metric((name, limit), count)
        if slot:
            waits.add_metric((name,), int(board.total(at + WAITS)), board.total(at + WAIT_S))
            running.add_metric((name,), board.in_flight(slot))
        for number, route in enumerate(plan.routes):
            use = board.shape.uses + (slot * board.shape.routes + number) * USE_WIDTH
            for place, status in enumerate(CLASSES):
                if count := board.total(use + place):
                    requests.add_metric((name, route.name, status), count)
            for kind, place in _KINDS:
                if count := board.total(use + place):
                    tokens.add_metric((name, route.name, kind), count)
    yield from (requests, tokens, limited, waits, running, budget_metric(keys, board, named=plan.metrics_key_labels))


def budget_metric(keys: Keys, board: KeyBoard, *, named: bool = True) -> Metric:
    text = "Share of a budget of tokens that is used."
    metric = GaugeMetricFamily("berth_key_budget_used_ratio", text, labels=("key", "period"))
    for key in keys.api_keys:
        used = board.total(key.slot * KEY_WIDTH + CHARGED)
        for limit, since, period in key.budgets:
            metric.add_metric((_label(key.name, key.slot, named=named), period), max(used - since, 0.0) / limit)
    return metric


def _label(name: str, slot: int, *, named: bool) -> str:
    return name if named else str(slot)
