from berth.router.status import readiness, status
from berth.state import GpuState, Progress, ReplicaState, ReplicaStatus, State
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


def test_each_model_shows_who_serves_it_and_why_others_do_not() -> None:
    chat, embed = status(PLAN, STATE, STATUSES, now=101)["models"]

    assert (chat["name"], chat["ready"], chat["serving"]) == ("chat", True, "chat-sglang")
    failed = chat["replicas"][0]
    assert (failed["status"], failed["reason"], failed["last_lines"]) == ("failed", "gone", ["a", "b"])
    assert (failed["attached"], chat["replicas"][1]["attached"]) == (False, True)
    assert (embed["ready"], embed["serving"]) == (False, None)
    assert embed["replicas"][0]["progress"] == {"phase": "load", "percent": 4.0}


def test_a_replica_that_this_worker_cannot_reach_is_marked() -> None:
    chat, _ = status(PLAN, STATE, STATUSES, now=101, down=["chat-sglang"])["models"]

    assert [replica["reachable"] for replica in chat["replicas"]] == [True, False]


def test_control_is_stale_when_it_stopped_publishing() -> None:
    fresh = status(PLAN, STATE, STATUSES, now=101)["control"]
    old = status(PLAN, STATE, STATUSES, now=111)["control"]

    assert fresh == {"reported": True, "stale": False, "age_s": 1.0, "pid": 7}
    assert old["stale"]


def test_before_the_first_report_there_is_a_status_too() -> None:
    document = status(PLAN, None, STATUSES, now=0)

    assert document["control"] == {"reported": False, "stale": True}
    assert document["gpus"] == []


def test_gpus_have_their_names_from_the_plan() -> None:
    known, unknown = status(PLAN, STATE, STATUSES, now=101)["gpus"]

    assert (known["name"], known["uuid"], known["memory_used_bytes"]) == ("H200", "GPU-0", 5)
    assert (unknown["index"], unknown["name"]) == (9, "")


def test_ready_is_every_model_or_the_one_asked_for() -> None:
    everything, document = readiness(PLAN, STATUSES, None)

    assert not everything
    assert document["models"]["embed"] == {"ready": False, "serving": None, "replicas": {"embed-vllm": "starting"}}
    assert readiness(PLAN, STATUSES, "chat")[0]
    assert not readiness(PLAN, STATUSES, "embed")[0]
