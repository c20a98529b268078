"""Recovery after a restart of control."""

from dataclasses import replace

import pytest

from berth.control.decisions.lifecycle import first_records
from berth.control.decisions.records import Record
from berth.control.decisions.restart_policy import History
from berth.control.publish import ControlState
from berth.control.recovery import restore
from berth.control.supervisord_client import Process, ProcessState
from berth.plan import Launch, Standby
from berth.records.starts import How
from berth.state import ReplicaState, ReplicaStatus, State
from tests.fakes.plans import make_plan, make_replica

S = ReplicaStatus
NOW, OFFSET = 500.0, 1_700_000_000.0
RUNNING = Process(state=ProcessState.RUNNING, pid=7)
DEAD = Process(state=ProcessState.EXITED, exit_code=1)


def recover(
    old: ReplicaState | None,
    process: Process | None,
    *,
    control: ControlState | None = None,
    attached: bool = False,
    asleep: bool | None = None,
) -> Record:
    replica = make_replica("a", launch=None if attached else Launch(argv=("x",)))
    state = State(sequence=9, published_at=OFFSET, control_pid=3, replicas=(old,)) if old else None
    plan = make_plan("/run", replica)
    processes = {"a": process} if process else {}
    reports = {} if asleep is None else {"a": asleep}
    (record,) = restore(
        first_records(plan, NOW),
        state,
        control or ControlState(supervisord="1"),
        processes,
        reports,
        routes=plan.models,
        now=NOW,
        offset_s=OFFSET,
    )
    return record


def was(status: ReplicaStatus, **known: object) -> ReplicaState:
    old = ReplicaState(name="a", status=status, since=OFFSET + 400, pid=7, restarts=2)
    return replace(old, **known)  # type: ignore[arg-type] # any field


@pytest.mark.parametrize(
    ("old", "process", "status", "since"),
    [
        (was(S.READY), RUNNING, S.READY, 400),
        (was(S.STARTING), RUNNING, S.STARTING, 400),
        (was(S.UNHEALTHY), RUNNING, S.UNHEALTHY, 400),
        (was(S.STOPPING), RUNNING, S.STOPPING, 400),
        (was(S.READY, pid=6), RUNNING, S.STARTING, NOW),
        (was(S.STARTING, pid=None), RUNNING, S.STARTING, 400),
        (was(S.WAITING), RUNNING, S.STARTING, NOW),
        (None, RUNNING, S.STARTING, NOW),
        (was(S.READY), DEAD, S.READY, 400),
        (was(S.READY), None, S.READY, 400),
        (was(S.FAILED), DEAD, S.FAILED, 400),
        (was(S.STANDBY), None, S.STANDBY, 400),
        (None, DEAD, S.WAITING, NOW),
        (None, None, S.WAITING, NOW),
    ],
)
def test_restores_the_status(
    old: ReplicaState | None, process: Process | None, status: ReplicaStatus, since: float
) -> None:
    record = recover(old, process)
    assert (record.status, record.since) == (status, since)
    assert not record.cleaned_up
    if process is RUNNING:
        assert record.pid == 7


def test_restores_a_back_off() -> None:
    record = recover(was(S.BACKOFF, next_start_at=OFFSET + 510, reason="boom", last_lines=("x",)), DEAD)
    assert (record.next_start_at, record.reason, record.last_lines) == (510, "boom", ("x",))
    assert record.starts == 3


@pytest.mark.parametrize(("status", "restarts", "starts"), [(S.WAITING, 0, 0), (S.READY, 0, 1), (S.BACKOFF, 4, 5)])
def test_restores_the_number_of_starts(status: ReplicaStatus, restarts: int, starts: int) -> None:
    assert recover(was(status, restarts=restarts), DEAD).starts == starts


def test_restores_failures_and_origin_from_the_control_state() -> None:
    control = ControlState(
        supervisord="1",
        failures={"a": (1.0,)},
        in_a_row={"a": 1},
        flaps={"a": (1.0,)},
        origins={"a": "took over from b"},
    )
    ready = recover(was(S.READY, reason="took over from b"), RUNNING, control=control)
    paused = recover(was(S.BACKOFF, reason="boom; took over from b"), DEAD, control=control)
    assert ready.history == History(failures=(1.0,), in_a_row=1, flaps=(1.0,))
    assert (ready.reason, ready.origin) == ("", "took over from b")
    assert (paused.reason, paused.origin) == ("boom", "took over from b")


def test_restores_an_attached_server() -> None:
    assert recover(None, None, attached=True).status is S.STARTING
    record = recover(was(S.UNHEALTHY, reason="refused", continues=("chat",)), None, attached=True)
    assert (record.status, record.reason, record.health.ever_ok) == (S.UNHEALTHY, "refused", True)
    assert record.continues == ("chat",)


@pytest.mark.parametrize(
    ("old", "asleep", "status"),
    [
        (None, True, S.ASLEEP),
        (None, False, S.READY),
        (None, None, S.STARTING),
        (was(S.ASLEEP), True, S.ASLEEP),
        (was(S.ASLEEP), None, S.ASLEEP),
        (was(S.FALLING_ASLEEP), True, S.ASLEEP),
        (was(S.FALLING_ASLEEP), False, S.FALLING_ASLEEP),
        (was(S.FALLING_ASLEEP), None, S.FALLING_ASLEEP),
        (was(S.DRAINING), True, S.ASLEEP),  # its control ended between the call and its publication
        (was(S.DRAINING), False, S.DRAINING),
        (was(S.WAKING), True, S.WAKING),
        (was(S.READY), False, S.READY),
    ],
)
def test_recognizes_a_sleeping_replica(old: ReplicaState | None, asleep: bool | None, status: ReplicaStatus) -> None:
    record = recover(old, RUNNING, asleep=asleep)
    assert (record.status, record.pid, record.starts > 0) == (status, 7, True)


@pytest.mark.parametrize(
    ("old", "wakes"),
    [(was(S.ASLEEP), How.WAKE_1), (was(S.FALLING_ASLEEP), How.WAKE_1), (was(S.ASLEEP, pid=6), None), (None, None)],
)
def test_how_it_sleeps_is_known_of_the_same_process_only(old: ReplicaState | None, wakes: How | None) -> None:
    control = ControlState(supervisord="1", wakes={"a": How.WAKE_1})
    assert recover(old, RUNNING, control=control, asleep=True).wakes is wakes


def test_restores_the_reason_of_a_standby() -> None:
    assert recover(was(S.STANDBY, reason="boom"), DEAD).reason == "boom"


@pytest.mark.parametrize(
    ("standby", "awake", "statuses"),
    [
        (Standby.WARM, "b", [S.STANDBY, S.READY, S.WAITING]),
        (Standby.WARM, "c", [S.STANDBY, S.STANDBY, S.READY]),
        (Standby.WARM, "", [S.WAITING, S.WAITING, S.WAITING]),
        (Standby.HOT, "b", [S.WAITING, S.READY, S.WAITING]),
    ],
)
def test_starts_nothing_before_a_ready_warm_standby(
    standby: Standby, awake: str, statuses: list[ReplicaStatus]
) -> None:
    plan = make_plan("/run", *(make_replica(name, launch=Launch(argv=("x",))) for name in "abc"))
    routes = (replace(plan.models[0], standby=standby),)
    first = first_records(replace(plan, models=routes), NOW)
    processes, reports = ({awake: RUNNING}, {awake: False}) if awake else ({}, {})
    records = restore(
        first, None, ControlState(supervisord="1"), processes, reports, routes=routes, now=NOW, offset_s=OFFSET
    )
    assert [record.status for record in records] == statuses
