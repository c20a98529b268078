from dataclasses import replace

import pytest

from berth.router.telemetry.quantiles import QUANTITIES, Latest
from berth.router.telemetry.status import SILENT_S, STALE_S, Traffic, current, health, readiness, status
from berth.state import FULL_BYTES, AddedAdapter, Canary, GpuState, Progress, ReplicaState, ReplicaStatus, State
from tests.fakes.router import make_plan, replica, replica_state

PLAN = make_plan(
    "/run",
    [
        replica("chat-vllm", "http://127.0.0.1:1", launched=True),
        replica("chat-sglang", "http://127.0.0.1:1"),
        replica("embed-vllm", "http://127.0.0.1:1", launched=True),
    ],
)
STATUSES: dict[str, ReplicaState] = {
    "chat-vllm": replica_state("chat-vllm", ReplicaStatus.FAILED, reason="gone", last_lines=("a", "b"), restarts=5),
    "chat-sglang": replica_state("chat-sglang", ReplicaStatus.READY),
    "embed-vllm": replica_state("embed-vllm", ReplicaStatus.STARTING, progress=Progress(phase="load", percent=4.0)),
}
STATE = State(
    sequence=1,
    published_at=100.0,
    control_pid=7,
    replicas=tuple(STATUSES.values()),
    gpus=(
        GpuState(index=0, memory_used_bytes=5, memory_total_bytes=8),
        GpuState(index=9, memory_used_bytes=1, memory_total_bytes=2),
    ),
)


def test_status_shows_serving_replica_and_reasons_of_others() -> None:
    chat, embed = status(PLAN, STATE, STATUSES, now=101, traffic=Traffic())["models"]

    assert (chat["name"], chat["ready"], chat["serving"]) == ("chat", True, "chat-sglang")
    failed = chat["replicas"][0]
    assert (failed["status"], failed["reason"], failed["last_lines"]) == ("failed", "gone", ["a", "b"])
    assert (failed["attached"], chat["replicas"][1]["attached"]) == (False, True)
    assert (embed["ready"], embed["serving"]) == (False, None)
    assert embed["replicas"][0]["progress"]["percent"] == 4.0


def test_status_shows_traffic() -> None:
    traffic = Traffic(down=["chat-sglang"], loads={"chat-vllm": 3}, queues={"chat": 2})

    chat, _ = status(PLAN, STATE, STATUSES, now=101, traffic=traffic)["models"]

    assert [replica["reachable"] for replica in chat["replicas"]] == [True, False]
    assert [replica["in_flight"] for replica in chat["replicas"]] == [3, 0]
    assert chat["queue"] == {"length": 2, "size": PLAN.limits.queue_size}


def test_control_is_stale_without_new_state() -> None:
    fresh = status(PLAN, STATE, STATUSES, now=101, traffic=Traffic())["control"]
    old = status(PLAN, STATE, STATUSES, now=111, traffic=Traffic())["control"]

    assert fresh == {"reported": True, "stale": False, "age_s": 1.0, "pid": 7}
    assert old["stale"]


@pytest.mark.parametrize(
    ("near", "expected", "left"),
    [
        (ReplicaStatus.UNLOADED, 40.0, 40.0),
        (ReplicaStatus.STARTING, 40.0, 30.0),
        (ReplicaStatus.WAKING, 4.0, None),  # longer than ever
        (ReplicaStatus.READY, 40.0, None),
        (ReplicaStatus.STARTING, None, None),
    ],
)
def test_status_shows_how_long_a_load_takes(near: ReplicaStatus, expected: float | None, left: float | None) -> None:
    states = STATUSES | {"embed-vllm": replica_state("embed-vllm", near, expected_s=expected)}
    document = status(PLAN, STATE, states, now=11, traffic=Traffic())
    (shown,) = (one for model in document["models"] for one in model["replicas"] if one["name"] == "embed-vllm")
    assert (shown["expected_s"], shown["left_s"]) == (expected, left)


