"""`standby: warm`: which move follows, for the replicas of one model in their order."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from berth.control.diagnosis import Failure
from berth.control.lifecycle import apply, decide, first_records
from berth.control.probes import Health
from berth.control.records import Observation, Record, Transition
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
HEALTHY = Health(answered=True, ever=True)


def record(name: str, status: ReplicaStatus, **known: object) -> Record:
    replica = replace(make_replica(name, launch=Launch(argv=("x",))), gpus=(0,), sleep=SLEEP if name != "a" else None)
    return replace(Record(replica=replica, status=status, since=NOW - 10, moved_at=NOW - 10), **known)  # type: ignore[arg-type] # any field


def view(*records: Record, processes: Mapping[str, Process | None] | None = None) -> Observation:
    """Each with a process where its status says so, unless told otherwise."""
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


def moves(*records: Record, **processes: Process | None) -> dict[str, ReplicaStatus]:
    return {move.name: move.to for move in decide(view(*records, processes=processes), NOW)}


def models(*statuses: ReplicaStatus) -> list[Record]:
    return [record(name, status) for name, status in zip("abc", statuses, strict=False)]


def test_all_wait_at_first() -> None:
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
def test_who_moves(statuses: list[ReplicaStatus], expected: dict[str, ReplicaStatus]) -> None:
    assert moves(*models(*statuses)) == expected


def test_one_that_answers_sleeps_while_another_one_is_to_serve() -> None:
    assert moves(record("a", S.WAITING), record("b", S.STARTING, health=HEALTHY)) == {"b": S.FALLING_ASLEEP}
    assert moves(record("a", S.STANDBY), record("b", S.STARTING, health=HEALTHY)) == {"b": S.READY}
    assert moves(record("a", S.STARTING, health=HEALTHY), record("b", S.ASLEEP)) == {"a": S.READY}


@pytest.mark.parametrize(
    ("status", "answer", "to", "reason"),
    [
        (S.FALLING_ASLEEP, None, None, ""),
        (S.FALLING_ASLEEP, "", S.ASLEEP, ""),
        (S.FALLING_ASLEEP, "500", S.STOPPING, "could not be put to sleep: 500"),
        (S.WAKING, None, None, ""),
        (S.WAKING, "", S.READY, ""),
        (S.WAKING, "late", S.STOPPING, "could not be woken: late"),
    ],
)
def test_what_follows_the_answer(
    status: ReplicaStatus, answer: str | None, to: ReplicaStatus | None, reason: str
) -> None:
    first = record("a", S.WAITING if status is S.FALLING_ASLEEP else S.STANDBY)
    found = [move for move in decide(view(first, record("b", status, answer=answer)), NOW) if move.name == "b"]
    assert [(move.to, move.reason) for move in found] == ([(to, reason)] if to else [])


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
def test_what_becomes_of_one_that_dies(statuses: list[ReplicaStatus], dead: str, to: ReplicaStatus) -> None:
    assert moves(*models(*statuses), **{dead: DEAD})[dead] is to


def test_when_both_die_at_once_nobody_gives_way_to_the_dead() -> None:
    assert moves(*models(S.READY, S.ASLEEP), a=DEAD, b=DEAD) == {"a": S.BACKOFF, "b": S.STANDBY}


def test_a_sleeper_that_is_stopped_by_hand_is_left_so() -> None:
    assert moves(*models(S.READY, S.ASLEEP), b=STOPPED) == {"b": S.STOPPED}


def test_a_failure_for_good_stays_one() -> None:
    sleeper = record("b", S.ASLEEP)
    doomed = record("a", S.STARTING)
    assert moves(doomed, sleeper, a=Process(state=ProcessState.EXITED, exit_code=2)) == {"a": S.FAILED}


def test_nobody_wakes_before_the_gpu_is_free() -> None:
    assert moves(record("a", S.STANDBY, clear=False), record("b", S.ASLEEP)) == {}
    assert moves(record("a", S.STANDBY), record("b", S.FAILED, clear=False)) == {}
    assert moves(record("a", S.STANDBY, clear=False), record("b", S.FAILED)) == {}


def test_who_takes_over_says_from_whom_and_why() -> None:
    (woken,) = decide(view(record("a", S.STANDBY, reason="boom"), record("b", S.ASLEEP)), NOW)
    (started,) = decide(view(record("a", S.STANDBY), record("b", S.FAILED, reason="gave up")), NOW)
    assert woken.origin == "took over from a, which failed: boom"
    assert started.origin == "took over from b, which failed: gave up"


def test_a_call_begins_without_an_answer_and_with_fresh_health() -> None:
    asleep = record("b", S.ASLEEP, answer="", health=Health(failures=2), pid=7)
    waking = apply(asleep, Transition(name="b", to=S.WAKING), NOW)
    assert (waking.answer, waking.health, waking.pid, waking.holds_lease) == (None, Health(), 7, True)
    assert apply(asleep, Transition(name="b", to=S.STANDBY), NOW).pid is None
    assert not asleep.holds_lease


def test_other_standbys_are_none_of_its_business() -> None:
    hot = view(record("a", S.READY), record("b", S.STARTING, health=HEALTHY))
    hot = replace(hot, routes=(replace(hot.routes[0], standby=Standby.HOT),))
    assert [move.to for move in decide(hot, NOW)] == [S.READY]
