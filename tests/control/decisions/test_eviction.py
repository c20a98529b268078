"""More models than fit: who leaves for whom, in a world of models, clients and memory that is released late."""

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from berth.control.decisions import claims, eviction, lifecycle, preemption, residency
from berth.control.decisions.eviction import Demand, Moment
from berth.control.decisions.records import LIVE, Observation, Record
from berth.control.operations.event_ring import EventRing
from berth.control.operations.store import Operations
from berth.control.probes import Health
from berth.control.supervisord_client import Process, ProcessState
from berth.ipc.operations import Action, Change, DenialCode, OperationState
from berth.plan import Importance, Launch, Load, ModelRoute, Restarts, Standby, Task
from berth.room import short
from berth.state import ReplicaStatus
from tests.control.decisions.test_requests import DEAD
from tests.control.takeover import records_of_the_next
from tests.fakes.plans import make_replica

S = ReplicaStatus
TURN_S = 0.5
RELEASE_S = 2.0  # until the memory of an engine is free after its end
LOAD_S = 10.0


@dataclass
class Client:
    """A request: it waits until its model is ready, then runs for some time."""

    model: str
    seconds: float
    since: float
    started: float | None = None
    ended: float | None = None
    error: str = ""
    moves: bool = True  # its stream can be continued
    preempted: int = 0  # how often


