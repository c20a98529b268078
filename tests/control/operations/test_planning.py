"""What a migration would be: who replaces whom, with room for both or not, and why not at all."""

from dataclasses import replace
from typing import Any

import pytest

from berth.control.decisions import gates
from berth.control.decisions.records import Goal, GpuMemory, Observation, Record
from berth.control.operations.event_ring import EventRing
from berth.control.operations.planning import migration, wanted
from berth.control.operations.store import Operations
from berth.control.operations.targets import Around
from berth.engines.registry import sleep
from berth.ipc.migration import Counts, How, Migration, Move, MoveKind, Options, Phase
from berth.ipc.operations import HISTORY, Action, Change, Denial, DenialCode
from berth.ipc.revising import Revised, Wanted
from berth.plan import (
    Author,
    EngineName,
    Launch,
    MemoryEstimate,
    ModelRoute,
    Ranks,
    Restarts,
    Revision,
    RevisionState,
    Standby,
    Task,
)
from berth.records.revisions import History
from berth.state import ReplicaStatus
from tests.fakes.plans import make_replica

S = ReplicaStatus
NOW, GIB = 100.0, 1 << 30
ROUTE = ModelRoute(
    name="chat", aliases=("c",), source="s", task=Task.GENERATE, replicas=("chat-vllm", "chat-sglang")
)  # fmt: skip
ONE = Revision(model="chat", number=1, at=1, by=Author.ENV, base="b", order=(0, 1), says={})
TWO = replace(ONE, number=2, order=(1, 0), by=Author.MIGRATE)
AROUND = Around(
    requests_per_s=2.0,
    longest_s=4.0,
    queue_size=100,
    history=History(revisions=(ONE,)),
    places={"chat-vllm": 0, "chat-sglang": 1},
)


def record(name: str, status: ReplicaStatus, fraction: float | None = None, **fields: object) -> Record:
    engine = EngineName(name.partition("-")[2])
    replica = replace(make_replica(name, launch=Launch(argv=("x",))), engine=engine)
    if fraction is not None:
        replica = replace(replica, gpus=(0,), memory_fraction=fraction)
    return replace(Record(replica=replica, status=status, since=0), **fields)  # type: ignore[arg-type] # any field


OLD, NEW = record("chat-vllm", S.READY, load_s=20.0), record("chat-sglang", S.STANDBY)


def seen(*records: Record, route: ModelRoute = ROUTE) -> Observation:
    restarts = Restarts(failures=3)
    return Observation(records=records or (OLD, NEW), processes={}, failures={}, routes=(route,), restarts=restarts)


def asked(**options: object) -> Change:
    made = replace(Options(to="sglang"), **options)  # type: ignore[arg-type] # any option
    return Change(action=Action.MIGRATE, model="chat", migrate=made)


def planned(observation: Observation | None = None, around: Around = AROUND, **options: Any) -> Migration | Denial:
    return migration(asked(**options), observation or seen(), around, NOW)


@pytest.mark.parametrize("to", ["sglang", "chat-sglang", "sglang:vllm"])
def test_the_engine_behind_gets_in_front(to: str) -> None:
    made = planned(to=to)

    assert isinstance(made, Migration)
    assert (made.stable, made.candidate, made.how, made.phase) == ("chat-vllm", "chat-sglang", How.BOTH, Phase.STARTING)
    assert (made.before, made.after) == (ROUTE.replicas, ("chat-sglang", "chat-vllm"))
    assert (made.revision, made.by, made.hold_since) == (2, Author.MIGRATE, 0)