@pytest.mark.parametrize(
    ("phases", "how"),
    [
        ({"process": 0.4, "fork": 2.0, "load": 1.0}, "fork"),
        ({"process": 0.4, "fork": 2.0, "import": 9.0}, "load"),
        ({"process": 20.0, "load": 1.0}, "load"),
        ({"wake": 1.5}, "wake"),
    ],
)
def test_status_shows_how_a_replica_started(phases: dict[str, float], how: str) -> None:
    states = STATUSES | {"embed-vllm": replica_state("embed-vllm", ReplicaStatus.READY, start_phases=phases)}
    document = status(PLAN, STATE, states, now=11, traffic=Traffic())
    (shown,) = (one for model in document["models"] for one in model["replicas"] if one["name"] == "embed-vllm")
    assert shown["start"] == {"how": how, "seconds": round(sum(phases.values()), 2), "phases": phases}


def test_status_before_the_first_state() -> None:
    document = status(PLAN, None, STATUSES, now=0, traffic=Traffic())

    assert document["control"] == {"reported": False, "stale": True}
    assert document["gpus"] == []


def test_gpu_names_come_from_the_plan() -> None:
    known, unknown = status(PLAN, STATE, STATUSES, now=101, traffic=Traffic())["gpus"]

    assert (known["name"], known["uuid"], known["memory_used_bytes"]) == ("H200", "GPU-0", 5)
    assert (unknown["index"], unknown["name"]) == (9, "")


def test_readiness_of_all_models_or_one() -> None:
    everything, document = readiness(PLAN, STATUSES, None)

    assert not everything
    assert document["models"]["embed"] == {
        "ready": False,
        "serving": None,
        "phase": "load",
        "percent": 4.0,
        "replicas": {"embed-vllm": "starting"},
    }
    assert readiness(PLAN, STATUSES, "chat")[0]
    assert not readiness(PLAN, STATUSES, "embed")[0]


def test_readiness_names_the_fault_of_an_attached_server_and_no_address() -> None:
    states = dict(STATUSES)
    for reason, fault in (
        ("no connection: cannot connect to http://10.0.0.1:1", "no connection"),
        ("wrong key: the server refuses Berth's request: Invalid API Key", "wrong key"),
        ("not asked yet", "not asked yet"),
    ):
        states["chat-sglang"] = replica_state("chat-sglang", ReplicaStatus.UNHEALTHY, reason=reason)
        assert readiness(PLAN, states, "chat")[1]["models"]["chat"]["faults"] == {"chat-sglang": fault}


@pytest.mark.parametrize(
    ("first", "second", "phase"),
    [
        (ReplicaStatus.FAILED, ReplicaStatus.READY, "ready"),
        (ReplicaStatus.FAILED, ReplicaStatus.WAITING, "waiting"),
        (ReplicaStatus.FAILED, ReplicaStatus.STANDBY, "failed"),
        (ReplicaStatus.BACKOFF, ReplicaStatus.STANDBY, "backoff"),
        (ReplicaStatus.STARTING, ReplicaStatus.WAITING, "download"),
        (ReplicaStatus.STOPPING, ReplicaStatus.ASLEEP, "stopping"),
        (ReplicaStatus.STANDBY, ReplicaStatus.WAKING, "waking"),
    ],
)
def test_model_progress_is_that_of_the_replica_closest_to_ready(
    first: ReplicaStatus, second: ReplicaStatus, phase: str
) -> None:
    progress = Progress(phase="download", percent=42.5) if first is ReplicaStatus.STARTING else None
    states = {
        "chat-vllm": replica_state("chat-vllm", first, progress=progress),
        "chat-sglang": replica_state("chat-sglang", second),
    }
    chat = readiness(PLAN, STATUSES | states, "chat")[1]["models"]["chat"]
    assert (chat["phase"], chat["percent"]) == (phase, 42.5 if progress else None)


def test_health_degrades_when_control_is_silent() -> None:
    booting = replace(PLAN, created=1000)
    assert health(booting, None, now=1000 + SILENT_S) == {"status": "ok"}
    assert health(booting, None, now=1001 + SILENT_S)["status"] == "degraded"
    assert health(PLAN, STATE, now=100 + SILENT_S) == {"status": "ok"}
    assert "no state from control for 200 s" in health(PLAN, STATE, now=300)["reason"]


