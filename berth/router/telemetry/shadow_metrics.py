"""Metrics of shadows, over all of them since boot. What never happened is left out."""

from collections.abc import Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from berth.ipc.shadow import PLACES, Counts, Result, Skip


def shadow_metrics(totals: Mapping[str, Counts]) -> Iterator[Metric]:
    """`totals`: by model."""
    text = "Requests whose answer was compared with another replica's, by what was found."
    compared = CounterMetricFamily("berth_shadow", text, labels=("model", "result"))
    text = "Requests chosen for that and not compared, by the reason."
    skipped = CounterMetricFamily("berth_shadow_skipped", text, labels=("model", "reason"))
    for model, counts in totals.items():
        for metric, kind, values in ((compared, "result", Result), (skipped, "skipped", Skip)):
            for value in values:
                if count := counts[PLACES[f"{kind} {value}"]]:
                    metric.add_metric((model, value.value), count)
    yield from (compared, skipped)