@pytest.mark.parametrize(
    ("observation", "options", "message"),
    [
        (None, {"to": "trtllm"}, "'chat' has no engine 'trtllm'. It has: chat-vllm (vllm), chat-sglang (sglang)"),
        (None, {"to": "chat-vllm"}, "'chat' is served by chat-vllm already"),
        (None, {"steps": ()}, "steps must be percentages that grow"),
        (None, {"steps": (5.0, 1.0)}, "not 5.0, 1.0"),
        (None, {"steps": (0.0, 100.0)}, "steps must be percentages"),
        (None, {"steps": (101.0,)}, "steps must be percentages"),
        (None, {"step_s": -1.0}, "must not be negative"),
        (seen(OLD, route=replace(ROUTE, replicas=("chat-vllm",))), {}, "has one engine. Name both in BERTH_MODELS"),
        (
            seen(route=replace(ROUTE, standby=Standby.WARM)),
            {"set": ("args=",)},
            "are warm standbys: change BERTH_MODELS",
        ),
        (seen(route=replace(ROUTE, standby=Standby.HOT)), {}, "serve (`standby: hot`): only the arguments of one"),
        (seen(route=replace(ROUTE, standby=Standby.HOT)), {"to": "", "source": "x"}, "only the arguments of one"),
        (seen(route=replace(ROUTE, standby=Standby.HOT)), {"to": "", "set": ("args=",)}, "`--to chat-sglang`"),
        (seen(route=replace(ROUTE, replicas=("chat-vllm", "chat-vllm-2"))), {}, "has `replicas`, which are alike"),
        (None, {"set": ("args=" + "x" * 1000,)}, "more than 1000 characters"),
        (seen(replace(OLD, status=S.STARTING), NEW), {}, "chat-vllm does not serve (starting)"),
        (seen(OLD, replace(NEW, status=S.STOPPING)), {}, "chat-sglang is stopping. Try again when it is at rest"),
        (seen(OLD, replace(NEW, cleaned_up=False)), {}, "chat-sglang is standby. Try again"),
        (seen(OLD, replace(NEW, replica=replace(NEW.replica, launch=None))), {}, "Attached servers run elsewhere"),
    ],
)
def test_says_why_it_is_not_possible(
    observation: Observation | None, options: dict[str, Any], message: str
) -> None:  # fmt: skip
    denied = planned(observation, **options)

    assert isinstance(denied, Denial)
    assert denied.code is DenialCode.MIGRATION
    assert message in denied.message


def test_nothing_is_migrated_that_cannot_be_kept() -> None:
    denied = planned(around=replace(AROUND, unwritable="'/data' cannot be written"))

    assert isinstance(denied, Denial)
    assert denied.message == "No revision can be kept: '/data' cannot be written"


def test_unknown_models_are_denied() -> None:
    denied = migration(replace(asked(), model="other"), seen(), AROUND, NOW)
    assert isinstance(denied, Denial)
    assert denied.code is DenialCode.UNKNOWN_MODEL


CROWDED = seen(record("chat-vllm", S.READY, 0.6, load_s=20.0), record("chat-sglang", S.STANDBY, 0.6))
ROOMY = seen(record("chat-vllm", S.READY, 0.4), record("chat-sglang", S.STANDBY, 0.4))
THIRD = replace(record("chat-vllm", S.READY, 0.4), replica=replace(OLD.replica, name="embed", gpus=(0,)))
RAM = replace(
    NEW,
    replica=replace(
        NEW.replica,
        memory=MemoryEstimate(
            weights_bytes=6 * GIB, kv_bytes_per_token=1, kv_bytes=GIB, overhead_bytes=GIB, largest_context=1
        ),
    ),
)


@pytest.mark.parametrize(
    ("observation", "free", "how"),
    [
        (ROOMY, 0, How.BOTH),
        (CROWDED, 0, How.SWAP),
        (seen(*ROOMY.records, THIRD), 0, How.SWAP),
        (seen(OLD, RAM), 9 * GIB, How.BOTH),
        (seen(OLD, RAM), 7 * GIB, How.SWAP),
    ],
)
def test_both_run_where_there_is_room(observation: Observation, free: int, how: How) -> None:
    around = replace(AROUND, ram_free_bytes=free, requests_per_s=0.1)
    made = planned(observation, around)

    assert isinstance(made, Migration)
    assert (made.how, made.phase) == (how, Phase.HOLDING if how is How.SWAP else Phase.STARTING)
    assert made.hold_since == (NOW if how is How.SWAP else 0)
    assert (made.hold_s > 0) == (how is How.SWAP)
    denied = planned(observation, around, how=How.BOTH)
    assert isinstance(denied, Migration) == (how is How.BOTH)


