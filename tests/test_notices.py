"""What needs attention: one kind for each of the things that go wrong, and nothing when all is well."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from berth.notices import Notice, NoticeKind, notices
from berth.plan import Plan
from berth.state import FULL_BYTES, ReplicaState, ReplicaStatus, State
from tests.fakes.router import make_plan, replica, replica_state, route

S = ReplicaStatus
K = NoticeKind


@pytest.fixture
def plan() -> Plan:
    replicas = [replica("chat-a", "http://127.0.0.1:1"), replica("chat-b", "http://127.0.0.1:2")]
    return make_plan("/run/x", replicas, [route("chat", ["chat-a", "chat-b"])])


def found(
    plan: Plan,
    *states: ReplicaState,
    silent_s: float | None = None,
    queues: Mapping[str, int] | None = None,
    errors: Mapping[str, str] | None = None,
    free: int = 1 << 40,
) -> Sequence[Notice]:
    state = State(sequence=1, published_at=1.0, control_pid=1, replicas=states, run_dir_free_bytes=free)
    statuses = {one.name: one for one in states}
    return notices(plan, state, statuses, silent_s=silent_s, queues=queues or {}, config_errors=errors or {})


@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (S.READY, S.ASLEEP, []),
        (S.STARTING, S.STANDBY, []),
        (S.READY, S.FAILED, [K.REPLICA_FAILED]),
        (S.READY, S.BACKOFF, [K.REPLICA_LOOPING]),
        (S.UNHEALTHY, S.STARTING, [K.REPLICA_LOOPING]),
        (S.BACKOFF, S.STANDBY, [K.MODEL_DOWN]),
        (S.FAILED, S.FAILED, [K.MODEL_DOWN, K.REPLICA_FAILED]),
        (S.STOPPED, S.STOPPED, []),
    ],
)
def test_replicas(plan: Plan, first: S, second: S, kinds: list[K]) -> None:
    states = (replica_state("chat-a", first, reason="out of memory"), replica_state("chat-b", second))
    assert [one.kind for one in found(plan, *states)] == kinds


def test_a_model_that_is_away_by_request_is_not_down(plan: Plan) -> None:
    states = (replica_state("chat-a", S.UNLOADED, requested="unloaded"), replica_state("chat-b", S.FAILED))
    assert [one.kind for one in found(plan, *states)] == [K.REPLICA_FAILED]


def test_says_why_since_when_and_what_to_do(plan: Plan) -> None:
    states = (replica_state("chat-a", S.FAILED, reason="out of memory"), replica_state("chat-b", S.STANDBY))
    (notice,) = found(plan, *states)
    assert (notice.model, notice.replica, notice.since, notice.urgent) == ("chat", "chat-a", 1.0, True)
    assert notice.text == "is served by no engine: out of memory"
    assert "berth load chat" in notice.advice


def test_a_replica_that_was_restarted_often_is_named_while_it_starts(plan: Plan) -> None:
    states = (replica_state("chat-a", S.STARTING, restarts=3), replica_state("chat-b", S.STANDBY))
    assert [one.kind for one in found(plan, *states)] == [K.REPLICA_LOOPING]


def test_the_most_urgent_first(plan: Plan) -> None:
    plan = replace(plan, warnings=("no keys",))
    states = (replica_state("chat-a", S.READY), replica_state("chat-b", S.FAILED))
    queues = {"chat": plan.limits.queue_size}
    all_of_it = found(plan, *states, silent_s=30, queues=queues, errors={"chat-a": "401"}, free=FULL_BYTES - 1)
    assert [one.kind for one in all_of_it] == [
        *(K.CONTROL_SILENT, K.REPLICA_FAILED, K.QUEUE_FULL, K.DISK_LOW, K.ENGINE_REJECTS, K.WARNING)
    ]


def test_without_a_state_only_the_silence_and_the_plan_are_known(plan: Plan) -> None:
    statuses = {name: replica_state(name, S.STARTING) for name in ("chat-a", "chat-b")}
    all_of_it = notices(plan, None, statuses, silent_s=20.0, queues={}, config_errors={})
    assert [one.kind for one in all_of_it] == [K.CONTROL_SILENT]
