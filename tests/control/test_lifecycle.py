"""The state machine: which move follows from which view."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from berth.control.diagnosis import Failure
from berth.control.lifecycle import TRANSITIONS, apply, decide, first_records, waits_for
from berth.control.load_progress import Tracker
from berth.control.probes import Health
from berth.control.records import Observation, Record, Transition
from berth.control.restart_policy import History
from berth.control.supervisord_client import Process, ProcessState
from berth.plan import Launch, ModelRoute, Plan, Restarts, Standby, Task
from berth.state import ReplicaStatus
from tests.fakes.plans import make_plan, make_replica

S = ReplicaStatus
P = ProcessState
LAUNCH = Launch(argv=("engine",))
RUNNING = Process(state=P.RUNNING, pid=7)
DEAD = Process(state=P.EXITED, exit_code=1)
NOW = 1000.0


def record(name: str = "a", status: ReplicaStatus = S.READY, *, attached: bool = False, **known: object) -> Record:
    replica = replace(make_replica(name, launch=None if attached else LAUNCH), gpus=(0,), start_timeout_s=60)
    return replace(Record(replica=replica, status=status, since=NOW - 10, moved_at=NOW - 10), **known)  # type: ignore[arg-type] # any field


def view(
    *records: Record,
    processes: Mapping[str, Process] | None = None,
    failures: Mapping[str, Failure] | None = None,
    standby: Standby = Standby.HOT,
    shutting_down: bool = False,
) -> Observation:
    names = tuple(record.replica.name for record in records)
    route = ModelRoute(name="chat", source="chat", task=Task.GENERATE, standby=standby, replicas=names)
    return Observation(
        records=records,
        processes=processes or {},
        failures=failures or {},
        routes=(route,),
        restarts=Restarts(failures=3),
        shutting_down=shutting_down,
    )


def only(view: Observation) -> Transition:
    (move,) = decide(view, NOW)
    return move


def cold_plan(*attached: bool) -> Plan:
    replicas = [make_replica(f"r{i}", launch=None if far else LAUNCH) for i, far in enumerate(attached)]
    return make_plan("/run", *replicas)


SIGNALLED = Process(state=P.EXITED, exit_code=-1)
NO_MEMORY = "the host ran out of memory"


@pytest.mark.parametrize(
    ("attached", "expected"),
    [
        ((False, False), (S.WAITING, S.STANDBY)),
        ((True, False, False), (S.READY, S.WAITING, S.STANDBY)),
        ((False, True), (S.WAITING, S.READY)),
    ],
    ids=["cold", "an attached server is nobody's predecessor", "nor waits it for one"],
)
def test_how_replicas_begin(attached: tuple[bool, ...], expected: tuple[ReplicaStatus, ...]) -> None:
    assert tuple(first.status for first in first_records(cold_plan(*attached), NOW)) == expected


def test_all_hot_replicas_wait_for_their_turn() -> None:
    plan = cold_plan(False, False)
    plan = replace(plan, models=(replace(plan.models[0], standby=Standby.HOT),))
    assert {first.status for first in first_records(plan, NOW)} == {S.WAITING}


HEALTHY = Health(answered=True, ever=True)
SICK = Health(ever=True, failures=3, error="/health answered 503")


@pytest.mark.parametrize(
    ("before", "process", "to"),
    [
        (record(status=S.STARTING), RUNNING, None),
        (record(status=S.STARTING, health=HEALTHY), RUNNING, S.READY),
        (record(status=S.STARTING, since=NOW - 61, moved_at=NOW - 61), RUNNING, S.STOPPING),
        (record(status=S.STARTING, since=NOW - 500, moved_at=NOW - 59), RUNNING, None),
        (record(status=S.STARTING), DEAD, S.BACKOFF),
        (record(status=S.STARTING), None, S.BACKOFF),
        (record(status=S.READY), RUNNING, None),
        (record(status=S.READY, health=replace(SICK, failures=2)), RUNNING, None),
        (record(status=S.READY, health=SICK), RUNNING, S.UNHEALTHY),
        (record(status=S.READY), DEAD, S.BACKOFF),
        (record(status=S.READY, history=History(in_a_row=2)), DEAD, S.FAILED),
        (record(status=S.READY), Process(state=P.STOPPED), S.STOPPED),
        (record(status=S.UNHEALTHY), RUNNING, S.STOPPING),
        (record(status=S.UNHEALTHY), DEAD, S.BACKOFF),
        (record(status=S.STOPPING), RUNNING, None),
        (record(status=S.STOPPING), Process(state=P.STOPPED), S.BACKOFF),
        (record(status=S.FAILED), DEAD, None),
        (record(status=S.FAILED), RUNNING, S.STARTING),
        (record(status=S.FAILED, clear=False), RUNNING, None),
        (record(status=S.STOPPED), RUNNING, S.STARTING),
        (record(status=S.WAITING), None, S.STARTING),
        (record(status=S.WAITING, clear=False), None, None),
        (record(status=S.BACKOFF, next_start_at=NOW), DEAD, S.STARTING),
        (record(status=S.BACKOFF, next_start_at=NOW + 0.1), DEAD, None),
        (record(status=S.READY, attached=True), None, None),
        (record(status=S.READY, attached=True, health=Health(failures=1)), None, S.UNHEALTHY),
        (record(status=S.READY, attached=True, health=replace(SICK, failures=2)), None, None),
        (record(status=S.READY, attached=True, health=SICK), None, S.UNHEALTHY),
        (record(status=S.UNHEALTHY, attached=True, health=SICK), None, None),
        (record(status=S.UNHEALTHY, attached=True, health=HEALTHY), None, S.READY),
    ],
)
def test_the_next_move(before: Record, process: Process | None, to: ReplicaStatus | None) -> None:
    moves = decide(view(before, processes={"a": process} if process else {}), NOW)
    assert [move.to for move in moves] == ([to] if to else [])
    for move in moves:
        assert apply(before, move, NOW).status is to


@pytest.mark.parametrize(
    ("process", "evidence", "to", "reason"),
    [
        (DEAD, Failure(reason="Boom"), S.BACKOFF, "Boom (exit code 1)"),
        (Process(state=P.EXITED, exit_code=0), Failure(), S.BACKOFF, "exit code 0, and its log says nothing"),
        (SIGNALLED, Failure(reason="x"), S.BACKOFF, "ended by a signal. Its log's last words: x"),
        (SIGNALLED, Failure(signal="SIGSEGV"), S.BACKOFF, "ended by SIGSEGV"),
        (SIGNALLED, Failure(signal="SIGKILL"), S.BACKOFF, "killed by SIGKILL from outside"),
        (
            SIGNALLED,
            Failure(signal="SIGKILL", out_of_memory=NO_MEMORY),
            S.BACKOFF,
            f"killed by the kernel: {NO_MEMORY}",
        ),
        (
            DEAD,
            Failure(reason="Boom", out_of_memory=NO_MEMORY),
            S.BACKOFF,
            f"a process of it was killed by the kernel: {NO_MEMORY}. Then: Boom (exit code 1)",
        ),
        (None, Failure(), S.BACKOFF, "gone, and its log says nothing"),
        (Process(state=P.FATAL, spawn_error="no fork"), Failure(), S.BACKOFF, "could not be started: no fork"),
        (Process(state=P.EXITED, exit_code=2), Failure(reason="-x?"), S.FAILED, "gave up at once: -x? (exit code 2)"),
        (Process(state=P.EXITED, exit_code=127), Failure(reason="?"), S.FAILED, "gave up at once: ? (exit code 127)"),
        (DEAD, Failure(reason="bad", hopeless=True), S.BACKOFF, "bad (exit code 1)"),
    ],
)
def test_the_reason_of_a_death_at_the_start(
    process: Process | None, evidence: Failure, to: ReplicaStatus, reason: str
) -> None:
    processes = {"a": process} if process else {}
    move = only(view(record(status=S.STARTING), processes=processes, failures={"a": evidence}))
    assert (move.to, move.reason) == (to, reason)
    assert (move.next_start_at == NOW + 1) == (to is S.BACKOFF)


def test_an_exit_code_of_a_wrong_command_line_is_a_crash_once_it_has_worked() -> None:
    move = only(view(record(status=S.READY), processes={"a": Process(state=P.EXITED, exit_code=2)}))
    assert move.to is S.BACKOFF


def test_a_hopeless_failure_is_tried_twice() -> None:
    once = record(status=S.STARTING, history=History(failures=(NOW - 5,), in_a_row=1))
    bad = Failure(reason="bad", hopeless=True, last_lines=("bad",))
    move = only(view(once, processes={"a": DEAD}, failures={"a": bad}))
    assert (move.to, move.last_lines) == (S.FAILED, ("bad",))
    assert move.reason == "gave up after 2 failures, the last: bad (exit code 1)"


def test_a_stop_keeps_its_reason_through_the_death() -> None:
    stopping = record(status=S.STOPPING, reason="not ready after 60 s")
    evidence = Failure(reason="KeyboardInterrupt", last_lines=("KeyboardInterrupt",))
    move = only(view(stopping, processes={"a": Process(state=P.STOPPED)}, failures={"a": evidence}))
    assert (move.reason, move.last_lines) == ("not ready after 60 s", ("KeyboardInterrupt",))


def test_readiness_ends_a_row_of_failures() -> None:
    starting = record(status=S.STARTING, health=HEALTHY, history=History(failures=(1.0,), in_a_row=2))
    ready = apply(starting, only(view(starting, processes={"a": RUNNING})), NOW)
    assert ready.history == History(failures=(1.0,), in_a_row=0)


def test_a_start_forgets_what_was_known_of_the_last_run() -> None:
    before = record(status=S.WAITING, health=SICK, tracker=Tracker(moves=9), pid=3, reason="x", last_lines=("x",))
    after = apply(before, Transition(name="a", to=S.STARTING), NOW)
    assert (after.health, after.tracker, after.pid, after.reason, after.last_lines) == (
        Health(),
        Tracker(),
        None,
        "",
        (),
    )
    assert (after.starts, after.moved_at, after.clear) == (1, NOW, False)


@pytest.mark.parametrize(
    ("first", "clear", "to"),
    [(S.READY, True, None), (S.BACKOFF, True, None), (S.FAILED, False, None), (S.FAILED, True, S.WAITING)],
)
def test_a_cold_standby_waits_until_the_one_before_has_failed_and_left_the_gpu(
    first: ReplicaStatus, clear: bool, to: ReplicaStatus | None
) -> None:
    records = (record("a", first, clear=clear, reason="boom"), record("b", S.STANDBY))
    moves = decide(view(*records, processes={"a": RUNNING} if first is S.READY else {}, standby=Standby.COLD), NOW)
    assert [move.to for move in moves if move.name == "b"] == ([to] if to else [])
    assert [move.origin for move in moves] == (["took over from a, which failed: boom"] if to else [])


def test_one_whose_pause_is_over_lets_those_go_first_that_wait() -> None:
    records = (record("a", S.BACKOFF, next_start_at=1.0), record("b", S.WAITING))
    assert only(view(*records)).name == "b"


def test_nothing_starts_on_a_gpu_where_something_is_left_of_the_last_one() -> None:
    records = (record("a", S.FAILED, clear=False), record("b", S.WAITING))
    assert decide(view(*records), NOW) == ()
    assert waits_for(records[1], records) == "waits for a: one start or stop at a time per device"
    assert waits_for(records[1], records[1:]) == ""


def test_when_supervisord_shuts_down_nothing_is_started_and_what_is_ready_serves_on() -> None:
    statuses = (S.READY, S.WAITING, S.BACKOFF, S.STANDBY, S.STARTING, S.FAILED, S.STOPPING, S.STOPPED)
    records = tuple(record(str(number), status, next_start_at=0.0) for number, status in enumerate(statuses))
    moves = decide(view(*records, record("far", attached=True), shutting_down=True), NOW)
    assert [(move.name, move.to) for move in moves] == [
        ("1", S.STOPPED),
        ("2", S.STOPPED),
        ("3", S.STOPPED),
        ("4", S.STOPPING),
    ]


@pytest.mark.parametrize("status", S)
def test_a_move_outside_the_table_is_refused(status: ReplicaStatus) -> None:
    for to in set(S) - TRANSITIONS[status]:
        with pytest.raises(ValueError, match=f"a: no way from {status} to {to}"):
            apply(record(status=status), Transition(name="a", to=to), NOW)