def test_a_misfit_is_said_with_its_numbers() -> None:
    denied = planned(CROWDED, how=How.BOTH)

    assert isinstance(denied, Denial)
    assert denied.code is DenialCode.NO_ROOM
    expected = "chat-sglang needs 60% of GPU 0, and chat-vllm has 60%. `--how swap` queues requests meanwhile."
    assert denied.message == f"There is no room for both: {expected}"


@pytest.mark.parametrize(
    ("around", "options", "message"),
    [
        ({"requests_per_s": 3.0}, {}, "3.0 requests/s make 81, and the queue of 100 may be filled to 80%"),
        ({}, {"hold_s": 20.0}, "for about 27 s (as a start took the last time), and 20 s are allowed: `--hold 27`"),
        ({"longest_s": 900.0}, {}, "queued for about 323 s"),
    ],
)
def test_refuses_what_the_queue_cannot_carry(
    around: dict[str, float], options: dict[str, float], message: str
) -> None:  # fmt: skip
    denied = planned(CROWDED, replace(AROUND, **around), **options)  # type: ignore[arg-type] # any field

    assert isinstance(denied, Denial)
    assert denied.code is DenialCode.HOLD
    assert message in denied.message


def test_an_engine_that_was_never_started_here_is_guessed() -> None:
    fresh = seen(*(replace(one, load_s=None) for one in CROWDED.records))
    denied = planned(fresh, hold_s=10.0)
    assert isinstance(denied, Denial)
    assert "for about 67 s (a guess)" in denied.message


# rollbacks


def test_a_rollback_goes_to_the_revision_before() -> None:
    now = seen(
        replace(OLD, status=S.STANDBY),
        replace(NEW, status=S.READY),
        route=replace(ROUTE, replicas=ROUTE.replicas[::-1]),
    )
    made = planned(now, replace(AROUND, history=History(revisions=(ONE, TWO))), to="")

    assert isinstance(made, Migration)
    assert (made.candidate, made.by, made.revision) == ("chat-vllm", Author.ROLLBACK, 3)


@pytest.mark.parametrize(
    ("history", "number", "message"),
    [
        ((ONE,), 0, "no such revision that was promoted before. Kept: none"),
        ((ONE, replace(TWO, state=RevisionState.REJECTED)), 0, "Kept: none"),
        ((ONE, TWO), 7, "Kept: 1"),
        ((replace(ONE, base="x"), TWO), 0, "Revision 1 comes from another BERTH_MODELS. `berth diff chat 2 1` shows"),
        ((replace(ONE, order=(7,)), TWO), 0, "comes from another BERTH_MODELS"),
        ((ONE, TWO, replace(ONE, number=3)), 1, "'chat' is served by chat-vllm already"),
    ],
)
def test_a_rollback_says_what_there_is(history: tuple[Revision, ...], number: int, message: str) -> None:
    denied = planned(around=replace(AROUND, history=History(revisions=history)), to="", revision=number)

    assert isinstance(denied, Denial)
    assert message in denied.message


# other command lines

ALONE = seen(OLD, route=replace(ROUTE, replicas=("chat-vllm",)))
TWIN = record("chat-vllm", S.STANDBY)
TWIN = replace(TWIN, replica=replace(TWIN.replica, name="chat-vllm-2"))
TWINS = seen(OLD, TWIN, route=replace(ROUTE, replicas=("chat-vllm", "chat-vllm-2")))
ARGS = "args=--x"


def around_of(
    observation: Observation, *changes: str, history: tuple[Revision, ...] = (ONE,), **options: Any
) -> Around:
    """With the reply of boot's code to what is asked."""
    (route,) = observation.routes
    places = {name: place for place, name in enumerate(route.replicas)}
    around = replace(AROUND, places=places, history=History(revisions=history))
    needed = wanted(asked(**options), observation, around)
    replicas = tuple(one.replica for one in observation.records)
    return replace(around, revised=Revised(wanted=needed, changes=changes, route=route, replicas=replicas))


