"""What is requested of a model while an operation of it runs. Clients always wait and are served, whatever runs; what
an operator requests takes the place of what Berth does by itself; only two operators can be in each other's way.
"""

from collections.abc import Callable, Iterator

import pytest

from berth.ipc.operations import Action, Change, DenialCode, Keep, OperationState, Reply
from berth.state import ReplicaStatus
from tests.control.decisions.test_eviction import Box
from tests.control.decisions.test_residency import IDLE_S, OnRequest, TwoStages

S = ReplicaStatus
BUSY = frozenset({"r0", "r1"})


def loaded(kind: type[OnRequest] = OnRequest) -> OnRequest:
    world = kind(count=2)
    world.request()
    world.turns(10)
    assert world.statuses() == [S.READY, S.READY]
    return world


def idle_unload() -> OnRequest:
    world = loaded()
    world.busy = BUSY  # as long as the test says, it drains
    world.turns(int(IDLE_S))
    return world


def idle_sleep() -> OnRequest:
    world = loaded(TwoStages)
    world.busy = BUSY
    world.turns(int(IDLE_S))
    return world


def idle_stop() -> OnRequest:
    world = loaded(TwoStages)
    world.turns(int(IDLE_S) + 10)
    while not world.operations.running:
        world.turn()
    return world


def load_for_a_request() -> OnRequest:
    world = OnRequest(count=2)
    world.request()
    world.turn()
    return world


def load_that_wakes() -> OnRequest:
    world = loaded()
    world.ask(Action.SLEEP)
    world.turns(10)
    world.request()
    world.turn()
    return world


def by_operator(action: Action, count: int | None = None) -> Callable[[], OnRequest]:
    def begin() -> OnRequest:
        world = loaded()
        world.busy = BUSY
        if action is Action.LOAD:
            world.busy = frozenset()
            world.ask(Action.UNLOAD)
            world.turns(10)
        world.ask(action, count=count)
        world.turn()
        return world

    return begin


OWN = {"idle": idle_unload, "sleep": idle_sleep, "stop": idle_stop, "load": load_for_a_request, "wake": load_that_wakes}
OPERATORS = {
    "unload": by_operator(Action.UNLOAD),
    "sleep": by_operator(Action.SLEEP),
    "restart": by_operator(Action.RESTART),
    "load": by_operator(Action.LOAD),
    "scale": by_operator(Action.SCALE, 1),
}


def phases(begin: Callable[[], OnRequest]) -> Iterator[OnRequest]:
    """The world at each turn of the operation: while requests keep it draining, and then until it is over."""
    for drains in (0, 1, 3):
        for turns in range(20):
            world = begin()
            world.turns(drains)
            world.busy = frozenset()
            world.turns(turns)
            if not world.operations.running:
                break
            yield world
        else:
            raise AssertionError("it does not end")


def asked(world: OnRequest, action: Action, count: int | None = None) -> Reply:
    change = Change(action=action, model="chat", by="me", count=count)
    return world.operations.ask(change, world.observation(), workers=(), now=world.now)


@pytest.mark.parametrize(
    "begin", [*OWN.values(), *OPERATORS.values()], ids=[*(f"own {one}" for one in OWN), *OPERATORS]
)
def test_clients_are_served_whatever_runs(begin: Callable[[], OnRequest]) -> None:
    seen = set[ReplicaStatus]()
    for world in phases(begin):
        seen.update(world.statuses())
        before = world.answered + world.waiting
        world.operations.keep(Keep(model="chat", seconds=3600), world.observation())
        world.request()
        world.turns(60)
        assert (world.answered, world.waiting) == (before + 1, 0), world.operations.kept.operations
    assert len(seen) > 1


