"""The state machine: which transition follows from which observation."""

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from berth.control.decisions.lifecycle import TRANSITIONS, apply, decide, first_records, waiting_reason
from berth.control.decisions.records import Observation, Record, Transition
from berth.control.decisions.restart_policy import History
from berth.control.diagnosis import Failure
from berth.control.logs.load_progress import Tracker
from berth.control.probes import Health
from berth.control.supervisord_client import Process, ProcessState
from berth.control.watch import on_log_line
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
    return replace(Record(replica=replica, status=status, since=NOW - 10, progressed_at=NOW - 10), **known)  # type: ignore[arg-type] # any field


def observation(
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


def only(observation: Observation) -> Transition:
    (transition,) = decide(observation, NOW)
    return transition


def cold_plan(*attached: bool) -> Plan:
    replicas = [make_replica(f"r{i}", launch=None if far else LAUNCH) for i, far in enumerate(attached)]
    return make_plan("/run", *replicas)


SIGNALLED = Process(state=P.EXITED, exit_code=-1)
NO_MEMORY = "the host ran out of memory"


@pytest.mark.parametrize(
    ("attached", "expected"),
    [
        ((False, False), (S.WAITING, S.STANDBY)),
        ((True, False, False), (S.STARTING, S.WAITING, S.STANDBY)),
        ((False, True), (S.WAITING, S.STARTING)),
    ],
    ids=["cold", "an attached server has no successors", "nor predecessors"],
)
def test_first_status_of_cold_replicas(attached: tuple[bool, ...], expected: tuple[ReplicaStatus, ...]) -> None:
    assert tuple(first.status for first in first_records(cold_plan(*attached), NOW)) == expected


def test_first_status_of_hot_replicas_is_waiting() -> None:
    plan = cold_plan(False, False)
    plan = replace(plan, models=(replace(plan.models[0], standby=Standby.HOT),))
    assert {first.status for first in first_records(plan, NOW)} == {S.WAITING}


HEALTHY = Health(ok=True, ever_ok=True)
LOADING = Health(failures=1, error="loading: Loading model", loading=True)
SICK = Health(ever_ok=True, failures=3, error="/health returned 503")


@pytest.mark.parametrize(
    ("before", "process", "to"),
    [
        (record(status=S.STARTING), RUNNING, None),
        (record(status=S.STARTING, health=HEALTHY), RUNNING, S.READY),
        (record(status=S.STARTING, since=NOW - 61, progressed_at=NOW - 61), RUNNING, S.STOPPING),
        (record(status=S.STARTING, since=NOW - 500, progressed_at=NOW - 59), RUNNING, None),
        (record(status=S.STARTING, since=NOW - 59, progressed_at=NOW - 59, active_at=NOW - 59), RUNNING, None),
        (record(status=S.STARTING, health=replace(HEALTHY, ok=False), defect="its answer failed"), RUNNING, S.STOPPING),
        (record(status=S.STARTING), DEAD, S.BACKOFF),
        (record(status=S.STARTING), None, S.BACKOFF),
        (record(status=S.READY), RUNNING, None),
        (record(status=S.READY, health=replace(SICK, failures=2)), RUNNING, None),
        (record(status=S.READY, health=SICK), RUNNING, S.UNHEALTHY),
        (record(status=S.READY, health=HEALTHY, defect="it hangs"), RUNNING, S.UNHEALTHY),
        (record(status=S.READY), DEAD, S.BACKOFF),
        (record(status=S.READY, history=History(in_a_row=2)), DEAD, S.FAILED),
        (record(status=S.READY), Process(state=P.STOPPED), S.STOPPED),
        (record(status=S.UNHEALTHY), RUNNING, S.STOPPING),
        (record(status=S.UNHEALTHY), DEAD, S.BACKOFF),
        (record(status=S.STOPPING), RUNNING, None),
        (record(status=S.STOPPING), Process(state=P.STOPPED), S.BACKOFF),
        (record(status=S.FAILED), DEAD, None),
        (record(status=S.FAILED), RUNNING, S.STARTING),
        (record(status=S.FAILED, cleaned_up=False), RUNNING, None),
        (record(status=S.STOPPED), RUNNING, S.STARTING),
        (record(status=S.WAITING), None, S.STARTING),
        (record(status=S.WAITING, cleaned_up=False), None, None),
        (record(status=S.BACKOFF, next_start_at=NOW), DEAD, S.STARTING),
        (record(status=S.BACKOFF, next_start_at=NOW + 0.1), DEAD, None),
        (record(status=S.READY, attached=True), None, None),
        (record(status=S.STARTING, attached=True), None, None),
        (record(status=S.STARTING, attached=True, health=Health(failures=1)), None, S.UNHEALTHY),
        (record(status=S.STARTING, attached=True, health=LOADING), None, None),
        (record(status=S.STARTING, attached=True, health=HEALTHY), None, S.READY),
        (record(status=S.READY, attached=True, health=LOADING), None, None),
        (record(status=S.READY, attached=True, health=replace(LOADING, failures=3)), None, S.STARTING),
        (record(status=S.UNHEALTHY, attached=True, health=LOADING), None, S.STARTING),
        (record(status=S.READY, attached=True, health=replace(SICK, failures=2)), None, None),
        (record(status=S.READY, attached=True, health=SICK), None, S.UNHEALTHY),
        (record(status=S.UNHEALTHY, attached=True, health=SICK), None, None),
        (record(status=S.UNHEALTHY, attached=True, health=HEALTHY), None, S.READY),
    ],
)
def test_decides_the_next_transition(before: Record, process: Process | None, to: ReplicaStatus | None) -> None:
    transitions = decide(observation(before, processes={"a": process} if process else {}), NOW)
    assert [transition.to for transition in transitions] == ([to] if to else [])
    for transition in transitions:
        assert apply(before, transition, NOW).status is to


@pytest.mark.parametrize(
    ("active_s", "progressed_s", "to"),
    [(301, 301, S.STOPPING), (299, 301, None), (301, 299, None), (301, 700, S.STOPPING)],
)
def test_start_without_any_activity_hangs(active_s: float, progressed_s: float, to: ReplicaStatus | None) -> None:
    slow = record(status=S.STARTING, since=NOW - 900, progressed_at=NOW - progressed_s, active_at=NOW - active_s)
    slow = replace(slow, replica=replace(slow.replica, start_timeout_s=1800))

    found = decide(observation(slow, processes={"a": RUNNING}), NOW)

    assert [one.to for one in found] == ([to] if to else [])
    assert all(one.reason.startswith("the start hangs: for 300 s no CPU time") for one in found)


def test_flapping_is_the_reason_of_a_slower_restart() -> None:
    flapped = History(flaps=(NOW - 3000, NOW - 1500))
    ready = record(status=S.READY, history=flapped)

    transition = only(observation(ready, processes={"a": DEAD}, failures={"a": Failure(reason="Boom")}))

    assert transition.reason == "flapping, ready and failed 3 times within an hour, the last: Boom (exit code 1)"
    assert transition.next_start_at == NOW + 4


def test_failure_of_a_start_does_not_count_as_flapping() -> None:
    starting = record(status=S.STARTING, history=History(flaps=(NOW - 3000, NOW - 1500)))

    transition = only(observation(starting, processes={"a": DEAD}, failures={"a": Failure(reason="Boom")}))

    assert transition.reason == "Boom (exit code 1)"
    assert transition.next_start_at == NOW + 1


def test_new_start_has_hung_nowhere_yet() -> None:
    before = record(status=S.BACKOFF, defect="it hangs", next_start_at=NOW)

    after = apply(before, Transition(name="a", to=S.STARTING), NOW)

    assert (after.defect, after.active_at) == ("", NOW)


@pytest.mark.parametrize(
    ("process", "evidence", "to", "reason"),
    [
        (DEAD, Failure(reason="Boom"), S.BACKOFF, "Boom (exit code 1)"),
        (Process(state=P.EXITED, exit_code=0), Failure(), S.BACKOFF, "exit code 0, no output in its log"),
        (SIGNALLED, Failure(reason="x"), S.BACKOFF, "terminated by an unknown signal; in its log: x"),
        (SIGNALLED, Failure(signal="SIGSEGV"), S.BACKOFF, "terminated by SIGSEGV"),
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
            f"one of its processes was killed by the kernel: {NO_MEMORY}; then: Boom (exit code 1)",
        ),
        (None, Failure(), S.BACKOFF, "process disappeared, no output in its log"),
        (Process(state=P.FATAL, spawn_error="no fork"), Failure(), S.BACKOFF, "could not be started: no fork"),
        (Process(state=P.EXITED, exit_code=2), Failure(reason="-x?"), S.FAILED, "gave up at once: -x? (exit code 2)"),
        (Process(state=P.EXITED, exit_code=127), Failure(reason="?"), S.FAILED, "gave up at once: ? (exit code 127)"),
        (DEAD, Failure(reason="bad", hopeless=True), S.BACKOFF, "bad (exit code 1)"),
    ],
)
def test_reason_of_an_exit_during_the_start(
    process: Process | None, evidence: Failure, to: ReplicaStatus, reason: str
) -> None:
    processes = {"a": process} if process else {}
    transition = only(observation(record(status=S.STARTING), processes=processes, failures={"a": evidence}))
    assert (transition.to, transition.reason) == (to, reason)
    assert (transition.next_start_at == NOW + 1) == (to is S.BACKOFF)