@pytest.mark.parametrize(
    ("observation", "options", "candidate", "how"),
    [
        (ALONE, {"to": ""}, "chat-vllm", How.SWAP),
        (TWINS, {"to": ""}, "chat-vllm-2", How.BOTH),
        (TWINS, {"to": "chat-vllm"}, "chat-vllm", How.SWAP),
        (seen(OLD, NEW), {"to": ""}, "chat-vllm", How.SWAP),
        (seen(OLD, NEW), {"to": "sglang"}, "chat-sglang", How.BOTH),
        (seen(OLD, NEW), {"to": "", "set": ("sglang.args=--x",)}, "chat-sglang", How.BOTH),
        (
            seen(OLD, replace(NEW, status=S.READY), route=replace(ROUTE, standby=Standby.HOT)),
            {},
            "chat-sglang",
            How.SWAP,
        ),
    ],
)
def test_a_change_runs_in_a_place_at_rest_or_in_that_of_the_engine_itself(
    observation: Observation, options: dict[str, Any], candidate: str, how: How
) -> None:
    options = {"set": (ARGS,), **options}
    made = planned(observation, around_of(observation, "engines[0].args=--x", **options), **options)

    assert isinstance(made, Migration)
    assert (made.candidate, made.how, made.changes, made.revised) == (candidate, how, ("engines[0].args=--x",), True)
    assert made.in_place == (how is How.SWAP)
    assert made.before == observation.routes[0].replicas
    assert made.after[0] == ("chat-vllm" if observation.routes[0].standby is Standby.HOT else candidate)


@pytest.mark.parametrize(
    ("revised", "options", "message"),
    [
        (None, {}, "'chat' has changed meanwhile: request it again"),
        ({"wanted": Wanted(model="chat", replica="chat-sglang")}, {}, "'chat' has changed meanwhile"),
        ({"error": "no such file"}, {}, "'chat' cannot be planned so: no such file"),
        ({"route": replace(ROUTE, room={0: 100})}, {}, "'chat' would take other room: change BERTH_MODELS"),
        ({"changes": ()}, {}, "Nothing would change: 'chat' is served so already"),
        ({}, {"how": How.BOTH}, "chat-vllm serves, and changes itself; for a place next to it name the engine twice"),
    ],
)
def test_a_change_that_cannot_be_says_why(
    revised: dict[str, Any] | None, options: dict[str, Any], message: str
) -> None:
    options = {"to": "", "set": (ARGS,), **options}
    around = around_of(ALONE, "engines[0].args=--x", **options)
    assert around.revised is not None
    denied = planned(
        ALONE, replace(around, revised=replace(around.revised, **revised) if revised is not None else None), **options
    )

    assert isinstance(denied, Denial)
    assert message in denied.message


def test_a_model_on_several_boxes_is_changed_on_each_of_them() -> None:
    ranks = Ranks(nodes=2, rank=0, head="a", own="a", port=1, interface="eth0", url="http://a")
    spread = seen(replace(OLD, replica=replace(OLD.replica, ranks=ranks)), route=ALONE.routes[0])
    denied = planned(spread, around_of(spread, "engines[0].args=--x", to="", set=(ARGS,)), to="", set=(ARGS,))

    assert isinstance(denied, Denial)
    assert "runs on several boxes: change BERTH_MODELS on each of them" in denied.message
    assert wanted(replace(asked(), model="other"), spread, AROUND) is None


def test_a_later_migration_keeps_what_was_changed_and_a_rollback_undoes_it() -> None:
    changed = replace(ONE, v=2, number=2, by=Author.MIGRATE, changes=("context=1024",))
    kept = planned(seen(), replace(AROUND, history=History(revisions=(ONE, changed))))
    around = around_of(ALONE, history=(ONE, changed), to="")
    back = planned(ALONE, around, to="")

    assert isinstance(kept, Migration)
    assert (kept.changes, kept.revised) == (("context=1024",), False)
    assert around.revised is not None
    assert around.revised.wanted == Wanted(model="chat", replica="chat-vllm")
    assert isinstance(back, Migration)
    assert (back.changes, back.revised, back.by, back.revision) == ((), True, Author.ROLLBACK, 3)


def test_a_rollback_of_engines_that_all_serve_is_to_the_one_that_was_changed() -> None:
    hot = seen(OLD, replace(NEW, status=S.READY), route=replace(ROUTE, standby=Standby.HOT))
    history = (ONE, replace(ONE, number=2, changes=("engines[1].args=--x",)))
    back = planned(hot, around_of(hot, history=history, to=""), to="")

    assert isinstance(back, Migration)
    assert (back.candidate, back.in_place, back.after) == ("chat-sglang", True, ROUTE.replicas)