@dataclass
class Box:
    """Models on one GPU, each with one replica of the same name; `sizes` are what they take of `room`."""

    sizes: dict[str, int]
    room: int = 10
    load_s: float = LOAD_S
    min_residency_s: float = 30.0
    max_wait_s: float = 60.0
    drain_timeout_s: float = 0.0
    now: float = 1000.0
    broken: frozenset[str] = frozenset()
    priorities: Mapping[str, Importance] = field(default_factory=dict)
    unfree: frozenset[str] = frozenset()  # models whose memory something else holds
    clients: list[Client] = field(default_factory=list)
    loads: Counter[str] = field(default_factory=Counter)
    swaps: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.routes = tuple(
            ModelRoute(
                name=name,
                source="x",
                task=Task.GENERATE,
                standby=Standby.COLD,
                load=Load.ON_REQUEST,
                replicas=(name,),
                room={0: size},
                min_residency_s=self.min_residency_s,
                max_wait_s=self.max_wait_s,
                drain_timeout_s=self.drain_timeout_s,
                priority=self.priority(name),
            )
            for name, size in self.sizes.items()
        )
        self.records = {
            name: Record(
                replica=replace(make_replica(name, launch=Launch(argv=("engine",))), model=name, gpus=(0,)),
                status=S.UNLOADED,
                since=self.now,
            )
            for name in self.sizes
        }
        self.processes: dict[str, Process] = {}
        self.released: dict[str, float] = {}
        self.used: dict[str, float] = dict.fromkeys(self.sizes, self.now)
        self.operations = Operations(EventRing(), last_used_at=self.used, wall=lambda: self.now)

    def priority(self, name: str) -> Importance:
        return self.priorities.get(name, Importance.NORMAL)

    @property
    def pins(self) -> list[str]:
        return list(self.operations.kept.pins)

    def observation(self) -> Observation:
        draining = {name for name, one in self.records.items() if one.status is S.DRAINING}
        return Observation(
            records=tuple(self.records.values()),
            processes=self.processes,
            failures={},
            routes=self.routes,
            restarts=Restarts(failures=2, backoff_first_s=1),
            operations=self.operations.running,
            room={0: self.room},
            unproven=self.unfree,
            not_free={name: "GPU 0: held" for name in self.unfree if self.status(name) is S.WAITING},
            drained=frozenset(name for name in draining if not self.running(name)),
        )

    def running(self, model: str) -> list[Client]:
        return [one for one in self.clients if one.model == model and one.started is not None and one.ended is None]

    def waiting(self, model: str) -> list[Client]:
        return [one for one in self.clients if one.model == model and one.started is None and one.ended is None]

    def request(self, model: str, seconds: float = 1.0, *, moves: bool = True) -> Client:
        self.clients.append(Client(model=model, seconds=seconds, since=self.now, moves=moves))
        return self.clients[-1]

    def ask(self, action: Action, model: str) -> DenialCode | None:
        reply = self.operations.ask(
            Change(action=action, model=model, by="me"), self.observation(), workers=(), now=self.now
        )
        return reply.denial.code if reply.denial else None

    def status(self, model: str) -> ReplicaStatus:
        return self.records[model].status

    def loaded(self) -> set[str]:
        return {name for name in self.sizes if self.status(name) is S.READY}

    def die(self, model: str) -> None:
        """Its engine, once: unless it is not ready."""
        if self.status(model) is S.READY and not self.records[model].history.count:
            self.processes[model] = DEAD
            for one in self.running(model):
                one.ended, one.error = self.now, "engine died"

    def restart_control(self) -> None:
        before = self.records
        self.records, self.operations = records_of_the_next(
            before, self.operations, self.processes, self.routes, self.now
        )
        for name, record in self.records.items():  # it looks for leftovers of all, and finds none at once
            if record.status not in LIVE:
                self.records[name] = replace(record, cleaned_up=before[name].cleaned_up)

    def turns(self, seconds: float) -> "Box":
        for _ in range(round(seconds / TURN_S)):
            self.turn()
        return self

    def until_idle(self, longest_s: float) -> None:
        ends = self.now + longest_s
        while self.now < ends and (self.operations.running or any(one.ended is None for one in self.clients)):
            self.turn()

    def turn(self) -> None:
        self.now += TURN_S
        self._engines()
        for transition in lifecycle.decide(self.observation(), self.now):
            self._apply(transition.name, lifecycle.apply(self.records[transition.name], transition, self.now))
        self._requests()
        demands = {name: Demand(waiting=len(self.waiting(name)), last_used_at=self.used[name]) for name in self.sizes}
        for found in residency.decide(self.observation(), demands, self.pins, Moment(now=self.now, wall=self.now)):
            decision, model, other, _ = found
            if decision is residency.Decision.RELEASE_RAM:
                assert model not in self.pins
                assert not other or list(Importance).index(self.priority(model)) >= list(Importance).index(
                    self.priority(other)
                ), "a sleeper of higher priority gives its RAM up"
            if decision in (residency.Decision.EVICT, residency.Decision.EVICT_TO_SLEEP):
                assert model not in self.pins
                waited = [self.now - one.created_at for one in self.operations.running if one.model == other]
                ranks = [list(Importance).index(self.priority(name)) for name in (model, other)]
                outranked, protected = ranks[0] > ranks[1], ranks[0] < ranks[1]
                is_late = max(waited) >= self.max_wait_s and not protected
                assert not self.running(model) or outranked or is_late, "a busy model leaves too early"
                self.swaps.append((self.now, model))
            self.operations.decided(found, self.observation(), self.now)
        self._preempt()
        self.operations.settle(self.observation(), (), self.now)
        self._check()

    def _engines(self) -> None:
        for name, record in self.records.items():
            if record.status is S.STARTING and self.now - record.since >= self.load_s:
                self.records[name] = replace(record, health=Health(ok=True, ever_ok=True))
            if record.status not in LIVE and not record.cleaned_up:
                released = self.released.setdefault(name, self.now + RELEASE_S)
                if self.now >= released:
                    self.records[name] = replace(record, cleaned_up=True)
                    del self.released[name]

    def _apply(self, name: str, record: Record) -> None:
        if record.status is S.STARTING:
            assert self.records[name].cleaned_up, "started on memory that is not released"
            self.loads[name] += 1
            self.processes[name] = DEAD if name in self.broken else Process(state=ProcessState.RUNNING, pid=7)
        elif record.status is S.STOPPING:
            assert not self.running(name), "a request was cut"
            self.processes[name] = Process(state=ProcessState.STOPPED)
        self.records[name] = record

    def _requests(self) -> None:
        for one in self.clients:
            if one.ended is not None:
                continue
            route = next(route for route in self.routes if route.name == one.model)
            if one.started is not None and self.now - one.started >= one.seconds:
                one.ended = self.now
            elif one.started is None and self.status(one.model) is S.READY:
                one.started = self.now
            elif one.started is None and self.status(one.model) is S.FAILED:
                one.ended, one.error = self.now, "model_failed"
            elif one.started is None and one.model in self.observation().not_free:
                one.ended, one.error = self.now, "memory_not_free"
            elif one.started is None and eviction.blocker(route, self.observation(), self.pins):
                one.ended, one.error = self.now, "no_room"
            self.used[one.model] = self.now

    def _preempt(self) -> None:
        for record in preemption.preempted(self.observation(), self.now):
            assert record.replica.name not in self.pins
            assert self.now - record.since >= self.drain_timeout_s > 0
            for one in self.running(record.replica.name):
                assert one.started is not None
                if one.moves:
                    one.seconds, one.started = max(one.seconds - (self.now - one.started), TURN_S), None
                    one.preempted += 1
                else:
                    one.ended, one.error = self.now, "preempted"

    def _check(self) -> None:
        holding = eviction.holders(self.observation())
        assert not short({0: self.room}, [claims.present(one, self.observation()).planned for one in holding]), [
            (one.name, self.status(one.name)) for one in holding
        ]


