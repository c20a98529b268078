"""What /metrics shows of loads and unloads."""

from dataclasses import replace

from berth.plan import Launch
from berth.router.telemetry.residency_metrics import residency_metrics
from berth.state import Canary, Cause, ChangeKind, HostState, ModelChanges, ReplicaStatus, State
from tests.fakes.plans import make_plan, make_replica
from tests.fakes.router import replica_state


def test_shows_changes_by_cause_and_the_phases_of_a_start() -> None:
    plan = make_plan("/run", make_replica("chat-a", launch=Launch(argv=("x",))))
    swap = ModelChanges(model="chat", change=ChangeKind.UNLOAD, why=Cause.SWAP, count=3, seconds=4.5)
    ready = replace(
        replica_state("chat-a", ReplicaStatus.READY), start_phases={"load": 2.5, "graphs": 1.0}, sleep_ram_bytes=4
    )
    state = State(sequence=1, published_at=0, control_pid=1, replicas=(ready,), changes=(swap,))
    canary = Canary(model="chat", replica="chat-a", share=0.25, salt="1")
    state = replace(state, canaries=(canary,), host=HostState(sleep_budget_bytes=9))

    shown = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in residency_metrics(plan, state)
        for sample in metric.samples
    }

    assert shown == {
        ("berth_model_changes_total", "chat", "unload", "swap"): 3,
        ("berth_model_change_seconds_total", "chat", "unload", "swap"): 4.5,
        ("berth_canary_ratio", "chat", "chat-a"): 0.25,
        ("berth_memory_not_free", "chat-a", "chat"): 0,
        ("berth_sleep_ram_bytes", "held"): 4,
        ("berth_sleep_ram_bytes", "budget"): 9,
        ("berth_replica_start_seconds", "chat-a", "chat", "load"): 2.5,
        ("berth_replica_start_seconds", "chat-a", "chat", "graphs"): 1,
    }
