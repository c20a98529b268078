"""Models that take turns by sleep, in a world of one GPU: what they keep, calls that fail, memory that others take."""

import random
from dataclasses import dataclass, field, replace

import pytest

from berth.control.decisions import claims, eviction, lifecycle, sleepers
from berth.control.decisions.memory import EXCESS_BYTES
from berth.control.decisions.records import LIVE, Observation, Ram, Record
from berth.control.supervisord_client import Process, ProcessState
from berth.ipc.operations import Action, Change
from berth.plan import EngineName, MemoryEstimate, Sleep, SleepCall
from berth.records.starts import How
from berth.state import ReplicaStatus
from tests.control.decisions.test_eviction import TURN_S, Box

pytestmark = pytest.mark.unmeasured  # coverage makes thousands of turns take minutes

S = ReplicaStatus
GIB = 2**30
TOTAL_GIB = 100
KEPT_GIB = 2
CALL_S = 1.0
SLEEP = Sleep(sleep_path="/sleep", wake_path="/wake", sleep_timeout_s=20, wake_timeout_s=20)
LIGHT = replace(SLEEP, light=(SleepCall(path="/sleep?level=2"),), reload=(SleepCall(path="/reload"),))
READ_S = 2.0  # between two readings of RAM
RAM_RELEASE_S = 1.0  # after the end of an engine