def test_request_for_an_absent_model_takes_the_room_of_an_idle_one() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a")
    box.turns(20)
    assert box.loaded() == {"a"}
    box.turns(30)

    waited = box.request("b")
    box.turns(20)

    assert box.loaded() == {"b"}
    assert waited.ended is not None
    last = box.operations.kept.operations[-2:]
    assert [(one.action, one.by) for one in last] == [(Action.LOAD, "a request"), (Action.UNLOAD, "a swap to b")]


def test_the_least_recently_used_leaves_and_as_few_as_suffice() -> None:
    box = Box({"a": 3, "b": 3, "c": 3, "d": 4, "e": 6})
    for name in "bca":
        box.request(name)
        box.turns(20)
    box.turns(40)
    box.request("d")
    box.turns(20)
    assert box.loaded() == {"a", "c", "d"}  # b was used first

    box.turns(40)
    box.request("e")
    box.turns(20)
    assert box.loaded() == {"d", "e"}


RANKED = {"high": Importance.HIGH, "low": Importance.LOW}


def test_model_of_lower_priority_leaves_at_once_and_ends_its_requests() -> None:
    box = Box({"high": 6, "low": 6, "normal": 6}, priorities=RANKED)
    stream = box.request("low", seconds=100)
    box.turns(14)
    assert box.status("low") is S.READY
    box.request("normal")
    box.turns(1)
    high = box.request("high")
    box.turns(3)
    assert box.status("low") is S.DRAINING
    box.turns(130)
    assert (stream.error, stream.ended is not None) == ("", True)
    assert high.started is not None
    assert box.loads["normal"] == 0 or box.clients[1].started is None or box.clients[1].started > high.started


def test_model_of_higher_priority_stays_while_it_is_used_and_then_yields() -> None:
    box = Box({"high": 6, "low": 6}, priorities=RANKED, max_wait_s=5)
    for _ in range(12):
        box.request("high", seconds=8)
        box.turns(14)
    low = box.request("low")
    for _ in range(6):
        box.request("high", seconds=8)
        box.turns(14)
    assert (box.status("high"), low.started) == (S.READY, None)
    box.turns(8 + eviction.YIELDS_S + LOAD_S + RELEASE_S + 10)
    assert low.ended is not None


@pytest.mark.unmeasured  # coverage makes thousands of turns take minutes
def test_low_priority_gets_its_turns_beside_a_chat() -> None:
    box, dice = Box({"high": 6, "low": 6}, priorities=RANKED, load_s=3.0), random.Random(1)
    batch, chats = [box.request("low", seconds=2.0)], list[Client]()
    end, next_chat = box.now + 1800, box.now
    while box.now < end:
        if box.now >= next_chat:
            chats.append(box.request("high", seconds=dice.uniform(1, 6)))
            next_chat = box.now + dice.expovariate(0.03)
        if batch[-1].ended is not None:
            batch.append(box.request("low", seconds=2.0))
        box.turn()
    waits = [one.started - one.since for one in chats if one.started is not None]
    assert len(batch) > 100  # an hour: 200
    assert sum(waits) / len(waits) < 10


def test_dry_run_shows_what_would_make_room() -> None:
    box = Box({"a": 3, "b": 3, "c": 3, "d": 4, "pinned": 1})
    for name in ("pinned", "c", "b", "a"):
        box.request(name, seconds=500 if name == "a" else 1)
        box.turns(20)
    box.ask(Action.PIN, "pinned")

    def would(model: str) -> list[tuple[str, str]]:
        change = Change(action=Action.LOAD, model=model, dry_run=True)
        reply = box.operations.ask(change, box.observation(), workers=(), now=box.now)
        return [(step.replica, step.to) for step in reply.steps]

    before = box.operations.kept
    assert would("d") == [("c", "unloaded"), ("b", "unloaded"), ("d", "ready")]  # c and b were used first
    assert would("c") == []
    assert box.operations.kept == before
    box.ask(Action.LOAD, "d")
    box.turns(60)
    assert box.loaded() == {"pinned", "a", "d"}