def test_what_berth_has_chosen_can_be_changed_and_rolled_back() -> None:
    """It has no places in a list."""
    one = replace(ONE, order=())
    around = around_of(ALONE, history=(one, replace(one, number=2, changes=("vllm.args=--x",))), to="")
    made = planned(ALONE, replace(around, places={}), to="")

    assert isinstance(made, Migration)
    assert (made.candidate, made.changes) == ("chat-vllm", ())


def test_a_warm_standby_is_woken_in_place_of_the_engine_that_serves() -> None:
    asleep = seen(OLD, replace(NEW, status=S.ASLEEP), route=replace(ROUTE, standby=Standby.WARM))
    made = planned(asleep)

    assert isinstance(made, Migration)
    assert (made.how, made.candidate, made.hold_s) == (How.SWAP, "chat-sglang", 4 + 10 + 3)
    requested = replace(NEW, status=S.ASLEEP, goal=Goal.ASLEEP)
    denied = planned(seen(OLD, requested, route=asleep.routes[0]))
    assert isinstance(denied, Denial)
    assert "chat-sglang is asleep. Try again" in denied.message


SLEEP = sleep(EngineName.VLLM, None)
SLEEPER = replace(CROWDED.records[0], replica=replace(CROWDED.records[0].replica, sleep=SLEEP))


@pytest.mark.parametrize(
    ("old", "changed", "sleeps"),
    [
        (SLEEPER, {}, True),
        (CROWDED.records[0], {}, False),  # it was started without that
        (replace(SLEEPER, cannot_sleep="it did not fall asleep"), {}, False),
        (replace(SLEEPER, gpu=GpuMemory(residue={0: 5 * GIB})), {"gpu_bytes": {0: 12 * GIB}}, False),  # 42 % and 60 %
        (SLEEPER, {"gpu_bytes": {}}, False),  # the size of the GPU is not known
        (SLEEPER, {"routes": (replace(ROUTE, room={0: 600}),)}, False),
    ],
)
def test_the_engine_before_sleeps_where_it_can_and_has_room(
    old: Record, changed: dict[str, Any], sleeps: bool
) -> None:  # fmt: skip
    observation = replace(seen(old, CROWDED.records[1]), **{"gpu_bytes": {0: 80 * GIB}, **changed})
    made = planned(observation)

    assert isinstance(made, Migration)
    assert (made.how, made.sleeps) == (How.SWAP, sleeps)
    both = planned(replace(ROOMY, gpu_bytes={0: 80 * GIB}))
    assert isinstance(both, Migration)
    assert not both.sleeps


def test_what_was_usual_counts_where_the_two_do_not_run_at_the_same_time() -> None:
    around = replace(AROUND, usual=Counts(timed=200, slow=100))
    swap, both = planned(CROWDED, around), planned(ROOMY, around)

    assert isinstance(swap, Migration)
    assert isinstance(both, Migration)
    assert (swap.other, both.other) == (around.usual, Counts())
    tried = Counts(attempts=60, timed=60, slow=30)
    assert not gates.failed(tried, swap.other)
    assert gates.failed(tried, both.other).startswith("slow answers: 30 of 60")


@pytest.mark.parametrize(("free", "sleeps"), [(9 * GIB, True), (7 * GIB, False)])
def test_on_the_cpu_it_sleeps_where_the_memory_is_enough_for_both(free: int, sleeps: bool) -> None:
    old = replace(OLD, replica=replace(OLD.replica, sleep=SLEEP))
    made = planned(seen(old, RAM), replace(AROUND, ram_free_bytes=free), how=How.SWAP)

    assert isinstance(made, Migration)
    assert made.sleeps is sleeps


# as operations