def test_exit_code_2_of_a_replica_that_was_ready_is_a_crash() -> None:
    transition = only(observation(record(status=S.READY), processes={"a": Process(state=P.EXITED, exit_code=2)}))
    assert transition.to is S.BACKOFF


def test_gives_up_after_two_hopeless_failures() -> None:
    once = record(status=S.STARTING, history=History(failures=(NOW - 5,), in_a_row=1))
    bad = Failure(reason="bad", hopeless=True, last_lines=("bad",))
    transition = only(observation(once, processes={"a": DEAD}, failures={"a": bad}))
    assert (transition.to, transition.last_lines) == (S.FAILED, ("bad",))
    assert transition.reason == "gave up after 2 failures, the last: bad (exit code 1)"


def test_reason_of_a_stop_is_kept_after_the_exit() -> None:
    stopping = record(status=S.STOPPING, reason="not ready after 60 s")
    evidence = Failure(reason="KeyboardInterrupt", last_lines=("KeyboardInterrupt",))
    transition = only(observation(stopping, processes={"a": Process(state=P.STOPPED)}, failures={"a": evidence}))
    assert (transition.reason, transition.last_lines) == ("not ready after 60 s", ("KeyboardInterrupt",))


def test_readiness_resets_consecutive_failures() -> None:
    starting = record(status=S.STARTING, health=HEALTHY, history=History(failures=(1.0,), in_a_row=2))
    ready = apply(starting, only(observation(starting, processes={"a": RUNNING})), NOW)
    assert ready.history == History(failures=(1.0,), in_a_row=0)