@dataclass
class GpuBox(Box):
    """One GPU of 100 GiB, of which models take thousandths of `room`; each may sleep."""

    room: int = 900
    foreign_gib: float = 0.5
    kept_gib: dict[str, float] = field(default_factory=dict)  # asleep; else KEPT_GIB
    insomniac: frozenset[str] = frozenset()  # models whose call to sleep hangs
    dazed: frozenset[str] = frozenset()  # models that wake badly
    free_room: dict[int, int] = field(default_factory=dict)
    wakes: int = 0
    sleeping: set[str] = field(default_factory=set)  # also until their memory is released after their end
    in_vain: list[str] = field(default_factory=list)  # models whose memory was not free once others had left for them
    foreign_since: float = 0.0
    seen_since: float | None = 0.0  # when control first read what others hold now; None: it has not
    ram_gib: float = 1e6  # of the host
    ram_of_others_gib: float = 0.0
    weights_gib: float = 10.0  # of each model
    light: bool = False  # engines can sleep without their weights
    start_times: dict[str, dict[How, float]] = field(default_factory=dict)
    reading: Ram = field(default_factory=Ram)
    most_ram_gib: float = 0.0  # that sleepers held at once
    late_release: dict[str, float] = field(default_factory=dict)  # when the RAM of a sleeper is free

    def __post_init__(self) -> None:
        super().__post_init__()
        self.records = {
            name: replace(
                one,
                replica=replace(
                    one.replica,
                    engine=EngineName.VLLM,
                    sleep=LIGHT if self.light else SLEEP,
                    memory_fraction=size / 1000,
                    memory=MemoryEstimate(
                        weights_bytes=int(self.weights_gib * GIB),
                        kv_bytes_per_token=1,
                        kv_bytes=1,
                        overhead_bytes=1,
                        largest_context=8,
                    ),
                ),
            )
            for (name, one), size in zip(self.records.items(), self.sizes.values(), strict=True)
        }

    def holds_gib(self, name: str) -> float:
        record, share = self.records[name], self.sizes[name] / 10
        if name in self.sleeping:
            return self.kept_gib.get(name, KEPT_GIB)
        return share if record.status in LIVE or not record.cleaned_up else 0.0

    @property
    def free_gib(self) -> float:
        return TOTAL_GIB - self.foreign_gib - sum(map(self.holds_gib, self.sizes))

    def taken_by_others(self, gib: float) -> None:
        self.foreign_gib, self.foreign_since = min(gib, self.foreign_gib + self.free_gib), self.now
        self.seen_since = None

    def observation(self) -> Observation:
        observation = replace(
            super().observation(),
            gpu_bytes={0: TOTAL_GIB * GIB},
            free_room=self.free_room,
            ram=self.reading,
            start_times=self.start_times,
        )
        leased = [] if not self.records else list(lifecycle.leased(observation, self.now))
        unproven = {one.name for one in leased if self.needs_gib(one.name) > self.free_gib + 1e-6}
        shut_out = {
            route.name: "GPU 0: held"
            for route in self.routes
            if eviction.shut_out(route, observation, self.pins) and self.now - self.foreign_since > 30
        }
        return replace(observation, unproven=frozenset(unproven), not_free=shut_out)

    def needs_gib(self, name: str) -> float:
        share = self.sizes[name] / 10
        return share - self.holds_gib(name)

    def ram_held_gib(self) -> float:
        """By the weights of sleepers, and for some time after them."""
        for name, one in self.records.items():
            if name in self.with_weights() and one.status is not S.FALLING_ASLEEP:
                self.late_release[name] = self.now + RAM_RELEASE_S
        kept = {*self.with_weights(), *(name for name, until in self.late_release.items() if self.now < until)}
        return sum(sleepers.weights_in_ram(self.records[name]) for name in kept) / GIB

    def with_weights(self) -> set[str]:
        return {
            name
            for name, one in self.records.items()
            if one.wakes is How.WAKE_1 and one.status in (S.FALLING_ASLEEP, S.ASLEEP, S.WAKING, S.STOPPING)
        }

    def turn(self) -> None:
        held = self.ram_held_gib()
        self.most_ram_gib = max(self.most_ram_gib, held)
        assert held <= self.ram_gib, "more RAM than there is"
        if self.reading.read_at is None or self.now - self.reading.read_at >= READ_S:
            free = int((self.ram_gib - self.ram_of_others_gib - held) * GIB)
            self.reading = Ram(available_bytes=free, limit_bytes=int(self.ram_gib * GIB), read_at=self.now)
        used = {0: int((TOTAL_GIB - self.free_gib) * GIB)}
        found = claims.physical_room(self.observation(), used)
        self.free_room |= found
        if found and self.seen_since is None:
            self.seen_since = self.now + TURN_S
        super().turn()
        if claims.moving(self.records.values()) or self.seen_since is None:
            return
        for name in self.observation().unproven:
            left = [one for one in self.operations.kept.operations if one.by == f"a swap to {name}"]
            grown = EXCESS_BYTES / GIB * len(self.sizes)
            if left and left[-1].created_at >= self.seen_since and self.needs_gib(name) > self.free_gib + grown:
                self.in_vain.append(name)

    def _engines(self) -> None:
        super()._engines()
        for name, record in self.records.items():
            if not record.awaits_sleep_call:
                continue
            result, ends = "", record.since + CALL_S
            if record.status is S.FALLING_ASLEEP and name in self.insomniac:
                result, ends = "/sleep: timed out", record.since + SLEEP.sleep_timeout_s
            if record.status is S.WAKING and name in self.dazed:
                result = "its first answer failed"
            if self.now >= ends:
                kept = {0: int(self.kept_gib.get(name, KEPT_GIB) * GIB)}
                if record.status is S.WAKING or result:
                    kept = dict(record.gpu.residue)
                gpu = replace(record.gpu, residue=kept, first_residue=record.gpu.first_residue or kept)
                self.records[name] = replace(record, sleep_result=result, gpu=gpu)

    def _apply(self, name: str, record: Record) -> None:
        if record.status is S.ASLEEP:
            self.sleeping.add(name)
        if record.status is S.WAKING:
            assert self.needs_gib(name) <= self.free_gib + 1e-6, "woken on memory that is not free"
            self.wakes += 1
            self.sleeping.discard(name)
        if record.status is S.STARTING:
            assert self.needs_gib(name) <= self.free_gib + 1e-6, "started on memory that is not free"
            self.sleeping.discard(name)
        if record.status is S.FALLING_ASLEEP:
            assert not self.running(name), "a request was cut"
        if record.status is S.UNLOADED and name in self.processes:
            self.processes[name] = Process(state=ProcessState.STOPPED)
        super()._apply(name, record)
        if record.status is S.READY and self.loads[name]:
            gpu = replace(record.gpu, taken={0: int(self.sizes[name] / 10 * GIB)})
            self.records[name] = replace(self.records[name], gpu=gpu)

    def _check(self) -> None:
        assert self.free_gib > -1e-6, "engines hold more than there is"

    def swap_to(self, name: str) -> None:
        one = self.request(name)
        self.turns(60)
        assert (one.ended is not None, one.error) == (True, "")
        assert self.loaded() >= {name}


def test_models_that_may_sleep_take_turns_without_a_start() -> None:
    box = GpuBox({"a": 600, "b": 600})
    for name in "abab":
        box.swap_to(name)
    assert (box.loads, box.wakes) == ({"a": 1, "b": 1}, 2)
    assert (box.status("a"), box.in_vain) == (S.ASLEEP, [])
    swaps = [(one.action, one.model) for one in box.operations.kept.operations if one.by.startswith("a swap")]
    assert swaps == [(Action.SLEEP, "a"), (Action.SLEEP, "b"), (Action.SLEEP, "a")]


