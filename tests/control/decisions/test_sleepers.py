"""Who sleeps with its weights in RAM, who without them, and who is stopped: in a world of one GPU and little RAM."""

import random
from dataclasses import replace

import pytest

from berth.control.decisions import requests, sleepers
from berth.control.decisions.records import Goal, Ram
from berth.ipc.operations import Action, Change, DenialCode
from berth.plan import Importance, MemoryEstimate
from berth.records.starts import How
from berth.state import ReplicaStatus
from tests.control.decisions.test_sleeping_swaps import GIB, LIGHT, SLEEP, GpuBox

S = ReplicaStatus
ABC = {"a": 600, "b": 600, "c": 600}
WEIGHTS_GIB = 11  # of each model, pinned
FOR_ONE, FOR_TWO = 20, 30  # GiB of RAM, of which a tenth is not for sleepers


def ways(box: GpuBox) -> dict[str, How | None]:
    """Of the models that sleep: how they will wake."""
    return {name: one.wakes for name, one in box.records.items() if one.status is S.ASLEEP}


def requested(box: GpuBox, model: str) -> list[tuple[Action, str]]:
    """What was done to a model, and who wanted that."""
    return [(one.action, one.by) for one in box.operations.kept.operations if one.model == model]


def after_swaps(to: str, box: GpuBox) -> GpuBox:
    for name in to:
        box.swap_to(name)
    return box


def test_two_sleep_where_there_is_ram_for_the_weights_of_two() -> None:
    box = after_swaps("abc", GpuBox(ABC, ram_gib=FOR_TWO))
    assert ways(box) == {"a": How.WAKE_1, "b": How.WAKE_1}
    assert box.records["a"].reason.endswith("with its weights in RAM, 11.0 GiB of 27.0 GiB that are left")
    assert sleepers.budget_bytes(tuple(box.records.values()), box.reading) == int(0.9 * FOR_TWO * GIB)


def test_the_one_that_was_not_used_for_longer_gives_its_ram_up() -> None:
    box = after_swaps("abc", GpuBox(ABC, ram_gib=FOR_ONE))
    assert (ways(box), box.status("a"), box.loaded()) == ({"b": How.WAKE_1}, S.UNLOADED, {"c"})
    assert requested(box, "a")[-1] == (Action.UNLOAD, "a lack of RAM for b")
    assert requested(box, "b")[-1] == (Action.SLEEP, "a swap to c")
    assert box.most_ram_gib == WEIGHTS_GIB


def test_a_model_serves_until_the_ram_for_its_weights_is_free() -> None:
    box = after_swaps("ab", GpuBox(ABC, ram_gib=FOR_ONE))
    box.request("c")
    served = []
    while box.status("a") is not S.UNLOADED:
        box.turn()
        served.append(box.status("b"))
    assert set(served) == {S.READY}
    while box.status("b") is not S.ASLEEP:
        box.turn()
    assert ways(box) == {"b": How.WAKE_1}


def test_engines_that_need_not_keep_their_weights_sleep_without_them_instead() -> None:
    box = after_swaps("abc", GpuBox(ABC, ram_gib=FOR_ONE, light=True))
    assert ways(box) == {"a": How.WAKE_1, "b": How.WAKE_2}
    assert "without its weights, which it reads again: its weights would take 11.0 GiB" in box.records["b"].reason
    box.swap_to("b")
    assert (box.records["b"].starts, box.records["b"].wakes) == (1, None)


@pytest.mark.parametrize(
    ("reload_s", "start_s", "found"),
    [
        (9.0, 10.0, {"b": How.WAKE_1}),  # to read them again saves nothing: a gives its RAM up
        (2.0, 10.0, {"a": How.WAKE_1, "b": How.WAKE_2}),
        (40.0, 10.0, {"b": How.WAKE_1}),
    ],
)
def test_measured_times_decide(reload_s: float, start_s: float, found: dict[str, How]) -> None:
    times = {How.COLD: start_s, How.WAKE_1: 1.0, How.WAKE_2: reload_s}
    box = GpuBox(ABC, ram_gib=FOR_ONE, light=True, start_times=dict.fromkeys("abc", times))
    assert ways(after_swaps("abc", box)) == found


def test_a_wake_that_takes_longer_than_a_start_is_no_reason_to_sleep() -> None:
    times = {How.COLD: 10.0, How.WAKE_1: 30.0, How.WAKE_2: 20.0}
    box = after_swaps("ab", GpuBox(ABC, light=True, start_times={"a": times}))
    assert (box.status("a"), ways(box)) == (S.UNLOADED, {})
    assert box.records["a"].reason == (
        "unload requested by a swap to b: a wake takes 30 s, a start 10 s; to read them again takes 20 s, a start 10 s"
    )