def test_one_large_model_rather_than_two_small_ones() -> None:
    box = Box({"small": 2, "tiny": 2, "large": 6, "new": 6})
    for name in ("small", "tiny", "large"):
        box.request(name)
        box.turns(20)
    box.turns(40)
    box.request("new")
    assert box.turns(20).loaded() == {"small", "tiny", "new"}


def test_no_model_leaves_before_its_residency_is_over() -> None:
    box = Box({"a": 6, "b": 6}, min_residency_s=300)
    box.request("a")
    box.turns(20)
    box.request("b")
    assert box.turns(270).loaded() == {"a"}
    assert box.turns(60).loaded() == {"b"}


def test_model_in_use_ends_its_requests_and_leaves_after_max_wait() -> None:
    box = Box({"a": 6, "b": 6})
    stream = box.request("a", seconds=200)
    box.turns(20)
    b = box.request("b")
    box.turns(50)
    assert box.status("a") is S.READY
    box.turns(20)
    assert box.status("a") is S.DRAINING

    late = box.request("a")
    box.turns(150)
    assert stream.ended is not None
    assert b.ended is not None
    box.turns(150)
    assert late.ended is not None
    assert late.ended > b.ended


def test_model_whose_memory_others_hold_gives_its_turn_away_and_starts_when_it_can() -> None:
    box = Box({"a": 6, "b": 6}, unfree=frozenset({"a"}))
    refused = box.request("a")
    box.turns(5)
    assert (refused.error, box.status("a")) == ("memory_not_free", S.WAITING)
    (load,) = box.operations.kept.operations
    assert (load.state, load.reason) == (OperationState.FAILED, "memory_not_free: a: GPU 0: held")

    served = box.request("b")
    box.turns(20)
    assert (box.loaded(), served.error, box.status("a")) == ({"b"}, "", S.UNLOADED)
    box.request("a")
    box.turns(60)
    assert box.status("a") is S.WAITING
    box.unfree = frozenset()
    assert box.turns(20).loaded() == {"a"}


def test_pinned_model_stays_and_the_other_is_told_so() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a")
    box.turns(20)
    box.ask(Action.PIN, "a")

    refused = box.request("b")
    box.turns(200)
    assert (box.loaded(), refused.error) == ({"a"}, "no_room")
    reply = box.operations.ask(Change(action=Action.LOAD, model="b"), box.observation(), workers=(), now=box.now)
    assert reply.denial is not None
    assert (reply.denial.code, reply.denial.holders) == (DenialCode.NO_ROOM, ("a",))
    assert box.ask(Action.LOAD, "b") is DenialCode.NO_ROOM
    box.ask(Action.UNPIN, "a")
    assert box.ask(Action.LOAD, "b") is None
    assert box.turns(60).loaded() == {"b"}


def test_pin_during_the_wait_ends_it() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a", seconds=20)
    box.turns(15)
    refused = box.request("b")
    box.turns(5)
    box.ask(Action.PIN, "a")
    box.turns(5)
    assert refused.error == "no_room"
    assert not box.operations.running


def test_no_model_leaves_for_a_client_that_has_gone() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a", seconds=100)
    box.turns(20)
    gone = box.request("b")
    box.turns(20)
    gone.ended = box.now
    box.turns(100)
    assert (box.loaded(), box.swaps, box.operations.running) == ({"a"}, [], ())
    assert box.operations.kept.operations[-1].state is OperationState.CANCELLED


def test_draining_model_stays_when_the_client_that_it_drained_for_has_gone() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a", seconds=300)
    box.turns(20)
    gone = box.request("b")
    box.turns(70)
    assert box.status("a") is S.DRAINING
    gone.ended = box.now
    again = box.request("a")
    box.turns(10)
    assert (box.status("a"), again.ended is not None) == (S.READY, True)


def test_model_that_fails_to_load_gives_its_room_back() -> None:
    box = Box({"a": 6, "b": 6}, broken=frozenset({"b"}))
    box.request("a")
    box.turns(60)
    failed = box.request("b")
    box.turns(60)
    assert (box.status("b"), failed.error) == (S.FAILED, "model_failed")
    again = box.request("a")
    assert box.turns(40).loaded() == {"a"}
    assert again.ended is not None


