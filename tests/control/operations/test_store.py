"""The operations that control keeps, also over its own restart."""

import pytest

from berth.control.decisions.records import Observation
from berth.control.operations.event_ring import EventRing
from berth.control.operations.store import Operations
from berth.ipc.operations import Action, Change, OperationState
from berth.plan import Restarts

OLD, NEW = 7, 8  # workers
NOTHING = Observation(records=(), processes={}, failures={}, routes=(), restarts=Restarts(failures=3))


@pytest.mark.parametrize("began", [False, True])
def test_reload_ends_also_when_control_was_restarted_before_it_began(began: bool) -> None:
    before = Operations(EventRing())
    asked = before.ask(Change(action=Action.RELOAD), NOTHING, workers=(OLD,), now=1.0).operation
    assert asked is not None
    assert not began or before.take_reload()

    after = Operations(EventRing())
    after.resume(before.kept)

    assert [after.take_reload(), after.take_reload()] == [not began, False]
    after.settle(NOTHING, (OLD, NEW), 2.0)
    assert [one.id for one in after.running] == [asked.id]
    after.settle(NOTHING, (NEW,), 3.0)
    assert [one.state for one in after.kept.operations] == [OperationState.DONE]


def test_a_reload_that_has_begun_is_followed_by_another_one() -> None:
    """Its workers know the plan and the certificate of then. One that has not begun is the same."""
    store = Operations(EventRing())
    first, same = (store.ask(Change(action=Action.RELOAD), NOTHING, workers=(OLD,), now=1.0).operation for _ in "12")
    assert store.take_reload()
    second, again = (
        store.ask(Change(action=Action.RELOAD), NOTHING, workers=(OLD, NEW), now=1.0).operation for _ in "12"
    )

    assert first
    assert second
    assert first == same
    assert second == again != first
    assert [store.take_reload(), store.take_reload()] == [True, False]
    store.settle(NOTHING, {NEW}, 2.0)
    assert [one.id for one in store.running] == [second.id]
    store.settle(NOTHING, {NEW + 1}, 3.0)
    assert store.running == ()


def test_a_reload_that_fails_ends_with_its_reason() -> None:
    store = Operations(EventRing())
    store.ask(Change(action=Action.RELOAD), NOTHING, workers=(OLD,), now=1.0)
    store.reload_failed("no router")
    assert store.running == ()
    assert [(one.state, one.reason) for one in store.kept.operations] == [(OperationState.FAILED, "no router")]


def test_no_reload_without_one_that_is_running() -> None:
    before = Operations(EventRing())
    before.ask(Change(action=Action.RELOAD), NOTHING, workers=(OLD,), now=1.0)
    before.settle(NOTHING, (NEW,), 2.0)

    after = Operations(EventRing())
    after.resume(before.kept)

    assert not after.take_reload()