def test_the_same_migration_twice_is_one_and_others_are_denied() -> None:
    operations = Operations(EventRing())
    first = operations.ask(asked(), seen(), workers=(), now=NOW, around=AROUND).operation
    again = operations.ask(asked(), seen(), workers=(), now=NOW, around=AROUND).operation
    other = operations.ask(asked(keep_s=1.0), seen(), workers=(), now=NOW, around=AROUND).denial
    load = operations.ask(Change(action=Action.LOAD, model="chat"), seen(), workers=(), now=NOW).denial

    assert first is not None
    assert again is not None
    assert (first.id, first.replicas, first.starts) == (again.id, ("chat-vllm", "chat-sglang"), {"chat-sglang": 0})
    assert other is not None
    assert load is not None
    assert (other.code, load.code) == (DenialCode.BUSY, DenialCode.BUSY)
    assert "migrate, requested by someone" in load.message


def test_a_rollback_undoes_a_migration_that_is_not_over() -> None:
    operations = Operations(EventRing())
    first = operations.ask(asked(), seen(), workers=(), now=NOW, around=AROUND).operation
    other = operations.ask(asked(to="", revision=7), seen(), workers=(), now=NOW, around=AROUND).denial
    undone = operations.ask(asked(to=""), seen(), workers=(), now=NOW, around=AROUND).operation

    assert first is not None
    assert other is not None
    assert other.code is DenialCode.BUSY
    assert undone is not None
    assert undone.migration is not None
    assert (undone.id, undone.migration.phase) == (first.id, Phase.ROLLING_BACK)


def test_a_dry_run_shows_the_candidate() -> None:
    operations = Operations(EventRing())
    reply = operations.ask(replace(asked(), dry_run=True), seen(), workers=(), now=NOW, around=AROUND)

    assert [(step.replica, step.to) for step in reply.steps] == [("chat-sglang", S.READY)]
    assert operations.kept.operations == ()


@pytest.mark.parametrize(
    "change",
    [
        Change(action=Action.MIGRATE, model="chat"),
        Change(action=Action.LOAD, model="chat", migrate=Options(to="sglang")),
    ],
)
def test_a_migration_needs_its_options_and_nothing_else_has_them(change: Change) -> None:
    denial = Operations(EventRing()).ask(change, seen(), workers=(), now=NOW).denial

    assert denial is not None
    assert (denial.code, "A migration takes what it migrates to" in denial.message) == (DenialCode.INVALID, True)


def test_moves_change_a_running_migration_only() -> None:
    operations = Operations(EventRing())
    one = operations.ask(asked(), seen(), workers=(), now=NOW, around=AROUND).operation
    assert one is not None
    assert one.migration is not None
    operations.progressed(one, replace(one.migration, phase=Phase.SETTLING))
    assert operations.kept.orders == {"chat": ("chat-sglang", "chat-vllm")}

    unknown = operations.move(Move(migration="x", kind=MoveKind.ABORT), "me", NOW)
    same = operations.move(Move(migration=one.id, kind=MoveKind.RESUME), "me", NOW)
    retiring = replace(one.migration, phase=Phase.RETIRING)
    operations.progressed(one, retiring)
    wrong = operations.move(Move(migration=one.id, kind=MoveKind.PAUSE), "me", NOW)
    operations.progressed(one, replace(one.migration, phase=Phase.SETTLING))
    back = operations.cancel(one.id).operation

    assert (unknown.denial and unknown.denial.code) == DenialCode.UNKNOWN_OPERATION
    assert wrong.denial is not None
    assert wrong.denial.code is DenialCode.OVER
    assert wrong.denial.message.endswith(
        "is retiring, where it cannot pause. Possible now: nothing; it ends by itself."
    )
    assert same.operation is not None
    assert same.denial is None
    assert back is not None
    assert back.migration is not None
    assert (back.migration.phase, back.migration.reason) == (Phase.ROLLING_BACK, "aborted by berth cancel")
    assert operations.kept.orders == {"chat": ROUTE.replicas}


def test_many_operations_do_not_displace_one_that_runs() -> None:
    operations = Operations(EventRing())
    running = operations.ask(asked(), seen(), workers=(), now=NOW, around=AROUND).operation
    assert running is not None
    for number in range(HISTORY + 9):
        action = Action.PIN if number % 2 else Action.UNPIN
        operations.ask(Change(action=action, model="chat", by=str(number)), seen(), workers=(), now=NOW)

    kept = operations.kept.operations
    assert (len(kept), kept[0].id) == (HISTORY, running.id)