def test_model_that_has_failed_takes_no_room_from_others() -> None:
    box = Box({"a": 6, "b": 6}, broken=frozenset({"b"}))
    box.request("b")
    box.turns(60)
    box.request("a")
    box.turns(100)
    assert (box.status("a"), box.status("b")) == (S.READY, S.FAILED)
    refused = box.request("b")
    box.turns(100)
    assert (refused.error, box.loaded(), box.swaps) == ("model_failed", {"a"}, [])


@pytest.mark.unmeasured  # coverage makes thousands of turns take minutes
@pytest.mark.parametrize("load_s", [4.0, 10.0, 40.0])
def test_two_models_that_alternate_swap_seldom(load_s: float) -> None:
    box = Box({"a": 6, "b": 6}, load_s=load_s, max_wait_s=5)
    agents = [box.request("a"), box.request("b")]
    end = box.now + 1200
    while box.now < end:
        box.turn()
        agents = [box.request(one.model) if one.ended is not None else one for one in agents]
    stays = max(30.0, 3 * load_s)
    assert 2 <= len(box.swaps) <= 1200 / stays
    times = [at for at, _model in box.swaps]
    assert all(later - earlier >= stays for earlier, later in itertools.pairwise(times))
    assert min(Counter(one.model for one in box.clients if one.ended).values()) > 50


def test_operators_load_waits_for_its_room() -> None:
    box = Box({"a": 6, "b": 6})
    box.request("a", seconds=40)
    box.turns(20)
    assert box.ask(Action.LOAD, "b") is None
    box.turns(5)
    (operation,) = box.operations.running
    assert (operation.action, box.status("b")) == (Action.LOAD, S.UNLOADED)
    box.turns(60)
    assert box.loaded() == {"b"}
    assert box.operations.find(operation.id).state is OperationState.DONE  # type: ignore[union-attr]


SIZES = st.dictionaries(st.sampled_from("abcde"), st.integers(2, 10), min_size=2, max_size=5)


@pytest.mark.unmeasured  # coverage makes thousands of turns take minutes
@pytest.mark.timeout(120)
@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**32))
def test_every_request_is_answered_whatever_happens(sizes: dict[str, int], seed: int) -> None:
    """`_check` and `_apply` look at each turn for conflicts, cut requests and early starts."""
    dice, names = random.Random(seed), sorted(sizes)
    box = Box(sizes, max_wait_s=20, priorities={name: dice.choice(list(Importance)) for name in names})
    for _ in range(60):
        event, name = (
            dice.choice(["request"] * 6 + ["pin", "unpin", "load", "unload", "cancel", "die", "restart control"]),
            dice.choice(names),
        )
        match event:
            case "request":
                box.request(name, seconds=dice.choice([0.5, 5, 40]))
            case "pin" | "unpin" | "load":
                box.ask(Action(event), name)
            case "unload":
                if not box.running(name):
                    box.ask(Action.UNLOAD, name)
            case "restart control":
                box.restart_control()
            case "cancel":
                for operation in box.operations.running:
                    box.operations.cancel(operation.id)
            case _:
                box.die(name)
        box.turns(dice.uniform(0.5, 20))
    for name in names:
        box.ask(Action.UNPIN, name)
    longest = 2 * len(names) * (max(30, 3 * LOAD_S) + 20 + 40 + LOAD_S + RELEASE_S + 20)
    box.until_idle(longest)
    assert [one for one in box.clients if one.ended is None] == []
    assert not box.operations.running


@example(sizes=[3] * 14, needed=7)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=14), needed=st.integers(0, 60))
def test_fewest_is_sufficient_and_leaves_none_out_that_it_could(sizes: list[int], needed: int) -> None:
    """Also where there are too many models to try all combinations."""
    routes = [
        ModelRoute(name=str(number), source="x", task=Task.GENERATE, replicas=(), room={0: size})
        for number, size in enumerate(sizes)
    ]

    def fits(gone: Sequence[ModelRoute]) -> bool:
        return sum(one.room[0] for one in gone) >= needed

    found = eviction.fewest(routes, fits)
    assert (found is None) == (sum(sizes) < needed)
    assert found is None or fits(found)
    assert not any(fits([one for one in found or () if one is not other]) for other in found or ())


def test_of_many_models_the_most_recently_used_stay() -> None:
    """Not every combination of 40 models is tried."""
    candidates = Box({f"m{number:02}": 1 for number in range(40)}).routes

    def fits(gone: Sequence[ModelRoute]) -> bool:
        return len(gone) >= 3

    assert [one.name for one in eviction.fewest(candidates, fits) or ()] == ["m00", "m01", "m02"]
    assert eviction.fewest(candidates[:2], fits) is None
