"""What happens per second: differences of the workers' shared counters between two moments. Pure.

Tokens are live: those of the streams in progress count by their frames until the engine reports the exact number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from berth.canonical import Operation
from berth.plan import Plan
from berth.router.telemetry.metrics import STATUSES
from berth.router.telemetry.shared_counters import Layout
from berth.state import EngineLoad, State

_FIRST_TOKEN: Final = "berth_time_to_first_token_seconds"  # noqa: S105 - no password
_TOKENS: Final = "berth_tokens"

Buckets = tuple[float, ...]  # counts, each up to one of the upper bounds; the last one is of all above them


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """So far."""

    requests: float
    errors: float  # of Berth and its engines, and streams that broke
    prompt_tokens: float
    generated_tokens: float
    first_token: Buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The counters at one moment."""

    at: float  # time.monotonic()
    models: Mapping[str, ModelCounts]
    in_flight: Mapping[str, int]  # by model
    queued: Mapping[str, int]  # by model
    on_replica: Mapping[str, int]


class Sampler:
    """The slots of each number are looked up once."""

    def __init__(self, plan: Plan, layout: Layout) -> None:
        slots = layout.slots
        self._names = [route.name for route in plan.routes]
        self._replicas = {
            one.name: slots["berth_replica_requests_in_flight", one.name, one.engine.value] for one in plan.replicas
        }
        statuses = [(operation.value, status) for operation in Operation for status in STATUSES]
        self._requests, self._errors = (
            {
                name: [slots["berth_requests", name, kind, str(status)] for kind, status in statuses if status >= least]
                for name in self._names
            }
            for least in (0, 500)
        )
        for name in self._names:
            self._errors[name] += [slot for key, slot in slots.items() if key[:2] == ("berth_streams_broken", name)]
        self._slots = slots
        self.bounds = layout.families[_FIRST_TOKEN].buckets  # of the time to the first token

    def sample(self, sums: Sequence[float], at: float) -> Sample:
        """`sums`: of all workers."""
        slots = self._slots
        models = {}
        for name in self._names:
            first = slots[_FIRST_TOKEN, name]
            models[name] = ModelCounts(
                requests=sum(sums[slot] for slot in self._requests[name]),
                errors=sum(sums[slot] for slot in self._errors[name]),
                prompt_tokens=sums[slots[_TOKENS, name, "prompt"]],
                generated_tokens=sums[slots[_TOKENS, name, "completion"]]
                + sums[slots["berth_tokens_in_progress", name]],
                first_token=tuple(sums[first : first + len(self.bounds) + 1]),
            )
        return Sample(
            at=at,
            models=models,
            in_flight={name: int(sums[slots["berth_requests_in_flight", name]]) for name in self._names},
            queued={name: int(sums[slots["berth_queue_length", name]]) for name in self._names},
            on_replica={name: int(sums[slot]) for name, slot in self._replicas.items()},
        )


def model_rates(before: Sample, after: Sample, bounds: Buckets) -> dict[str, dict[str, Any]]:
    """By model, as in the event `traffic`. Rates are 0 where both samples are one. `bounds`: those of a Sampler."""
    seconds, rates = after.at - before.at, {}

    def per_s(count: float, since: float) -> float:
        return round(max(0.0, count - since) / seconds, 2) if seconds > 0 else 0.0

    for name, new in after.models.items():
        old = before.models[name]
        first_token = tuple(b - a for a, b in zip(old.first_token, new.first_token, strict=True))
        rates[name] = {
            "in_flight": after.in_flight[name],
            "queue": after.queued[name],
            "requests_s": per_s(new.requests, old.requests),
            "errors_s": per_s(new.errors, old.errors),
            "tokens_in_s": per_s(new.prompt_tokens, old.prompt_tokens),
            "tokens_out_s": per_s(new.generated_tokens, old.generated_tokens),
            "ttft_p50_s": quantile(first_token, bounds, 0.5),
            "ttft_p95_s": quantile(first_token, bounds, 0.95),
        }
    return rates


def traffic(before: Sample, after: Sample, bounds: Buckets, state: State | None) -> dict[str, Any]:
    """The event `traffic`, without what it says of the host. What is None is not known."""
    loads = {one.name: one.load or EngineLoad() for one in state.replicas} if state else {}
    return {
        "models": model_rates(before, after, bounds),
        "replicas": {
            name: {"in_flight": number, "kv": load.kv_usage, "running": load.running, "waiting": load.waiting}
            for name, number in after.on_replica.items()
            for load in (loads.get(name, EngineLoad()),)
        },
        "gpus": [
            {
                "index": gpu.index,
                "used": gpu.memory_used_bytes,
                "total": gpu.memory_total_bytes,
                "busy": None if gpu.utilization_percent is None else gpu.utilization_percent / 100,
                "watts": gpu.power_watts,
                "celsius": gpu.temperature_celsius,
            }
            for gpu in (state.gpus if state else ())
        ],
    }


def quantile(counts: Buckets, bounds: Buckets, share: float) -> float | None:
    """Inside a bucket the values are taken to be spread evenly, as by Prometheus. None without values."""
    total = sum(counts)
    if total <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= share * total:
            return round(lower + (bound - lower) * (share * total - below) / count, 4)
        below, lower = below + count, bound
    return lower
