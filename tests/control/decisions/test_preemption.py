"""Requests of a model that makes room: how long they may take, and what becomes of those that take longer."""

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.control.decisions import preemption, residency
from berth.control.decisions.eviction import Demand, Moment
from berth.ipc.operations import Action
from berth.plan import Importance
from berth.state import ReplicaStatus
from tests.control.decisions.test_eviction import LOAD_S, RELEASE_S, SIZES, TURN_S, Box, Client

pytestmark = pytest.mark.unmeasured  # coverage makes thousands of turns take minutes

S = ReplicaStatus
EVENTS = int(os.environ.get("RESIDENCY_EVENTS", "150"))  # `make residency`: a million
LONG = EVENTS > 1000
PARTS = 20 if LONG else 1  # that run side by side
DRAIN_S = 15.0
STAYS_S = max(30.0, 3 * LOAD_S)


def one_in_use(drain_timeout_s: float = DRAIN_S) -> tuple[Box, Client]:
    """`a` has a long stream, and is about to drain for `b`."""
    box = Box({"a": 6, "b": 6}, max_wait_s=5, drain_timeout_s=drain_timeout_s)
    stream = box.request("a", seconds=200)
    box.turns(40)
    return box, stream


def test_stream_that_takes_too_long_is_continued_when_its_model_is_back() -> None:
    box, stream = one_in_use()
    served = box.request("b")
    begun = box.now
    box.turns(5 + DRAIN_S - 2)
    assert (box.status("a"), stream.preempted) == (S.DRAINING, 0)
    while served.ended is None:
        box.turn()
    assert stream.preempted == 1
    assert served.ended - begun < 5 + DRAIN_S + LOAD_S + RELEASE_S + 10

    box.until_idle(500)
    assert (stream.error, stream.ended is not None, stream.preempted) == ("", True, 1)
    assert box.loads == {"a": 2, "b": 1}


def test_it_comes_back_in_its_turn_however_busy_the_other_one_is() -> None:
    box, stream = one_in_use()
    other = box.request("b", seconds=1000)
    waits = list[float]()
    since = None
    while stream.ended is None:
        before = stream.started
        box.turn()
        if before is not None and stream.started is None:
            since = box.now
        elif before is None and stream.started is not None and since is not None:
            waits.append(box.now - since)
    box.until_idle(3000)

    assert other.ended is not None
    assert stream.preempted >= 2
    assert len(waits) == stream.preempted
    assert max(waits) <= STAYS_S + DRAIN_S + 2 * (LOAD_S + RELEASE_S) + 5
    assert len(box.swaps) <= (box.now - 1000) / STAYS_S  # no thrash


@pytest.mark.parametrize("drain_timeout_s", [0.0, 500.0])
def test_requests_may_end_in_their_time(drain_timeout_s: float) -> None:
    box, stream = one_in_use(drain_timeout_s)
    served = box.request("b")
    box.turns(100)
    assert (box.status("a"), served.ended) == (S.DRAINING, None)
    box.until_idle(300)
    assert (stream.preempted, stream.error, served.error) == (0, "", "")


def test_nothing_is_preempted_for_a_client_that_has_gone() -> None:
    box, stream = one_in_use()
    gone = box.request("b")
    box.turns(8)
    assert box.status("a") is S.DRAINING
    gone.ended = box.now
    box.turns(3 * DRAIN_S)
    assert (stream.preempted, stream.ended) == (0, None)


def test_nothing_leaves_for_a_load_that_is_cancelled_at_that_moment() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a")
    box.turns(60)
    demands = {name: Demand(waiting=0, last_used_at=box.used[name]) for name in box.sizes}
    moment = Moment(now=box.now, wall=box.now)
    box.operations.decided(residency.Decided(residency.Decision.LOAD, "b"), box.observation(), box.now)
    found = residency.decide(box.observation(), demands, (), moment)
    assert list(found) == [residency.Decided(residency.Decision.CANCEL, "b")]


def test_stream_goes_on_if_the_one_that_it_was_preempted_for_has_gone_meanwhile() -> None:
    box, stream = one_in_use()
    gone = box.request("b")
    while not stream.preempted:
        box.turn()
    gone.ended = box.now
    box.until_idle(400)
    assert (stream.error, stream.ended is not None, box.loads) == ("", True, {"a": 2})


def test_request_that_cannot_be_continued_ends_and_the_other_model_gets_its_room() -> None:
    box, _stream = one_in_use()
    cut = box.request("a", seconds=900, moves=False)
    box.turns(1)
    served = box.request("b")
    box.until_idle(600)
    assert (cut.error, served.error) == ("preempted", "")