@pytest.mark.parametrize("begin", OWN.values(), ids=list(OWN))
@pytest.mark.parametrize(
    ("action", "count"),
    [  # a migration takes options, and two engines: see `test_commands`
        *((one, None) for one in Action if one not in (Action.RELOAD, Action.SCALE, Action.MIGRATE, Action.SHADOW)),
        (Action.SCALE, 1),
    ],
)
def test_operators_come_before_what_berth_does_by_itself(
    begin: Callable[[], OnRequest], action: Action, count: int | None
) -> None:
    for world in phases(begin):
        before = world.operations.running
        reply = asked(world, action, count)
        if reply.denial is not None:  # it is not in the state for that, and Berth goes on
            assert reply.denial.code in (DenialCode.NOT_ASLEEP, DenialCode.NOT_LOADED)
            assert S.READY not in world.statuses()
            assert world.operations.running == before
            continue
        assert reply.operation is not None
        world.turns(60)
        assert not world.operations.running
        state = world.state(reply.operation)
        if action is Action.RESTART:  # of what runs: what sleeps need not
            assert (state, set(world.statuses()) <= {S.READY, S.ASLEEP}) == (OperationState.DONE, True)
            assert S.READY in world.statuses()
        elif action in (Action.LOAD, Action.WAKE):
            assert (state, world.statuses()) == (OperationState.DONE, [S.READY, S.READY])
        elif action is Action.SCALE:
            assert (state, world.statuses()) == (OperationState.DONE, [S.READY, S.UNLOADED])
        elif action is Action.UNLOAD:
            assert state is OperationState.DONE


@pytest.mark.parametrize("running", OPERATORS)
@pytest.mark.parametrize("action", [Action.LOAD, Action.UNLOAD, Action.SLEEP, Action.RESTART])
def test_two_operators_are_told_of_each_other(running: str, action: Action) -> None:
    for world in phases(OPERATORS[running]):
        (known,) = world.operations.running
        reply = asked(world, action)
        if action == known.action:
            assert reply.operation == known
        else:
            assert reply.denial is not None
            assert reply.denial.code is DenialCode.BUSY
            assert f"Operation {known.id} of 'chat' is running: {running}, requested by me" in reply.denial.message
            assert f"`berth cancel {known.id}`" in reply.denial.message


def test_load_that_an_operator_wants_too_is_not_given_up_with_its_client() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a", seconds=60)
    box.turns(20)
    gone = box.request("b")
    box.turns(5)
    assert box.ask(Action.LOAD, "b") is None
    (operation,) = box.operations.running
    gone.ended = box.now
    box.turns(120)
    assert (box.loaded(), operation.by) == ({"b"}, "me")
    assert box.operations.kept.operations[0].state is OperationState.DONE


def draining_for_b() -> Box:
    """`a` ends its requests, since `b` has waited for long enough; `c` is small and fits next to both."""
    box = Box({"a": 6, "b": 6, "c": 2})
    box.request("c")
    box.request("a", seconds=120)
    box.turns(20)
    box.request("b")
    while box.status("a") is not S.DRAINING:
        box.turn()
    return box


@pytest.mark.parametrize("seconds", [0, 30, 60])
def test_operators_load_of_a_model_that_makes_room_comes_after_the_other_one(seconds: int) -> None:
    box = draining_for_b()
    box.turns(seconds)
    assert box.ask(Action.LOAD, "a") is None
    operation = box.operations.running[-1]
    while box.status("b") is not S.READY:
        box.turn()
        assert box.status("a") in (S.DRAINING, S.STOPPING, S.UNLOADED)
    box.turns(120)
    assert "a" in box.loaded()
    assert box.operations.find(operation.id).state is OperationState.DONE  # type: ignore[union-attr]
    assert {model for _, model in box.swaps} == {"a", "b"}, "no other one has to leave"


def test_model_that_is_pinned_while_it_makes_room_stays_at_once() -> None:
    box = draining_for_b()
    for client in box.running("a"):
        client.ended = box.now  # so that it would stop now
    assert box.ask(Action.PIN, "a") is None
    for _ in range(60):
        box.turn()
        assert box.status("a") in (S.DRAINING, S.READY)
    assert "a" in box.loaded()


@pytest.mark.parametrize("seconds", [None, 3600, 0])
def test_client_that_lets_it_stay_ends_an_unload_at_once(seconds: float | None) -> None:
    world = idle_unload()
    world.turns(3)
    assert set(world.statuses()) == {S.DRAINING}
    world.busy = frozenset()
    world.operations.keep(Keep(model="chat", seconds=seconds), world.observation())
    world.turns(10)
    assert set(world.statuses()) == {S.UNLOADED if seconds == 0 else S.READY}


def test_dry_run_of_what_berth_does_already_changes_nothing() -> None:
    world = load_for_a_request()
    (known,) = world.operations.running
    change = Change(action=Action.LOAD, model="chat", by="me", dry_run=True)
    reply = world.operations.ask(change, world.observation(), workers=(), now=world.now)
    assert (reply.operation, world.operations.running) == (known, (known,))