def test_sleep_that_hangs_ends_in_a_stop_and_is_not_tried_again() -> None:
    box = GpuBox({"a": 600, "b": 600}, insomniac=frozenset({"a"}))
    for name in "abab":
        box.swap_to(name)
    assert (box.status("a"), box.records["a"].cannot_sleep) == (
        S.UNLOADED,
        "could not be put to sleep: /sleep: timed out",
    )
    swaps = [(one.action, one.model, one.reason) for one in box.operations.kept.operations if "swap" in one.by]
    assert swaps[0] == (Action.SLEEP, "a", "unloaded instead: a could not be put to sleep: /sleep: timed out")
    assert [one[:2] for one in swaps[1:]] == [(Action.SLEEP, "b"), (Action.UNLOAD, "a")]
    assert box.loads == {"a": 2, "b": 1}


def test_wake_that_fails_ends_in_a_start_and_no_further_sleep() -> None:
    box = GpuBox({"a": 600, "b": 600}, dazed=frozenset({"a"}))
    for name in "aba":
        box.swap_to(name)
    assert (box.loads["a"], "could not be woken" in box.records["a"].cannot_sleep) == (2, True)
    box.swap_to("b")
    assert box.status("a") is S.UNLOADED


@pytest.mark.parametrize(("kept_gib", "why"), [(6, "more than 5.0 GiB"), (40, "more than 5.0 GiB")])
def test_engine_that_keeps_more_than_planned_is_stopped(kept_gib: float, why: str) -> None:
    box = GpuBox({"a": 600, "b": 600}, kept_gib={"a": kept_gib})
    for name in "ab":
        box.swap_to(name)
    assert box.status("a") is S.UNLOADED
    assert why in box.records["a"].cannot_sleep
    box.swap_to("a")
    box.swap_to("b")
    assert box.status("a") is S.UNLOADED


def test_engine_that_keeps_more_each_time_is_stopped() -> None:
    box = GpuBox({"a": 600, "b": 600})
    for name in "aba":
        box.swap_to(name)
    box.kept_gib["a"] = KEPT_GIB + 1.5
    box.swap_to("b")
    assert (box.status("a"), "keeps 3.5 GiB" in box.records["a"].cannot_sleep) == (S.UNLOADED, True)


def test_what_is_kept_and_does_not_fit_next_to_the_other_is_released() -> None:
    box = GpuBox({"a": 600, "b": 880}, kept_gib={"a": 3})  # 2 GiB are planned: 20 thousandths fit
    for name in "ab":
        box.swap_to(name)
    assert (box.status("a"), box.loaded(), box.records["a"].cannot_sleep) == (S.UNLOADED, {"b"}, "")
    swaps = [one.action for one in box.operations.kept.operations if "swap" in one.by]
    assert swaps == [Action.SLEEP, Action.UNLOAD]
    box.swap_to("a")
    box.swap_to("b")
    assert [one.action for one in box.operations.kept.operations if one.by == "a swap to b"][2:] == [Action.UNLOAD]


@pytest.mark.parametrize("by_operators", [False, True])
def test_sleeper_that_waits_behind_another_model_does_not_keep_its_room(*, by_operators: bool) -> None:
    box = GpuBox({"b": 890, "a": 600})  # b does not fit next to what a keeps
    box.swap_to("a")
    box.ask(Action.SLEEP, "a")
    box.turns(20)
    assert box.status("a") is S.ASLEEP
    clients = [] if by_operators else [box.request("b"), box.request("a")]
    for model in "ba" if by_operators else "":
        assert box.ask(Action.LOAD, model) is None
    box.turns(150)
    assert [one for one in clients if one.started is None or one.error] == []
    assert (box.operations.running, box.loads["b"]) == ((), 1)
    assert box.loaded() == {"a"}


def test_wake_of_a_sleeper_that_had_to_release_what_it_kept_says_so() -> None:
    box = GpuBox({"b": 890, "a": 600})
    box.swap_to("a")
    box.ask(Action.SLEEP, "a")
    box.turns(20)
    for action, model in ((Action.LOAD, "b"), (Action.WAKE, "a")):
        assert box.ask(action, model) is None
    box.turns(150)
    assert (box.operations.running, box.loaded()) == ((), {"b"})
    assert box.operations.kept.operations[-1].reason.startswith("a is unloaded")


