"""`standby: warm`: which transition follows, for the replicas of one model in their order."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from berth.control.decisions.lifecycle import apply, decide, first_records
from berth.control.decisions.records import Observation, Record, Transition
from berth.control.diagnosis import Failure
from berth.control.probes import Health
from berth.control.supervisord_client import Process, ProcessState
from berth.plan import Launch, ModelRoute, Restarts, Sleep, Standby, Task
from berth.state import ReplicaStatus
from tests.fakes.plans import make_plan, make_replica

S = ReplicaStatus
NOW = 1000.0
SLEEP = Sleep(sleep_path="/sleep", wake_path="/wake")
RUNNING = Process(state=ProcessState.RUNNING, pid=7)
DEAD = Process(state=ProcessState.EXITED, exit_code=1)
STOPPED = Process(state=ProcessState.STOPPED)
PROCESSES = {S.STANDBY: None, S.WAITING: None, S.FAILED: None, S.STOPPED: None, S.BACKOFF: DEAD}
HEALTHY = Health(ok=True, ever_ok=True)


def record(name: str, status: ReplicaStatus, **known: object) -> Record:
    replica = replace(make_replica(name, launch=Launch(argv=("x",))), gpus=(0,), sleep=SLEEP if name != "a" else None)
    return replace(Record(replica=replica, status=status, since=NOW - 10, progressed_at=NOW - 10), **known)  # type: ignore[arg-type] # any field


def observation(*records: Record, processes: Mapping[str, Process | None] | None = None) -> Observation:
    """Each with a process where its status says so, unless given."""
    given = {one.replica.name: PROCESSES.get(one.status, RUNNING) for one in records} | dict(processes or {})
    route = ModelRoute(
        name="chat",
        source="x",
        task=Task.GENERATE,
        standby=Standby.WARM,
        replicas=tuple(r.replica.name for r in records),
    )
    return Observation(
        records=records,
        processes={name: process for name, process in given.items() if process},
        failures={"a": Failure(reason="boom")},
        routes=(route,),
        restarts=Restarts(failures=3),
    )


def transitions(*records: Record, **processes: Process | None) -> dict[str, ReplicaStatus]:
    return {transition.name: transition.to for transition in decide(observation(*records, processes=processes), NOW)}


def models(*statuses: ReplicaStatus) -> list[Record]:
    return [record(name, status) for name, status in zip("abc", statuses, strict=False)]


def test_first_status_is_waiting() -> None:
    replicas = [make_replica(name, launch=Launch(argv=("x",))) for name in "ab"]
    plan = make_plan("/run", *replicas)
    plan = replace(plan, models=(replace(plan.models[0], standby=Standby.WARM),))
    assert [one.status for one in first_records(plan, NOW)] == [S.WAITING, S.WAITING]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([S.WAITING, S.WAITING], {"b": S.STARTING}),
        ([S.WAITING, S.WAITING, S.WAITING], {"c": S.STARTING}),
        ([S.WAITING, S.WAITING, S.STARTING], {}),
        ([S.WAITING, S.WAITING, S.FALLING_ASLEEP], {}),
        ([S.WAITING, S.WAITING, S.ASLEEP], {"b": S.STARTING}),
        ([S.WAITING, S.ASLEEP], {"a": S.STARTING}),
        ([S.WAITING, S.STOPPING], {}),
        ([S.WAITING, S.STANDBY], {"a": S.STARTING}),
        ([S.WAITING, S.FAILED], {"a": S.STARTING}),
        ([S.READY, S.ASLEEP], {}),
        ([S.READY, S.STANDBY], {}),
        ([S.UNHEALTHY, S.ASLEEP], {"a": S.STOPPING}),
        ([S.STOPPING, S.ASLEEP], {}),
        ([S.STANDBY, S.ASLEEP], {"b": S.WAKING}),
        ([S.FAILED, S.ASLEEP], {"b": S.WAKING}),
        ([S.STOPPED, S.ASLEEP], {}),
        ([S.STANDBY, S.ASLEEP, S.ASLEEP], {"b": S.WAKING}),
        ([S.STANDBY, S.STANDBY, S.ASLEEP], {"c": S.WAKING}),
        ([S.STANDBY, S.WAKING, S.ASLEEP], {}),
        ([S.STANDBY, S.READY, S.ASLEEP], {}),
        ([S.STANDBY, S.BACKOFF], {}),
        ([S.STANDBY, S.FAILED], {"a": S.WAITING}),
        ([S.STANDBY, S.STANDBY, S.FAILED], {"a": S.WAITING}),
        ([S.FAILED, S.STANDBY], {"b": S.WAITING}),
        ([S.FAILED, S.STOPPED, S.STANDBY], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_decides_by_statuses(statuses: list[ReplicaStatus], expected: dict[str, ReplicaStatus]) -> None:
    assert transitions(*models(*statuses)) == expected


def test_loaded_standby_falls_asleep_while_another_replica_is_active() -> None:
    assert transitions(record("a", S.WAITING), record("b", S.STARTING, health=HEALTHY)) == {"b": S.FALLING_ASLEEP}
    assert transitions(record("a", S.STANDBY), record("b", S.STARTING, health=HEALTHY)) == {"b": S.READY}
    assert transitions(record("a", S.STARTING, health=HEALTHY), record("b", S.ASLEEP)) == {"a": S.READY}


@pytest.mark.parametrize(
    ("status", "result", "to", "reason"),
    [
        (S.FALLING_ASLEEP, None, None, ""),
        (S.FALLING_ASLEEP, "", S.ASLEEP, ""),
        (S.FALLING_ASLEEP, "500", S.STOPPING, "could not be put to sleep: 500"),
        (S.WAKING, None, None, ""),
        (S.WAKING, "", S.READY, ""),
        (S.WAKING, "late", S.STOPPING, "could not be woken: late"),
    ],
)
def test_decides_by_the_sleep_result(
    status: ReplicaStatus, result: str | None, to: ReplicaStatus | None, reason: str
) -> None:
    first = record("a", S.WAITING if status is S.FALLING_ASLEEP else S.STANDBY)
    found = [
        transition
        for transition in decide(observation(first, record("b", status, sleep_result=result)), NOW)
        if transition.name == "b"
    ]
    assert [(transition.to, transition.reason) for transition in found] == ([(to, reason)] if to else [])


@pytest.mark.parametrize(
    ("statuses", "dead", "to"),
    [
        ([S.READY, S.ASLEEP], "a", S.STANDBY),
        ([S.STARTING, S.ASLEEP], "a", S.STANDBY),
        ([S.READY, S.STANDBY], "a", S.BACKOFF),
        ([S.READY, S.FAILED], "a", S.BACKOFF),
        ([S.WAITING, S.STARTING], "b", S.STANDBY),
        ([S.WAITING, S.FALLING_ASLEEP], "b", S.STANDBY),
        ([S.WAITING, S.STOPPING], "b", S.STANDBY),
        ([S.READY, S.ASLEEP], "b", S.STANDBY),
        ([S.STANDBY, S.WAKING], "b", S.BACKOFF),
        ([S.STANDBY, S.READY], "b", S.BACKOFF),
        ([S.STANDBY, S.READY, S.ASLEEP], "b", S.STANDBY),
        ([S.STANDBY, S.WAKING, S.ASLEEP], "b", S.STANDBY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_status_after_an_exit(statuses: list[ReplicaStatus], dead: str, to: ReplicaStatus) -> None:
    assert transitions(*models(*statuses), **{dead: DEAD})[dead] is to


def test_never_yields_to_a_sleeping_replica_that_exited() -> None:
    assert transitions(*models(S.READY, S.ASLEEP), a=DEAD, b=DEAD) == {"a": S.BACKOFF, "b": S.STANDBY}


def test_manual_stop_of_a_sleeping_replica_is_kept() -> None:
    assert transitions(*models(S.READY, S.ASLEEP), b=STOPPED) == {"b": S.STOPPED}


def test_permanent_failure_never_yields() -> None:
    sleeper = record("b", S.ASLEEP)
    doomed = record("a", S.STARTING)
    assert transitions(doomed, sleeper, a=Process(state=ProcessState.EXITED, exit_code=2)) == {"a": S.FAILED}


def test_wakes_after_the_cleanup_only() -> None:
    assert transitions(record("a", S.STANDBY, cleaned_up=False), record("b", S.ASLEEP)) == {}
    assert transitions(record("a", S.STANDBY), record("b", S.FAILED, cleaned_up=False)) == {}
    assert transitions(record("a", S.STANDBY, cleaned_up=False), record("b", S.FAILED)) == {}


def test_origin_names_the_failed_replica() -> None:
    (woken,) = decide(observation(record("a", S.STANDBY, reason="boom"), record("b", S.ASLEEP)), NOW)
    (started,) = decide(observation(record("a", S.STANDBY), record("b", S.FAILED, reason="gave up")), NOW)
    assert woken.origin == "took over from a, which failed: boom"
    assert started.origin == "took over from b, which failed: gave up"


def test_sleep_call_starts_without_result_and_health() -> None:
    asleep = record("b", S.ASLEEP, sleep_result="", health=Health(failures=2), pid=7)
    waking = apply(asleep, Transition(name="b", to=S.WAKING), NOW)
    assert (waking.sleep_result, waking.health, waking.pid, waking.holds_lease) == (None, Health(), 7, True)
    assert apply(asleep, Transition(name="b", to=S.STANDBY), NOW).pid is None
    assert not asleep.holds_lease


def test_other_standby_modes_are_not_affected() -> None:
    hot = observation(record("a", S.READY), record("b", S.STARTING, health=HEALTHY))
    hot = replace(hot, routes=(replace(hot.routes[0], standby=Standby.HOT),))
    assert [transition.to for transition in decide(hot, NOW)] == [S.READY]
