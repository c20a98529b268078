"""Metrics of what control does with models: loads, wakes, drains and unloads, and what each start consisted of."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from berth.plan import Plan
from berth.state import State


def residency_metrics(plan: Plan, state: State) -> Iterator[Metric]:
    labels = ("model", "change", "why")
    count = CounterMetricFamily("berth_model_changes", "Loads, unloads and the like, by their cause.", labels=labels)
    taken = CounterMetricFamily("berth_model_change_seconds", "The time that they have taken.", labels=labels)
    for one in state.changes:
        values = (one.model, one.change.value, one.why.value)
        count.add_metric(values, one.count)
        taken.add_metric(values, one.seconds)
    held = GaugeMetricFamily(
        "berth_memory_not_free", "1: the replica waits for GPU memory that others hold.", labels=("replica", "model")
    )
    phases = GaugeMetricFamily(
        "berth_replica_start_seconds", "Phases of the last start.", labels=("replica", "model", "phase")
    )
    models = {replica.name: replica.model for replica in plan.replicas}
    for replica in state.replicas:
        held.add_metric((replica.name, models[replica.name]), bool(replica.memory_not_free))
        for phase, seconds in replica.start_phases.items():
            phases.add_metric((replica.name, models[replica.name], phase), seconds)
    text = "Share of the conversations that a migration's candidate gets."
    canary = GaugeMetricFamily("berth_canary_ratio", text, labels=("model", "replica"))
    for candidate in state.canaries:
        canary.add_metric((candidate.model, candidate.replica), candidate.share)
    text = "RAM for the weights of models that sleep: what they hold, and what all of them may hold."
    ram = GaugeMetricFamily("berth_sleep_ram_bytes", text, labels=("kind",))
    if state.host.sleep_budget_bytes is not None:
        ram.add_metric(("held",), sum(one.sleep_ram_bytes for one in state.replicas))
        ram.add_metric(("budget",), state.host.sleep_budget_bytes)
    yield from (count, taken, held, phases, canary, ram)