@pytest.mark.parametrize("sleepless", [False, True])
@pytest.mark.parametrize("status", [S.DRAINING, S.FALLING_ASLEEP])
def test_model_that_leaves_comes_back_after_the_other_one_also_for_operators(status: S, *, sleepless: bool) -> None:
    box = GpuBox({"a": 600, "b": 600}, insomniac=frozenset({"a"} if sleepless else ()))
    box.swap_to("a")
    if status is S.DRAINING:
        box.request("a", 90)
        box.turns(1)
    waits = box.request("b")
    while box.status("a") is not status:
        box.turn()
    assert box.ask(Action.LOAD, "a") is None
    while waits.started is None:
        assert box.status("a") not in (S.WAITING, S.STARTING, S.WAKING)
        box.turn()
    box.turns(150)
    assert (box.operations.running, box.loaded()) == ((), {"a"})
    assert box.loads == {"a": 2 if sleepless else 1, "b": 1}


def test_dry_run_shows_who_would_sleep_and_who_would_be_unloaded() -> None:
    box = GpuBox({"a": 400, "b": 300, "c": 870})
    for name in "bab":
        box.swap_to(name)

    def would() -> list[tuple[str, str]]:
        asked = Change(action=Action.LOAD, model="c", dry_run=True)
        reply = box.operations.ask(asked, box.observation(), workers=(), now=box.now)
        return [(step.replica, step.to) for step in reply.steps]

    before = box.operations.kept
    foreseen = would()
    assert (foreseen[-1], before) == (("c", S.READY), box.operations.kept)
    box.swap_to("c")
    done = {one.model: one.action for one in box.operations.kept.operations if one.by == "a swap to c"}
    ends = {Action.SLEEP: S.ASLEEP, Action.UNLOAD: S.UNLOADED}
    assert {(model, ends[action]) for model, action in done.items()} == set(foreseen[:-1])
    assert len(done) == 2


def test_nothing_leaves_for_a_model_whose_memory_others_hold() -> None:
    box = GpuBox({"a": 300, "b": 700})
    box.swap_to("a")
    box.taken_by_others(45)
    box.turns(40)
    refused = box.request("b")
    box.turns(10)
    assert (refused.error, box.loaded(), box.in_vain) == ("memory_not_free", {"a"}, [])
    assert not [one for one in box.operations.kept.operations if "swap" in one.by]
    box.taken_by_others(0.5)
    box.turns(5)
    box.swap_to("b")


def test_short_use_by_others_is_waited_for() -> None:
    box = GpuBox({"a": 300, "b": 700})
    box.swap_to("a")
    box.taken_by_others(45)
    waits = box.request("b")
    box.turns(20)
    assert (waits.ended, box.loaded()) == (None, {"a"})
    box.taken_by_others(0.5)
    box.turns(40)
    assert (waits.error, box.loaded()) == ("", {"b"})


@pytest.mark.parametrize("seed", range(4))
def test_every_request_is_answered_whatever_sleeps_badly_and_whatever_others_take(seed: int) -> None:
    dice = random.Random(seed)
    names = "abcd"[: dice.randint(2, 4)]
    sizes = {name: dice.randint(150, 880) for name in names}
    some = [frozenset(dice.sample(names, dice.randint(0, 1))) for _ in range(2)]
    box = GpuBox(sizes, max_wait_s=20, insomniac=some[0], dazed=some[1])
    box.kept_gib = {name: dice.choice([1.0, 2.0, 3.5, 8.0]) for name in names}
    for _ in range(25):
        name = dice.choice(names)
        match dice.choice(["request"] * 7 + ["foreign", "sleep", "unload", "die"]):
            case "request":
                box.request(name, seconds=dice.choice([0.5, 5, 40]))
            case "foreign":
                box.taken_by_others(dice.choice([0.5, 0.5, 8, 30, 70]))
            case "sleep" | "unload" if box.running(name):
                pass
            case "sleep":
                box.ask(Action.SLEEP, name)
            case "unload":
                box.ask(Action.UNLOAD, name)
            case _:
                box.die(name)
        box.turns(dice.uniform(0.5, 20))
    box.taken_by_others(0.5)
    box.turns(len(names) * (30 + 20 + 40 + 20 + 60))
    assert [one for one in box.clients if one.ended is None] == []
    assert (box.operations.running, box.in_vain) == ((), [])
