"""Models that are loaded on request: when they are loaded, and when they are unloaded again."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.control.decisions.eviction import Demand, Moment
from berth.control.decisions.records import LIVE
from berth.control.decisions.residency import BY_IDLE, BY_REQUEST, BY_STOP, Decision, Idle, decide, of_model
from berth.ipc.operations import Action, DenialCode, Keep
from berth.plan import Load, Standby
from berth.state import Cause, ChangeKind, ReplicaStatus
from tests.control.decisions.test_requests import DEAD, World

S = ReplicaStatus
IDLE_S = 100.0


class OnRequest(World):
    """With the requests of clients: each waits until its model is ready, and then takes one turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.route = replace(self.route, load=Load.ON_REQUEST, idle_unload_s=IDLE_S)
        self.records = {name: replace(one, status=S.UNLOADED) for name, one in self.records.items()}
        self.waiting = 0
        self.answered = 0
        self.loads = 0
        self.last_used_at = self.now

    def die(self) -> None:
        """The first engine that runs, once."""
        for name, record in self.records.items():
            if record.status in LIVE and not record.history.count:
                self.processes[name] = DEAD
                return

    def request(self, count: int = 1) -> None:
        self.waiting += count

    def turn(self) -> None:
        super().turn()
        if self.waiting and S.READY in self.statuses():
            self.answered, self.waiting, self.last_used_at = self.answered + self.waiting, 0, self.now
        if self.waiting:
            self.last_used_at = self.now
        demand = Demand(waiting=self.waiting, last_used_at=self.last_used_at)
        moment = Moment(now=self.now, wall=self.now)
        pins = self.operations.kept.pins
        for found in decide(self.observation(), {"chat": demand}, pins, moment):
            self.loads += found.decision is Decision.LOAD
            self.operations.decided(found, self.observation(), self.now)


@pytest.mark.parametrize("standby", Standby)
def test_first_request_loads_and_idle_time_unloads(standby: Standby) -> None:
    world = OnRequest(standby=standby)
    world.turns(50)
    assert set(world.statuses()) == {S.UNLOADED}

    world.request(3)
    world.turns(20)
    assert (world.answered, world.loads) == (3, 1)

    world.turns(int(IDLE_S) - 30)
    assert S.READY in world.statuses()
    world.turns(60)
    assert set(world.statuses()) == {S.UNLOADED}
    counts = {(one.change, one.why): one.count for one in world.operations.kept.changes}
    assert min(counts[ChangeKind.LOAD, Cause.REQUEST], counts[ChangeKind.UNLOAD, Cause.IDLE]) >= 1
    assert world.operations.kept.operations[-1].by == BY_IDLE


def test_without_idle_unload_it_stays_loaded() -> None:
    world = OnRequest(count=1)
    world.route = replace(world.route, idle_unload_s=None)
    world.request()

    assert world.turns(1000).statuses() == [S.READY]


def test_clients_say_how_long_it_stays_until_it_is_unloaded() -> None:
    world = OnRequest(count=1)
    world.request()
    world.turns(10)
    forever = Keep(model="chat", seconds=None)
    assert world.operations.keep(forever, world.observation()).denial is None
    assert world.turns(3 * int(IDLE_S)).statuses() == [S.READY]

    world.operations.keep(Keep(model="gpt", seconds=5), world.observation())
    world.turns(20)
    assert (world.statuses(), world.operations.kept.keep) == ([S.UNLOADED], {})
    denied = world.operations.keep(replace(forever, model="none"), world.observation()).denial
    assert denied is not None
    assert denied.code is DenialCode.UNKNOWN_MODEL


def test_models_that_are_always_loaded_stay_whatever_clients_say() -> None:
    world = World()
    world.operations.keep(Keep(model="chat", seconds=0), world.observation())
    assert world.operations.kept.keep == {}


def test_pinned_model_is_not_unloaded() -> None:
    world = OnRequest(count=1)
    world.request()
    world.turns(10)
    world.ask(Action.PIN)

    assert world.turns(500).statuses() == [S.READY]
    assert world.denied(Action.UNLOAD) is DenialCode.PINNED


@pytest.mark.parametrize("status", [one for one in S if one not in (S.READY, S.ASLEEP)])
def test_idle_time_does_not_count_while_it_is_not_ready(status: ReplicaStatus) -> None:
    world = TwoStages(count=1)
    records = [replace(world.records["r0"], status=status)]
    demand = Demand(waiting=0, last_used_at=world.now - 1e6)
    assert of_model(records, demand, None, Idle(unload_s=1, stop_s=1), world.now) is None


def test_request_during_the_drain_cancels_the_unload() -> None:
    world = OnRequest(count=1, busy=frozenset({"r0"}))
    world.request()
    world.turns(int(IDLE_S) + 20)
    assert world.statuses() == [S.DRAINING]

    world.request()
    world.turns(5)

    assert (world.statuses(), world.answered, world.loads) == ([S.READY], 2, 1)