def test_no_ram_at_all() -> None:
    box = after_swaps("ab", GpuBox(ABC, ram_gib=5))
    assert (box.status("a"), requested(box, "a")[-1]) == (S.UNLOADED, (Action.UNLOAD, "a swap to b"))
    assert "its weights would take 11.0 GiB of RAM, and 4.5 GiB are left" in box.records["a"].reason


@pytest.mark.parametrize(
    ("priority", "found"), [(Importance.HIGH, {"a": How.WAKE_1}), (Importance.LOW, {"b": How.WAKE_1})]
)
def test_a_model_of_higher_priority_keeps_its_ram(priority: Importance, found: dict[str, How]) -> None:
    box = GpuBox(ABC, ram_gib=FOR_ONE, priorities={"a": priority})
    assert ways(after_swaps("abc", box)) == found


def test_a_pinned_sleeper_keeps_its_ram() -> None:
    box = after_swaps("ab", GpuBox(ABC, ram_gib=FOR_ONE))
    box.ask(Action.PIN, "a")
    box.ask(Action.LOAD, "c")
    box.turns(120)
    assert ways(box) == {"a": How.WAKE_1}


@pytest.mark.unmeasured  # coverage makes thousands of turns take minutes
def test_two_that_alternate_with_ram_for_one_are_both_served() -> None:
    box = after_swaps("abababab", GpuBox({"a": 600, "b": 600}, ram_gib=FOR_ONE, light=True))
    assert (box.loads, box.in_vain) == ({"a": 1, "b": 1}, [])
    box = after_swaps("ababab", GpuBox({"a": 600, "b": 600}, ram_gib=FOR_ONE))
    assert box.in_vain == []
    assert sum(box.loads.values()) < 6  # every other one wakes


def test_without_ram_idle_models_are_unloaded() -> None:
    box = GpuBox({"a": 600}, ram_gib=5)
    box.routes = tuple(replace(one, idle_unload_s=70, idle_stop_s=1000) for one in box.routes)
    box.swap_to("a")
    box.turns(60)
    assert (box.status("a"), "4.5 GiB are left" in box.records["a"].reason) == (S.UNLOADED, True)


def test_idle_model_gets_the_ram_of_one_that_sleeps_for_longer() -> None:
    box = GpuBox({"a": 300, "b": 300}, ram_gib=FOR_ONE)
    box.routes = tuple(replace(one, idle_unload_s=70, idle_stop_s=1000) for one in box.routes)
    for name in "ab":
        box.swap_to(name)
        box.turns(60)
    assert (ways(box), requested(box, "a")[-1][1]) == ({"b": How.WAKE_1}, "a lack of RAM for b")


def test_sleepers_are_stopped_one_by_one_while_the_host_is_short_of_ram() -> None:
    box = after_swaps("abc", GpuBox(ABC, ram_gib=100))
    assert set(ways(box)) == {"a", "b"}
    box.ram_of_others_gib = 100 - 2 * WEIGHTS_GIB - 1
    box.turns(30)
    assert (set(ways(box)), box.status("a")) == ({"b"}, S.UNLOADED)
    assert requested(box, "a")[-1] == (Action.UNLOAD, "a lack of RAM")
    box.ask(Action.PIN, "b")
    box.ram_of_others_gib = 100 - WEIGHTS_GIB - 1
    box.turns(30)
    assert set(ways(box)) == {"b"}


def test_ram_that_is_gone_by_the_end_of_the_drain_ends_in_a_stop() -> None:
    box = after_swaps("a", GpuBox(ABC, ram_gib=FOR_ONE))
    running = box.request("a", 90)
    box.turns(1)
    box.request("b")
    while box.status("a") is not S.DRAINING:
        box.turn()
    box.ram_of_others_gib = 12
    while box.status("b") is not S.READY:
        box.turn()
    assert (running.error, box.status("a"), box.records["a"].cannot_sleep) == ("", S.UNLOADED, "")
    swap = next(one for one in box.operations.kept.operations if one.by == "a swap to b")
    assert swap.reason.startswith("unloaded instead: a was not put to sleep: its weights would take 11.0 GiB of RAM")


def test_operators_sleep_without_ram_is_refused_with_who_holds_it() -> None:
    box = after_swaps("ab", GpuBox(ABC, ram_gib=FOR_ONE))
    reply = box.operations.ask(
        Change(action=Action.SLEEP, model="b", by="me"), box.observation(), workers=(), now=box.now
    )
    assert reply.denial is not None
    assert reply.denial.code is DenialCode.CANNOT_SLEEP
    assert "would take 11.0 GiB of RAM, and 7.0 GiB are left. Weights of a, asleep" in reply.denial.message


