"""Operations on replicas, in a world of simulated engines: they end, and leave what was requested."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from berth.control.decisions import lifecycle
from berth.control.decisions.eviction import BY_SWAP
from berth.control.decisions.records import LIVE, Goal, Observation, Record
from berth.control.operations.event_ring import EventRing
from berth.control.operations.store import Operations
from berth.control.probes import Health
from berth.control.supervisord_client import Process, ProcessState
from berth.ipc.bench import Bench
from berth.ipc.operations import Action, Change, DenialCode, Operation, OperationState, Renewal, Reply
from berth.plan import Launch, ModelRoute, Restarts, Sleep, Standby, Task
from berth.state import ReplicaStatus
from tests.control.takeover import records_of_the_next, same
from tests.fakes.plans import make_plan, make_replica

S = ReplicaStatus
LAUNCH = Launch(argv=("engine",))
SLEEP = Sleep(sleep_path="/sleep", wake_path="/wake")
DEAD = Process(state=ProcessState.EXITED, exit_code=1)
SERVING = (S.STARTING, S.READY, S.DRAINING, S.WAKING, S.FALLING_ASLEEP)


@dataclass
class World:
    """Engines that do at each turn what control decided: a start or a call takes one turn."""

    standby: Standby = Standby.HOT
    count: int = 2
    sleeps: bool = True
    now: float = 1000.0
    busy: frozenset[str] = frozenset()  # replicas whose requests do not finish
    broken: frozenset[str] = frozenset()  # replicas whose starts fail
    insomniac: frozenset[str] = frozenset()  # replicas whose call to sleep fails
    dazed: frozenset[str] = frozenset()  # replicas that wake badly
    processes: dict[str, Process] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        names = tuple(f"r{number}" for number in range(self.count))
        replicas = [replace(make_replica(name, launch=LAUNCH), sleep=SLEEP if self.sleeps else None) for name in names]
        self.route = ModelRoute(
            name="chat", aliases=("gpt",), source="c", task=Task.GENERATE, standby=self.standby, replicas=names
        )
        in_turn = self.standby is Standby.COLD
        self.records = {
            one.name: Record(replica=one, status=S.STANDBY if in_turn and number else S.WAITING, since=self.now)
            for number, one in enumerate(replicas)
        }
        self.events = EventRing()
        self.operations = Operations(self.events, wall=lambda: self.now)

    def observation(self) -> Observation:
        drained = {name for name, record in self.records.items() if record.status is S.DRAINING} - self.busy
        return Observation(
            records=tuple(self.records.values()),
            processes=self.processes,
            failures={},
            routes=(self.route,),
            keep=self.operations.kept.keep,
            restarts=Restarts(failures=3, backoff_first_s=1),
            operations=self.operations.running,
            drained=frozenset(drained),
        )

    def turn(self) -> None:
        self.now += 1
        for transition in lifecycle.decide(self.observation(), self.now):
            before = self.records[transition.name]
            record = lifecycle.apply(before, transition, self.now)
            self.operations.learned(before, record, self.now)
            self.records[transition.name] = record
            if transition.to is S.STARTING:
                dies = transition.name in self.broken
                alive = Process(state=ProcessState.RUNNING, pid=7)
                self.processes[transition.name] = DEAD if dies else alive
                self.records[transition.name] = replace(record, health=Health(ok=True, ever_ok=True))
            elif transition.to in (S.FALLING_ASLEEP, S.WAKING):
                sick, error = (
                    (self.insomniac, "no memory") if transition.to is S.FALLING_ASLEEP else (self.dazed, "no answer")
                )
                result = error if transition.name in sick else ""
                self.records[transition.name] = replace(record, sleep_result=result)
            elif transition.to is S.STOPPING:
                self.processes[transition.name] = Process(state=ProcessState.STOPPED)
        for name, record in self.records.items():
            if record.status not in LIVE:
                self.records[name] = replace(record, cleaned_up=True)
        self.operations.settle(self.observation(), (), self.now)
        if self.standby is Standby.COLD:
            assert sum(record.status in SERVING for record in self.records.values()) <= 1
        elif self.standby is Standby.WARM:
            awake = [record.status for record in self.records.values() if record.status in (S.READY, S.WAKING)]
            assert len(awake) <= 1

    def restart_control(self) -> None:
        """What the one before did not see to its end is seen by this one."""
        self.records, self.operations = records_of_the_next(
            self.records, self.operations, self.processes, (self.route,), self.now
        )
        for name, record in self.records.items():
            if record.status is S.STARTING:
                self.records[name] = replace(record, health=Health(ok=True, ever_ok=True))
            elif record.status in (S.FALLING_ASLEEP, S.WAKING):
                sick = self.insomniac if record.status is S.FALLING_ASLEEP else self.dazed
                self.records[name] = replace(record, sleep_result="no answer" if name in sick else "")

    def turns(self, count: int = 40) -> "World":
        for _ in range(count):
            self.turn()
        return self

    def ask(self, action: Action, model: str = "chat", *, count: int | None = None, **fields: float) -> Operation:
        reply = self.operations.ask(
            Change(action=action, model=model, by="me", count=count, drain_s=fields.get("drain_s", 300)),
            self.observation(),
            workers=(),
            now=self.now,
        )
        assert reply.denial is None, reply.denial
        assert reply.operation is not None
        return reply.operation

    def denied(self, action: Action, model: str = "chat", count: int | None = None) -> DenialCode:
        change = Change(action=action, model=model, by="me", count=count)
        reply = self.operations.ask(change, self.observation(), workers=(), now=self.now)
        assert reply.denial is not None, reply.operation
        return reply.denial.code

    def state(self, operation: Operation) -> OperationState:
        found = self.operations.find(operation.id)
        assert found is not None
        return found.state

    def statuses(self) -> list[ReplicaStatus]:
        return [record.status for record in self.records.values()]


STEADY: Mapping[Standby, list[ReplicaStatus]] = {
    Standby.HOT: [S.READY, S.READY],
    Standby.COLD: [S.READY, S.STANDBY],
    Standby.WARM: [S.READY, S.ASLEEP],
}


@pytest.mark.parametrize("standby", Standby)
@pytest.mark.parametrize(
    ("action", "ends"),
    [(Action.UNLOAD, [S.UNLOADED, S.UNLOADED]), (Action.RESTART, None), (Action.LOAD, None)],
)
def test_operation_ends_as_requested(standby: Standby, action: Action, ends: list[ReplicaStatus] | None) -> None:
    world = World(standby=standby).turns()
    assert world.statuses() == STEADY[standby]

    operation = world.ask(action)
    world.turns()

    assert world.state(operation) is OperationState.DONE
    assert world.statuses() == (ends or STEADY[standby])


@pytest.mark.parametrize("standby", Standby)
def test_loads_again_what_was_unloaded_as_at_boot(standby: Standby) -> None:
    world = World(standby=standby).turns()
    world.ask(Action.UNLOAD)
    world.turns()

    operation = world.ask(Action.LOAD)
    world.turns()

    assert (world.state(operation), world.statuses()) == (OperationState.DONE, STEADY[standby])


def test_unloaded_model_stays_unloaded() -> None:
    world = World(standby=Standby.WARM).turns()
    world.ask(Action.UNLOAD)

    assert world.turns(200).statuses() == [S.UNLOADED, S.UNLOADED]


def test_sleeps_until_it_is_woken() -> None:
    world = World().turns()
    operation = world.ask(Action.SLEEP)
    assert world.turns(200).statuses() == [S.ASLEEP, S.ASLEEP]
    assert world.state(operation) is OperationState.DONE

    operation = world.ask(Action.WAKE)
    assert world.turns().statuses() == [S.READY, S.READY]
    assert world.state(operation) is OperationState.DONE
    assert {record.starts for record in world.records.values()} == {1}


def test_engine_that_does_not_fall_asleep_is_loaded_again_and_unloaded_the_next_time() -> None:
    world = World(insomniac=frozenset({"r1"})).turns()
    operation = world.ask(Action.SLEEP)

    world.turns()

    found = world.operations.find(operation.id)
    assert found is not None
    assert (found.state, found.reason) == (OperationState.FAILED, "r1 could not be put to sleep: no memory")
    assert world.statuses() == [S.ASLEEP, S.READY]
    assert [record.history.count for record in world.records.values()] == [0, 0]

    operation = world.ask(Action.SLEEP)
    world.turns()
    found = world.operations.find(operation.id)
    assert found is not None
    assert (found.state, found.reason.startswith("unloaded instead: r1")) == (OperationState.DONE, True)
    assert world.statuses() == [S.ASLEEP, S.UNLOADED]

    world.ask(Action.LOAD)
    assert world.turns().statuses() == [S.READY, S.READY]


def test_engine_that_wakes_badly_is_marked() -> None:
    world = World(count=1).turns()
    world.ask(Action.SLEEP)
    world.turns()
    world.dazed = frozenset({"r0"})
    world.ask(Action.WAKE)
    world.turns()

    assert world.statuses() == [S.READY]
    assert world.records["r0"].starts == 2
    assert world.records["r0"].cannot_sleep == "could not be woken: no answer"


def test_sleeper_that_dies_is_unloaded() -> None:
    world = World(count=1).turns()
    world.ask(Action.SLEEP)
    world.turns()

    world.processes["r0"] = DEAD

    assert world.turns().statuses() == [S.UNLOADED]


@pytest.mark.parametrize("by", ["me", "idle_unload", f"{BY_SWAP} to other"])
def test_model_that_dies_before_it_drains_gives_its_room_up(by: str) -> None:
    """However long its back-off is: one that flaps waits for minutes, and with it all that wait for its room."""
    world = World(count=1).turns()
    change = Change(action=Action.SLEEP, model="chat", by=by)
    operation = world.operations.ask(change, world.observation(), workers=(), now=world.now).operation
    assert operation is not None
    failed = world.records["r0"]
    world.processes["r0"] = DEAD
    world.records["r0"] = replace(failed, status=S.BACKOFF, next_start_at=world.now + 1000, cleaned_up=True)

    assert world.turns(5).statuses() == [S.UNLOADED]
    found = world.operations.find(operation.id)
    assert found is not None
    assert (found.state, found.reason) == (OperationState.DONE, "unloaded instead: it was not loaded any more")
    assert world.records["r0"].starts == failed.starts


def test_restarts_one_replica_after_another() -> None:
    world = World(count=3).turns()
    world.ask(Action.RESTART)

    for _ in range(40):
        world.turn()
        assert sum(status is S.READY for status in world.statuses()) >= 2

    assert [record.starts for record in world.records.values()] == [2, 2, 2]


def test_restarts_one_replica_by_its_name() -> None:
    world = World().turns()
    world.ask(Action.RESTART, "r1")
    world.turns()

    assert [record.starts for record in world.records.values()] == [1, 2]


def test_restart_gives_a_failed_replica_one_more_start() -> None:
    world = World(count=1, broken=frozenset({"r0"})).turns(100)
    assert world.statuses() == [S.FAILED]
    before = world.records["r0"].starts

    operation = world.ask(Action.RESTART)
    world.turns(100)
    assert (world.state(operation), world.statuses()) == (OperationState.FAILED, [S.FAILED])
    assert world.records["r0"].starts > before

    world.broken = frozenset()
    operation = world.ask(Action.LOAD)
    world.turns()
    assert (world.state(operation), world.statuses()) == (OperationState.DONE, [S.READY])


def test_failed_replica_does_not_start_while_another_one_serves_in_its_place() -> None:
    world = World(standby=Standby.COLD, broken=frozenset({"r0"})).turns(100)
    assert world.statuses() == [S.FAILED, S.READY]

    assert world.denied(Action.RESTART, "r0") is DenialCode.NOT_LOADED
    operation = world.ask(Action.RESTART)
    world.turns()

    assert (world.state(operation), world.statuses()) == (OperationState.DONE, [S.FAILED, S.READY])
    assert world.records["r1"].starts == 2


def test_waits_for_running_requests_but_not_longer_than_the_drain_time() -> None:
    world = World(count=1, busy=frozenset({"r0"})).turns()
    operation = world.ask(Action.UNLOAD, drain_s=100)

    assert world.turns(90).statuses() == [S.DRAINING]
    assert world.records["r0"].goal is Goal.UNLOADED
    assert world.turns(20).statuses() == [S.UNLOADED]
    assert world.state(operation) is OperationState.DONE
    assert world.records["r0"].reason == "unload requested by me; its last requests were cut"


def test_cancelled_operation_lets_a_draining_replica_serve_again() -> None:
    world = World(count=1, busy=frozenset({"r0"})).turns()
    operation = world.ask(Action.UNLOAD)
    world.turns(2)

    world.operations.cancel(operation.id)

    assert world.turns(2).statuses() == [S.READY]
    assert world.state(operation) is OperationState.CANCELLED
    assert world.records["r0"].goal is None


def test_unloads_what_has_not_become_ready_yet() -> None:
    world = World(broken=frozenset({"r1"}))
    world.turns(2)
    world.ask(Action.UNLOAD)

    assert world.turns().statuses() == [S.UNLOADED, S.UNLOADED]


CHANGES = st.lists(
    st.tuples(st.sampled_from([a for a in Action if a is not Action.RELOAD]), st.integers(0, 6)), max_size=8
)
NAMES = st.sets(st.sampled_from(["r0", "r1", "r2"])).map(frozenset)
WORLDS = st.builds(
    World,
    standby=st.sampled_from(Standby),
    count=st.integers(1, 3),
    busy=NAMES,
    broken=NAMES,
    insomniac=NAMES,
    dazed=NAMES,
)


@pytest.mark.timeout(120)
@settings(max_examples=100, deadline=None)
@given(world=WORLDS, changes=CHANGES)
@example(
    world=World(standby=Standby.WARM, count=3, insomniac=frozenset({"r0", "r1"})),
    changes=[(Action.PIN, 4), (Action.RESTART, 0)],
)
@example(
    world=World(standby=Standby.COLD, broken=frozenset({"r0"})),
    changes=[(Action.LOAD, 1), (Action.LOAD, 6), (Action.LOAD, 0)],
)
@example(
    world=World(standby=Standby.WARM),
    changes=[(Action.SLEEP, 8), (Action.RESTART, 4), (Action.LOAD, 0)],
)
@example(
    world=World(count=3, busy=frozenset({"r1"}), insomniac=frozenset({"r0"})),
    changes=[(Action.SCALE, 0), (Action.SLEEP, 2), (Action.SCALE, 2), (Action.RESTART, 1), (Action.SCALE, 1)],
)
def test_every_operation_ends_and_only_allowed_transitions_happen(
    world: World, changes: list[tuple[Action, int]]
) -> None:
    for action, turns in changes:
        count = turns % 3 + 1 if action is Action.SCALE else None
        change = Change(action=action, model="gpt", by="me", count=count, drain_s=20)
        world.operations.ask(change, world.observation(), workers=(), now=world.now)
        world.turns(turns)

    world.turns(200)

    assert not world.operations.running
    assert not any(record.status is S.DRAINING for record in world.records.values())


@pytest.mark.parametrize("action", [Action.UNLOAD, Action.RESTART, Action.SLEEP])
def test_engine_that_hangs_is_not_waited_for(action: Action) -> None:
    world = World(count=1, busy=frozenset({"r0"})).turns(4)
    world.ask(action)
    assert world.turns(2).statuses() == [S.DRAINING]

    world.records["r0"] = replace(world.records["r0"], defect="it hangs")
    world.turn()

    assert world.statuses() == [S.STOPPING]
    assert world.records["r0"].reason.endswith("; it hangs")


def scaled(count: int, world: World) -> list[ReplicaStatus]:
    operation = world.ask(Action.SCALE, count=count)
    world.turns()
    assert world.state(operation) is OperationState.DONE
    return world.statuses()


def test_scales_down_and_up_again() -> None:
    world = World(count=3).turns()
    assert scaled(1, world) == [S.READY, S.UNLOADED, S.UNLOADED]
    assert scaled(2, world) == [S.READY, S.READY, S.UNLOADED]
    assert scaled(3, world) == [S.READY] * 3
    assert scaled(3, world) == [S.READY] * 3


def test_scale_keeps_what_serves() -> None:
    world = World(count=3, broken=frozenset({"r0"})).turns(60)
    assert world.statuses() == [S.FAILED, S.READY, S.READY]
    assert scaled(1, world) == [S.UNLOADED, S.READY, S.UNLOADED]


def test_scale_starts_what_was_given_up_once_more() -> None:
    world = World(count=2, broken=frozenset({"r1"})).turns(60)
    assert world.statuses() == [S.READY, S.FAILED]

    fails = world.ask(Action.SCALE, count=2)
    world.turns(60)
    found = world.operations.find(fails.id)
    assert found is not None
    assert (found.state, found.reason.startswith("r1 is failed")) == (OperationState.FAILED, True)

    world.broken = frozenset()
    assert scaled(2, world) == [S.READY, S.READY]


def test_load_and_unload_keep_the_scale() -> None:
    world = World(count=3).turns()
    scaled(2, world)
    for action in (Action.UNLOAD, Action.LOAD, Action.RESTART):
        operation = world.ask(action)
        world.turns()
        assert world.state(operation) is OperationState.DONE
    assert world.statuses() == [S.READY, S.READY, S.UNLOADED]


def test_scale_waits_for_the_requests_of_what_leaves_and_can_be_cancelled() -> None:
    world = World(count=2, busy=frozenset({"r1"})).turns()
    operation = world.ask(Action.SCALE, count=1)
    assert world.turns(5).statuses() == [S.READY, S.DRAINING]

    world.operations.cancel(operation.id)

    assert world.turns().statuses() == [S.READY, S.READY]
    assert world.operations.kept.wanted(world.route) == ("r0", "r1")


def test_scale_wakes_what_it_keeps() -> None:
    world = World(count=2).turns()
    world.ask(Action.SLEEP)
    world.turns()
    assert world.statuses() == [S.ASLEEP, S.ASLEEP]
    assert scaled(1, world) == [S.READY, S.UNLOADED]


def test_steps_of_a_scale_show_both_ends() -> None:
    world = World(count=3).turns()
    scaled(1, world)
    world.records["r0"] = replace(world.records["r0"], status=S.FAILED)  # another one is kept then
    change = Change(action=Action.SCALE, model="chat", count=2, dry_run=True)

    reply = world.operations.ask(change, world.observation(), workers=(), now=world.now)

    assert [(step.replica, step.to) for step in reply.steps] == [
        ("r0", "unloaded"),
        ("r1", "ready"),
        ("r2", "ready"),
    ]
    assert world.operations.kept.wanted(world.route) == ("r0",)


@pytest.mark.parametrize(
    ("world", "action", "count"),
    [
        (World(count=2), Action.SCALE, None),
        (World(count=2), Action.SCALE, 0),
        (World(count=2), Action.SCALE, 3),
        (World(count=2), Action.LOAD, 1),
        (World(count=1), Action.SCALE, 1),
        (World(count=2, standby=Standby.COLD), Action.SCALE, 1),
    ],
)
def test_scale_is_a_number_of_replicas_that_have_a_place(world: World, action: Action, count: int | None) -> None:
    assert world.denied(action, count=count) is DenialCode.INVALID


def test_only_the_replicas_of_the_start_are_loaded_then() -> None:
    replicas = [make_replica(name, launch=LAUNCH) for name in ("r0", "r1", "r2")]
    plan = make_plan("/run", *replicas)
    route = replace(plan.models[0], standby=Standby.HOT, at_start=1)

    first = lifecycle.first_records(replace(plan, models=(route,)), 0)

    assert [record.status for record in first] == [S.WAITING, S.UNLOADED, S.UNLOADED]
    assert first[1].reason == "loaded by `berth scale`"


def test_steps_say_how_long_they_take() -> None:
    world = World(count=2).turns()
    world.ask(Action.SLEEP)
    world.turns()
    times = {S.ASLEEP: 2.5, S.UNLOADED: 40.0}
    world.operations._expected_s = lambda record: times.get(record.status)
    world.records["r1"] = replace(world.records["r1"], status=S.UNLOADED)
    change = Change(action=Action.LOAD, model="chat", dry_run=True)

    reply = world.operations.ask(change, world.observation(), workers=(), now=world.now)

    assert [(step.replica, step.about_s) for step in reply.steps] == [("r0", 2.5), ("r1", 40.0)]


def lease_of(world: World, lease: Operation, replica: str = "", *, ends: bool = False) -> Reply:
    renewal = Renewal(operation=lease.id, replica=replica, ends=ends)
    return world.operations.renew(renewal, world.observation(), world.now)


def hold(world: World, lease: Operation, replica: str, turns: int = 12) -> Reply:
    """Renewed at every turn."""
    reply = lease_of(world, lease, replica)
    for _ in range(turns):
        world.turn()
        reply = lease_of(world, lease, replica)
    return reply


@pytest.mark.parametrize("standby", Standby)
def test_lease_runs_replicas_one_at_a_time_and_restores_the_model(standby: Standby) -> None:
    world = World(standby=standby).turns()
    lease = world.ask(Action.LEASE)
    for replica, expected in [
        ("", [S.UNLOADED, S.UNLOADED]),
        ("r1", [S.UNLOADED, S.READY]),
        ("r0", [S.READY, S.UNLOADED]),
        ("r1", [S.UNLOADED, S.READY]),
        ("", [S.UNLOADED, S.UNLOADED]),
        ("r1", [S.UNLOADED, S.READY]),
    ]:
        reply = hold(world, lease, replica)
        assert (world.statuses(), reply.steps) == (expected, ()), replica
    assert world.denied(Action.LOAD) is DenialCode.BUSY
    assert world.denied(Action.LEASE) is DenialCode.BUSY

    assert lease_of(world, lease, ends=True).denial is None
    world.turns()

    assert world.state(lease) is OperationState.DONE
    assert world.statuses() == STEADY[standby]
    assert world.operations.running == ()


def test_lease_has_the_digest_of_its_holders_key_while_it_runs() -> None:
    world = World(standby=Standby.COLD).turns()
    lease = world.ask(Action.LEASE)
    for renewal, digest in (
        (Renewal(operation=lease.id, key_digest="a" * 64 + "too long"), "a" * 64),
        (Renewal(operation=lease.id, key_digest="a" * 64, ends=True), ""),
    ):
        world.operations.renew(renewal, world.observation(), world.now)
        found = world.operations.find(lease.id)
        assert found is not None
        assert found.key_digest == digest


def bench(world: World, **options: Any) -> Reply:
    change = Change(action=Action.LEASE, model="chat", by="me", bench=Bench(**options))
    return world.operations.ask(change, world.observation(), workers=(), now=world.now)


def test_bench_is_a_lease_for_which_a_program_is_started_once() -> None:
    world = World(standby=Standby.COLD).turns()
    lease = bench(world, workload="512/64").operation
    assert lease is not None
    assert (lease.action, lease.bench) == (Action.LEASE, Bench(workload="512/64"))
    due = world.operations.take_bench()
    assert due is not None
    assert due.id == lease.id
    assert world.operations.take_bench() is None
    world.operations.bench_waits(due)
    assert world.operations.take_bench() == due

    hold(world, lease, "r1")  # it holds it
    again = bench(world, workload="512/64").operation
    assert again is not None
    assert again.id == lease.id
    other = bench(world, workload="1024/64").denial
    assert other is not None
    assert other.code is DenialCode.BUSY
    assert world.denied(Action.LEASE) is DenialCode.BUSY
    assert world.operations.take_bench() is None


def test_holder_of_a_lease_says_what_it_does_and_why_it_fails() -> None:
    world = World(standby=Standby.COLD).turns()
    lease = world.ask(Action.LEASE)
    for text in ("r0: start 1 of 4", "r0: start 1 of 4", "", "r0: quality" + "." * 500):
        renewal = Renewal(operation=lease.id, progress=text)
        world.operations.renew(renewal, world.observation(), world.now)
    found = world.operations.find(lease.id)
    assert found is not None
    assert (found.progress[:11], len(found.progress)) == ("r0: quality", 200)
    said = [one.change for one in world.events.after(0) if one.operation == lease.id]
    assert said == ["running", "r0: start 1 of 4", found.progress]

    ended = Renewal(operation=lease.id, ends=True, failure="r1 does not start" + "!" * 999)
    world.operations.renew(ended, world.observation(), world.now)
    world.turns()
    found = world.operations.find(lease.id)
    assert found is not None
    assert (found.state, found.reason.rstrip("!"), len(found.reason)) == (
        OperationState.FAILED,
        "r1 does not start",
        400,
    )
    assert world.statuses() == STEADY[Standby.COLD]


def test_bench_whose_program_does_not_start_fails_at_once() -> None:
    world = World(standby=Standby.COLD).turns()
    lease = bench(world).operation
    assert lease is not None
    world.operations.bench_failed(lease, "supervisord is gone")
    world.operations.bench_waits(lease)
    assert world.operations.take_bench() is None
    world.turns()
    found = world.operations.find(lease.id)
    assert found is not None
    assert (found.state, found.reason) == (OperationState.FAILED, "supervisord is gone")


@pytest.mark.parametrize(("action", "options"), [(Action.UNLOAD, Bench()), (Action.LEASE, Bench(workload="x" * 1000))])
def test_only_a_lease_takes_a_bench_and_only_a_short_one(action: Action, options: Bench) -> None:
    world = World().turns()
    change = Change(action=action, model="chat", bench=options)
    reply = world.operations.ask(change, world.observation(), workers=(), now=world.now)
    assert reply.denial is not None
    assert reply.denial.code is DenialCode.INVALID


@pytest.mark.parametrize("how", ["expires", "is cancelled"])
def test_lease_that_ends_otherwise_restores_the_model_too(how: str) -> None:
    world = World(standby=Standby.COLD).turns()
    lease = world.ask(Action.LEASE)
    hold(world, lease, "r1")
    if how == "is cancelled":
        world.operations.cancel(lease.id)
        reply = lease_of(world, lease, "r1")
        assert reply.denial is not None
        assert reply.denial.code is DenialCode.OVER
    world.turns(60)

    assert world.state(lease) is (OperationState.FAILED if how == "expires" else OperationState.CANCELLED)
    assert world.statuses() == STEADY[Standby.COLD]


def test_lease_leaves_an_unloaded_model_unloaded() -> None:
    world = World().turns()
    world.ask(Action.UNLOAD)
    world.turns()
    lease = world.ask(Action.LEASE)
    hold(world, lease, "r0")
    lease_of(world, lease, ends=True)
    world.turns()
    assert world.statuses() == [S.UNLOADED, S.UNLOADED]


def test_leased_replica_that_fails_is_given_up_and_shown() -> None:
    world = World(standby=Standby.COLD, broken=frozenset({"r1"})).turns()
    lease = world.ask(Action.LEASE)
    reply = hold(world, lease, "r1", turns=20)
    assert [(step.replica, step.status) for step in reply.steps] == [("r1", S.FAILED)]
    assert world.records["r1"].starts == 3


def test_leased_replica_that_sleeps_is_started_anew() -> None:
    world = World(standby=Standby.HOT).turns()
    world.ask(Action.SLEEP)
    world.turns()
    lease = world.ask(Action.LEASE)
    starts = world.records["r0"].starts
    hold(world, lease, "r0")
    assert world.statuses() == [S.READY, S.UNLOADED]
    assert world.records["r0"].starts == starts + 1


@pytest.mark.parametrize(
    ("operation", "replica", "code"),
    [
        ("none", "", DenialCode.UNKNOWN_OPERATION),
        ("load", "", DenialCode.OVER),
        ("lease", "r7", DenialCode.INVALID),
    ],
)
def test_what_cannot_be_renewed(operation: str, replica: str, code: DenialCode) -> None:
    world = World().turns()
    number = "x" if operation == "none" else world.ask(Action(operation)).id
    reply = world.operations.renew(Renewal(operation=number, replica=replica), world.observation(), world.now)
    assert reply.denial is not None
    assert reply.denial.code is code


def test_no_lease_on_a_pinned_model_nor_on_gpus_that_another_one_uses() -> None:
    world = World().turns()
    world.operations.pin(["chat"])
    assert world.denied(Action.LEASE) is DenialCode.PINNED
    world = World().turns()
    for name in world.records:
        world.records[name] = replace(world.records[name], replica=replace(world.records[name].replica, gpus=(0,)))
    other = replace(make_replica("other", launch=LAUNCH), model="other", gpus=(0,))
    world.records["other"] = Record(replica=other, status=S.READY, since=world.now)
    assert world.denied(Action.LEASE) is DenialCode.SHARED_GPUS
    world.records["other"] = Record(replica=other, status=S.UNLOADED, since=world.now)
    world.ask(Action.LEASE)


@pytest.mark.parametrize("standby", Standby)
@pytest.mark.parametrize("action", [Action.LOAD, Action.UNLOAD, Action.SLEEP, Action.RESTART])
def test_operation_goes_on_whenever_control_is_restarted(standby: Standby, action: Action) -> None:
    def begin() -> tuple[World, Operation]:
        world = World(standby=standby).turns()
        if action is Action.LOAD:
            world.ask(Action.UNLOAD)
            world.turns()
        return world, world.ask(action)

    whole, operation = begin()
    whole.turns()
    for turns in range(15):
        world, operation = begin()
        world.turns(turns)
        before = dict(world.records)
        world.restart_control()
        assert all(same(one, world.records[name]) for name, one in before.items()), world.records
        world.turns(60)
        assert (world.state(operation), world.statuses()) == (OperationState.DONE, whole.statuses()), turns