def test_operator_unloads_until_the_next_request() -> None:
    world = OnRequest(count=1)
    world.request()
    world.turns(10)
    world.ask(Action.UNLOAD)
    assert world.turns(50).statuses() == [S.UNLOADED]

    world.request()
    assert world.turns(10).statuses() == [S.READY]


def test_request_wakes_what_was_put_to_sleep() -> None:
    world = OnRequest(count=1)
    world.request()
    world.turns(10)
    world.ask(Action.SLEEP)
    assert world.turns(50).statuses() == [S.ASLEEP]

    world.request()
    assert world.turns(10).statuses() == [S.READY]
    assert world.records["r0"].starts == 1


def test_load_that_fails_permanently_is_not_repeated() -> None:
    world = OnRequest(count=1, broken=frozenset({"r0"}))
    world.request()
    world.turns(300)

    assert (world.statuses(), world.loads) == ([S.FAILED], 1)
    assert not world.operations.running


def test_nothing_is_loaded_while_berth_stops() -> None:
    world = OnRequest(count=1)
    observation = replace(world.observation(), shutting_down=True)

    moment = Moment(now=world.now, wall=world.now)
    assert list(decide(observation, {"chat": Demand(waiting=1, last_used_at=0)}, (), moment)) == []


NAMES = ["request", "die", "unload", "sleep", "cancel", "wait", "restart control"]
EVENTS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 30)))


@pytest.mark.timeout(120)
@settings(max_examples=100, deadline=None)
@given(standby=st.sampled_from(Standby), count=st.integers(1, 3), events=EVENTS)
def test_every_request_is_answered_whatever_happens(
    standby: Standby, count: int, events: list[tuple[str, int]]
) -> None:
    world, requests = OnRequest(standby=standby, count=count), 0
    for event, turns in events:
        match event:
            case "request":
                world.request()
                requests += 1
            case "die":
                world.die()
            case "restart control":
                world.restart_control()
            case "cancel":
                for operation in world.operations.running:
                    world.operations.cancel(operation.id)
            case "unload" | "sleep":
                change = Action(event)
                if not world.operations.running and any(one.status is S.READY for one in world.records.values()):
                    world.ask(change)
        world.turns(turns)
    world.turns(400)

    assert (world.answered, world.waiting) == (requests, 0)
    assert not world.operations.running
    assert set(world.statuses()) <= {S.UNLOADED, S.ASLEEP, S.STANDBY}


STOP_S = 500.0


class TwoStages(OnRequest):
    """It falls asleep when it is idle, and is unloaded later."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.route = replace(self.route, idle_stop_s=STOP_S)


def test_idle_model_falls_asleep_and_is_unloaded_later() -> None:
    world = TwoStages()
    world.request()
    world.turns(20 + int(IDLE_S))
    assert world.statuses() == [S.ASLEEP, S.ASLEEP]
    world.turns(int(STOP_S) - 60)
    assert world.statuses() == [S.ASLEEP, S.ASLEEP]
    world.turns(80)
    assert world.statuses() == [S.UNLOADED, S.UNLOADED]
    assert [one.by for one in world.operations.kept.operations] == [BY_REQUEST, BY_IDLE, BY_STOP]
    counts = {(one.change, one.why) for one in world.operations.kept.changes}
    assert {(ChangeKind.SLEEP, Cause.IDLE), (ChangeKind.UNLOAD, Cause.IDLE)} <= counts


def test_request_wakes_an_idle_model_and_its_time_begins_again() -> None:
    world = TwoStages(count=1)
    world.request()
    for _ in range(3):
        world.turns(20 + int(IDLE_S))
        assert world.statuses() == [S.ASLEEP]
        world.turns(int(STOP_S) - 100)
        world.request()
    world.turns(10)
    assert (world.statuses(), world.answered, world.records["r0"].starts) == ([S.READY], 4, 1)


def test_operators_sleep_ends_with_idle_stop_too_but_not_while_it_is_pinned() -> None:
    world = TwoStages(count=1)
    world.request()
    world.turns(10)
    world.ask(Action.SLEEP)
    world.turns(10)
    world.ask(Action.PIN)
    assert world.turns(2 * int(STOP_S)).statuses() == [S.ASLEEP]
    world.ask(Action.UNPIN)
    assert world.turns(10).statuses() == [S.UNLOADED]


@pytest.mark.parametrize("fields", [{"sleeps": False}, {"insomniac": frozenset({"r0"})}])
def test_model_that_does_not_sleep_is_unloaded_when_it_is_idle(fields: dict[str, object]) -> None:
    world = TwoStages(count=1, **fields)  # type: ignore[arg-type] # by their names
    world.request()
    world.turns(3 * int(IDLE_S))
    assert world.statuses() == [S.UNLOADED]
    assert world.operations.kept.operations[-1].by == BY_IDLE


def test_client_that_unloads_it_lets_it_sleep_and_its_next_load_stays_as_usual() -> None:
    world = TwoStages(count=1)
    world.request()
    world.turns(10)
    world.operations.keep(Keep(model="chat", seconds=0), world.observation())
    assert world.turns(10).statuses() == [S.ASLEEP]
    world.request()
    assert world.turns(int(IDLE_S) - 20).statuses() == [S.READY]