def test_start_resets_the_record_of_the_last_run() -> None:
    before = record(status=S.WAITING, health=SICK, tracker=Tracker(moves=9), pid=3, reason="x", last_lines=("x",))
    after = apply(before, Transition(name="a", to=S.STARTING), NOW)
    assert (after.health, after.tracker, after.pid, after.reason, after.last_lines) == (
        Health(),
        Tracker(),
        None,
        "",
        (),
    )
    assert (after.starts, after.progressed_at, after.cleaned_up) == (1, NOW, False)


@pytest.mark.parametrize(
    ("first", "clear", "to"),
    [(S.READY, True, None), (S.BACKOFF, True, None), (S.FAILED, False, None), (S.FAILED, True, S.WAITING)],
)
def test_activates_a_cold_standby_after_permanent_failure_and_cleanup(
    first: ReplicaStatus, clear: bool, to: ReplicaStatus | None
) -> None:
    records = (record("a", first, cleaned_up=clear, reason="boom"), record("b", S.STANDBY))
    transitions = decide(
        observation(*records, processes={"a": RUNNING} if first is S.READY else {}, standby=Standby.COLD), NOW
    )
    assert [transition.to for transition in transitions if transition.name == "b"] == ([to] if to else [])
    assert [transition.origin for transition in transitions] == (["took over from a, which failed: boom"] if to else [])


def test_waiting_replicas_start_before_those_in_backoff() -> None:
    records = (record("a", S.BACKOFF, next_start_at=1.0), record("b", S.WAITING))
    assert only(observation(*records)).name == "b"


def test_waits_for_the_cleanup_of_another_replica_on_the_gpu() -> None:
    records = (record("a", S.FAILED, cleaned_up=False), record("b", S.WAITING))
    assert decide(observation(*records), NOW) == ()
    assert waiting_reason(records[1], records) == "waits for a: one start or stop at a time per device"
    assert waiting_reason(records[1], records[1:]) == ""


def test_shutdown_starts_nothing_and_keeps_ready_replicas() -> None:
    statuses = (S.READY, S.WAITING, S.BACKOFF, S.STANDBY, S.STARTING, S.FAILED, S.STOPPING, S.STOPPED)
    records = tuple(record(str(number), status, next_start_at=0.0) for number, status in enumerate(statuses))
    transitions = decide(observation(*records, record("far", attached=True), shutting_down=True), NOW)
    assert [(transition.name, transition.to) for transition in transitions] == [
        ("1", S.STOPPED),
        ("2", S.STOPPED),
        ("3", S.STOPPED),
        ("4", S.STOPPING),
    ]


@pytest.mark.parametrize("status", S)
def test_rejects_a_transition_outside_the_table(status: ReplicaStatus) -> None:
    for to in set(S) - TRANSITIONS[status]:
        with pytest.raises(ValueError, match=f"a: no transition from {status} to {to}"):
            apply(record(status=status), Transition(name="a", to=to), NOW)


def test_phases_of_a_start_add_up_and_a_wake_has_its_own() -> None:
    begun = time.monotonic()
    records = {"a": apply(record(status=S.WAITING), Transition(name="a", to=S.STARTING), begun)}
    on_log_line(records, "a", "INFO [gpu_model_runner.py] Starting to load model /models/x...")
    ready = apply(records["a"], Transition(name="a", to=S.READY), begun + 5)
    assert list(ready.phases) == ["process", "load"]
    assert sum(ready.phases.values()) == pytest.approx(5, abs=0.1)
    waking = replace(ready, status=S.WAKING, since=begun + 50)
    assert apply(waking, Transition(name="a", to=S.READY), begun + 53).phases == {"wake": 3}