def test_dry_run_says_how_they_would_leave() -> None:
    box = after_swaps("ab", GpuBox(ABC, ram_gib=FOR_ONE))
    reply = box.operations.ask(
        Change(action=Action.LOAD, model="c", dry_run=True), box.observation(), workers=(), now=box.now
    )
    assert [(one.replica, one.to, one.why) for one in reply.steps] == [
        ("b", S.ASLEEP, "with its weights in RAM, 11.0 GiB, once a is stopped for it"),
        ("a", S.UNLOADED, "its RAM is needed for the weights of b"),
        ("c", S.READY, ""),
    ]


@pytest.mark.parametrize(("ram_gib", "way"), [(50, "with its weights in RAM, 11.0"), (FOR_ONE, "without its weights")])
def test_dry_run_of_an_operators_sleep_says_how(ram_gib: float, way: str) -> None:
    box = after_swaps("ab", GpuBox(ABC, ram_gib=ram_gib, light=True))
    reply = box.operations.ask(
        Change(action=Action.SLEEP, model="b", dry_run=True), box.observation(), workers=(), now=box.now
    )
    assert [(one.replica, one.to, one.why.startswith(way)) for one in reply.steps] == [("b", S.ASLEEP, True)]


def test_the_next_control_knows_who_holds_ram_and_how_each_wakes() -> None:
    box = after_swaps("abc", GpuBox(ABC, ram_gib=FOR_ONE, light=True))
    before = ways(box)
    box.restart_control()
    assert ways(box) == before == {"a": How.WAKE_1, "b": How.WAKE_2}


def test_ram_that_was_not_read_is_as_boot_has_planned_it() -> None:
    box = after_swaps("a", GpuBox(ABC))
    observation = replace(box.observation(), ram=Ram())
    assert sleepers.budget_bytes(observation.records, observation.ram) is None
    found = sleepers.way(box.records["a"], observation, sleepers.free_bytes(observation.records, Ram()))
    assert found == (How.WAKE_1, "with its weights in RAM, 11.0 GiB")


@pytest.mark.parametrize(("ram_gib", "to", "goal"), [(12, S.FALLING_ASLEEP, None), (10, S.STOPPING, Goal.STANDBY)])
def test_standby_sleeps_in_all_the_ram_that_there_is_or_stands_by_cold(
    ram_gib: int, to: ReplicaStatus, goal: Goal | None
) -> None:
    box = GpuBox({"a": 600})
    loaded = replace(box.records["a"], status=S.STARTING)
    observation = replace(box.observation(), ram=Ram(available_bytes=ram_gib * GIB, limit_bytes=12 * GIB, read_at=0.0))
    transition = requests.fall_asleep(loaded, observation)
    assert (transition.to, transition.goal) == (to, goal)
    assert transition.wakes is (How.WAKE_1 if goal is None else None)


@pytest.mark.unmeasured  # coverage makes thousands of turns take minutes
@pytest.mark.parametrize("seed", range(3))
def test_sleepers_never_hold_more_ram_than_they_may_and_every_request_is_answered(seed: int) -> None:
    dice = random.Random(seed)
    names = "abcde"[: dice.randint(3, 5)]
    box = GpuBox(
        {name: dice.randint(300, 850) for name in names},
        max_wait_s=20,
        ram_gib=dice.choice([8, 14, 25, 40]),
        light=dice.random() < 0.5,
        priorities={name: dice.choice(list(Importance)) for name in names},
        insomniac=frozenset(dice.sample(names, dice.randint(0, 1))),
    )
    for name in names:
        record = box.records[name]
        memory = MemoryEstimate(
            weights_bytes=int(dice.uniform(1, 20) * GIB),
            kv_bytes_per_token=1,
            kv_bytes=1,
            overhead_bytes=1,
            largest_context=8,
        )
        sleep = dice.choice([SLEEP, LIGHT])
        box.records[name] = replace(record, replica=replace(record.replica, memory=memory, sleep=sleep))
    for _ in range(25):
        name = dice.choice(names)
        match dice.choice(["request"] * 8 + ["sleep", "pin", "unpin", "restart"]):
            case "request":
                box.request(name, seconds=dice.choice([0.5, 5, 30]))
            case "sleep" if not box.running(name):
                box.ask(Action.SLEEP, name)
            case "restart":
                box.restart_control()
            case "pin" | "unpin" as action:
                box.ask(Action(action), name)
            case _:
                pass
        box.turns(dice.uniform(0.5, 20))
    for name in names:
        box.ask(Action.UNPIN, name)
    box.turns(len(names) * (30 + 20 + 60 + 20 + 60))
    assert [one for one in box.clients if one.ended is None] == []
    assert box.operations.running == ()
    assert box.most_ram_gib <= 0.9 * box.ram_gib