def test_an_ejected_replica_is_not_ready_while_control_is_silent() -> None:
    down = ["chat-sglang", "embed-vllm"]
    assert current(STATUSES, STATE, down, now=STATE.published_at + STALE_S) == STATUSES
    assert current(STATUSES, None, down, now=1000) == STATUSES
    stale = current(STATUSES, STATE, down, now=STATE.published_at + STALE_S + 1)
    assert stale["chat-sglang"].status is ReplicaStatus.UNHEALTHY
    assert "control is silent" in stale["chat-sglang"].reason
    assert {name: one for name, one in stale.items() if name != "chat-sglang"} == {
        name: one for name, one in STATUSES.items() if name != "chat-sglang"
    }
    assert not readiness(PLAN, stale, "chat")[0]
    assert readiness(PLAN, current(STATUSES, STATE, [], now=1000), "chat")[0]


@pytest.mark.parametrize(
    ("free_bytes", "full"), [(None, False), (0, True), (FULL_BYTES - 1, True), (FULL_BYTES, False)]
)
def test_status_shows_a_full_run_directory(free_bytes: int | None, full: bool) -> None:
    state = replace(STATE, run_dir_free_bytes=free_bytes)
    document = status(PLAN, state, STATUSES, now=101, traffic=Traffic())
    assert document["run_directory"] == {"path": "/run", "free_bytes": free_bytes, "full": full}


def test_what_serves_follows_the_order_of_a_migration() -> None:
    ready = {name: replica_state(name, ReplicaStatus.READY) for name in ("chat-vllm", "chat-sglang")}
    order = {"chat": ("chat-sglang", "chat-vllm")}
    canary = Canary(model="chat", replica="chat-sglang", share=0.25, salt="1")
    state = replace(STATE, orders=order, canaries=(canary,))

    (chat, *_) = status(PLAN, state, STATUSES | ready, now=101, traffic=Traffic())["models"]
    assert (chat["serving"], chat["canary"]["replica"], chat["canary"]["share"]) == ("chat-sglang", "chat-sglang", 0.25)
    assert chat["canary"]["latency"] is None
    places = {(one.name, quantity): 0 for one in PLAN.replicas for quantity in QUANTITIES}
    latest = Latest({one.name: one.replicas for one in PLAN.models}, places, [2])
    (chat, *_) = status(PLAN, state, STATUSES | ready, now=101, traffic=Traffic(latest=latest))["models"]
    assert {side: one["total_s"]["responses"] for side, one in chat["canary"]["latency"].items()} == {
        "candidate": 2,
        "stable": 2,
    }
    assert readiness(PLAN, STATUSES | ready, "chat", order)[1]["models"]["chat"]["serving"] == "chat-sglang"
    (before, *_) = status(PLAN, STATE, STATUSES | ready, now=101, traffic=Traffic())["models"]
    assert (before["serving"], before["canary"]) == ("chat-vllm", None)


def test_adapters_that_were_added_are_listed_with_why_they_are_not_loaded() -> None:
    plan = make_plan("/run/berth", [replica("chat-a", "http://127.0.0.1:1"), replica("embed-a", "http://127.0.0.1:1")])
    failed = replica_state("chat-a", ReplicaStatus.READY, adapter_errors={"tone": "its rank is 64"})
    states = (failed, replica_state("embed-a", ReplicaStatus.READY))
    added = (AddedAdapter(name="tone", model="chat"), AddedAdapter(name="law", model="gone"))
    state = State(sequence=1, published_at=0.0, control_pid=1, replicas=states, adapters=added)

    document = status(plan, state, {one.name: one for one in states}, now=0.0, traffic=Traffic())

    chat, embed = document["models"]
    assert chat["adapters"] == [{"name": "tone", "source": "", "rank": None, "added": True}]
    assert (embed["adapters"], chat["replicas"][0]["adapter_errors"]) == ([], {"tone": "its rank is 64"})