def test_control_that_dies_meanwhile_preempts_all_the_same() -> None:
    box, stream = one_in_use()
    served = box.request("b")
    box.turns(8)
    box.restart_control()
    assert box.status("a") is S.DRAINING
    while not stream.preempted:
        box.turn()
    box.restart_control()
    box.until_idle(500)
    assert (stream.error, served.error, box.loads) == ("", "", {"a": 2, "b": 1})


def test_an_operators_own_drain_is_no_preemption() -> None:
    box, stream = one_in_use()
    assert box.ask(Action.RESTART, "a") is None
    box.turns(2)
    assert box.status("a") is S.DRAINING
    assert preemption.preempted(box.observation(), box.now + 3600) == ()
    assert stream.preempted == 0


def events(dice: random.Random, names: list[str], box: Box) -> Iterator[str]:
    while True:
        event = dice.choice(["request"] * 8 + ["pin", "unpin", "load", "cancel", "die", "restart control", "gone"])
        name = dice.choice(names)
        match event:
            case "request":
                box.request(name, seconds=dice.choice([0.5, 5, 40, 90]), moves=dice.random() < 0.8)
            case "pin" | "unpin" | "load":
                box.ask(Action(event), name)
            case "restart control":
                box.restart_control()
            case "cancel":
                for operation in box.operations.running:
                    box.operations.cancel(operation.id)
            case "gone":
                for one in box.clients:
                    one.ended = one.ended or box.now
            case _:
                box.die(name)
        box.clients = [one for one in box.clients if one.ended is None]
        yield event


def endure(sizes: dict[str, int], seed: int, count: int) -> Box:
    """Each turn looks for pinned models that leave, models in use that leave too early, and cut requests."""
    dice, names = random.Random(seed), sorted(sizes)
    priorities = {name: dice.choice(list(Importance)) for name in names}
    box = Box(sizes, max_wait_s=20, drain_timeout_s=DRAIN_S, priorities=priorities)
    happened = events(dice, names, box)
    for _ in range(count):
        next(happened)
        box.turns(dice.uniform(0.5, 20))
    for name in names:
        box.ask(Action.UNPIN, name)
    box.until_idle(3 * len(names) * (STAYS_S + 20 + DRAIN_S + 90 + LOAD_S + RELEASE_S))
    return box


@pytest.mark.timeout(120)
@settings(max_examples=4, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**32))
def test_every_request_ends_whatever_happens(sizes: dict[str, int], seed: int) -> None:
    box = endure(sizes, seed, 30)
    assert [one for one in box.clients if one.ended is None] == []
    assert {one.error for one in box.clients} <= {"", "preempted", "engine died", "model_failed", "no_room"}
    assert not box.operations.running


@pytest.mark.timeout(0 if LONG else 120)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_pinned_model_and_none_in_use_leaves_unforced_in_many_events(part: int) -> None:
    dice = random.Random(EVENTS + part)
    left = EVENTS // PARTS
    while left > 0:
        sizes = {name: dice.randint(2, 10) for name in "abcde"[: dice.randint(2, 5)]}
        box = endure(sizes, dice.randrange(2**32), min(left, 300))
        assert [one for one in box.clients if one.ended is None] == []
        left -= 300


@pytest.mark.timeout(0 if LONG else 120)
@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_none_of_many_models_starves(seed: int) -> None:
    """One GPU holds one of them; the demand is 80 % of what is left of the time after swaps."""
    dice, names = random.Random(seed), [f"m{number}" for number in range(10 if LONG else 4)]
    box = Box(dict.fromkeys(names, 6), load_s=4.0, max_wait_s=20, drain_timeout_s=DRAIN_S)
    swap_s = 4.0 + RELEASE_S + 4 * TURN_S
    most_s = (len(names) - 1) * (30.0 + DRAIN_S + swap_s) + len(names) * swap_s
    arrival = 0.8 * 30.0 / (30.0 + swap_s)  # seconds of work that come in a second; one replica works on 4 at a time
    next_at, longest_s = box.now, 0.0
    end = box.now + (7200 if LONG else 1.5 * most_s)
    while box.now < end:
        while box.now >= next_at:
            box.request(dice.choice(names), seconds=dice.uniform(1, 15))
            next_at += dice.expovariate(4 * arrival / 8)
        box.turn()
        longest_s = max([longest_s, *(box.now - one.since for one in box.clients if one.started is None)])
        box.clients = [one for one in box.clients if one.ended is None]
    assert set(box.loads) == set(names)
    assert longest_s <= most_s
