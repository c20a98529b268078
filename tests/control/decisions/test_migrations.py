"""The state machine of migrations: each way through it, and what it wants of the two replicas."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.control.decisions import migrations, requests
from berth.control.decisions.migrations import View, advance, effective, held, moved, step, unproven
from berth.control.decisions.records import Goal, Observation, Record
from berth.ipc.migration import Counts, How, Migration, Move, MoveKind, Options, Phase
from berth.ipc.operations import Action, Operation, OperationState
from berth.ipc.shadow import PLACES, Shadow, ShadowOptions, ShadowPhase
from berth.plan import Launch, ModelRoute, Restarts, Task
from berth.state import ReplicaStatus
from tests.fakes.plans import make_replica

S, P = ReplicaStatus, Phase
NOW = 1000.0
OPTIONS = Options(to="new", steps=(10, 100), step_s=5, step_requests=20, keep_s=60, hold_s=30)
BEGUN = Migration(
    options=OPTIONS,
    how=How.BOTH,
    candidate="new",
    stable="old",
    before=("old", "new"),
    after=("new", "old"),
    revision=2,
    phase=P.STARTING,
    since=NOW - 100,
)
SWAP = replace(BEGUN, how=How.SWAP, phase=P.HOLDING, hold_since=NOW - 1)
ENOUGH = Counts(attempts=40)
SLEEPER = replace(SWAP, sleeps=True)
TRIED = replace(SWAP, phase=P.TRIAL, hold_since=0.0)
AT_ONCE = replace(OPTIONS, trial_s=0)
COMPARED = replace(OPTIONS, shadow=0.5)


def shadow(**counts: float) -> Shadow:
    """What was compared, by the names of the cells with _ for a space."""
    now = tuple(counts.get(name.replace(" ", "_"), 0.0) for name in PLACES)
    options = ShadowOptions(to="new", share=0.5)
    return Shadow(options=options, candidate="new", phase=ShadowPhase.MIRRORING, since=NOW, now=now)


ENOUGH_PAIRS = replace(BEGUN, options=COMPARED, phase=P.SHADOWING, shadow=shadow(result_same=30, result_diverged=20))
ROUTE = ModelRoute(name="chat", source="s", task=Task.GENERATE, replicas=("old", "new"), room={0: 300})


def record(name: str, status: ReplicaStatus, **fields: object) -> Record:
    replica = make_replica(name, launch=Launch(argv=("x",)))
    return replace(Record(replica=replica, status=status, since=0), **fields)  # type: ignore[arg-type] # any field


def view(candidate: ReplicaStatus, stable: ReplicaStatus = S.READY, starts: int = 1, **fields: object) -> View:
    made = View(candidate=record("new", candidate, starts=starts), stable=record("old", stable), starts=0)
    return replace(made, **fields)  # type: ignore[arg-type] # any field


def operation(migration: Migration) -> Operation:
    return Operation(
        id="1", action=Action.MIGRATE, model="chat", replicas=("old", "new"), created_at=1, migration=migration,
        starts={"new": 0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "seen", "phase"),
    [
        (BEGUN, view(S.WAITING, starts=0), P.STARTING),
        (BEGUN, view(S.STARTING), P.STARTING),
        (BEGUN, view(S.READY), P.CHECKING),
        (replace(BEGUN, phase=P.CHECKING), view(S.READY), P.CHECKING),
        (replace(BEGUN, phase=P.CHECKING), view(S.READY, checked=""), P.CANARY),
        (replace(BEGUN, options=COMPARED, phase=P.CHECKING), view(S.READY, checked=""), P.SHADOWING),
        (replace(SWAP, options=COMPARED, phase=P.CHECKING), view(S.READY, S.STANDBY, checked=""), P.TRIAL),
        (replace(BEGUN, options=COMPARED, phase=P.SHADOWING, since=NOW), view(S.READY), P.SHADOWING),
        (replace(BEGUN, options=COMPARED, phase=P.SHADOWING), view(S.READY), P.CANARY),  # its time is over
        (replace(ENOUGH_PAIRS, since=NOW), view(S.READY), P.CANARY),
        (replace(BEGUN, phase=P.CANARY), view(S.READY), P.CANARY),
        (replace(BEGUN, phase=P.CANARY, step=1, own=ENOUGH), view(S.READY), P.PROMOTING),
        (replace(BEGUN, phase=P.CANARY, step=1, own=ENOUGH, since=NOW), view(S.READY), P.CANARY),
        (replace(BEGUN, phase=P.CANARY, step=1, own=ENOUGH, paused="by me"), view(S.READY), P.CANARY),
        (replace(BEGUN, phase=P.PROMOTING), view(S.READY), P.PROMOTING),
        (replace(BEGUN, phase=P.PROMOTING), view(S.READY, written=""), P.SETTLING),
        (replace(BEGUN, phase=P.SETTLING), view(S.READY), P.RETIRING),
        (replace(BEGUN, phase=P.SETTLING, since=NOW), view(S.READY), P.SETTLING),
        (replace(BEGUN, phase=P.SETTLING, paused="by me"), view(S.READY), P.SETTLING),
        (replace(BEGUN, phase=P.RETIRING), view(S.READY, S.DRAINING), P.RETIRING),
        (replace(BEGUN, phase=P.RETIRING), view(S.READY, S.STANDBY), P.DONE),
        (replace(BEGUN, phase=P.DONE), view(S.READY, S.STANDBY), P.DONE),
        (SWAP, view(S.STANDBY, S.DRAINING, starts=0), P.HOLDING),
        (SWAP, view(S.STANDBY, S.STANDBY, starts=0), P.STARTING),
        (replace(SWAP, options=AT_ONCE, phase=P.CHECKING), view(S.READY, S.STANDBY, checked=""), P.PROMOTING),
        (replace(TRIED, own=Counts(attempts=19)), view(S.READY, S.STANDBY), P.TRIAL),
        (replace(TRIED, own=ENOUGH, since=NOW - 59), view(S.READY, S.STANDBY), P.TRIAL),
        (replace(TRIED, own=ENOUGH, paused="by me"), view(S.READY, S.STANDBY), P.TRIAL),
        (replace(TRIED, own=ENOUGH), view(S.READY, S.ASLEEP), P.PROMOTING),
        (replace(SWAP, sleeps=True), view(S.STANDBY, S.FALLING_ASLEEP, starts=0), P.HOLDING),
        (replace(SWAP, sleeps=True), view(S.STANDBY, S.ASLEEP, starts=0), P.STARTING),
        (replace(SWAP, sleeps=True, phase=P.RETIRING), view(S.READY, S.ASLEEP), P.RETIRING),
        (replace(SWAP, phase=P.PROMOTING), view(S.READY, S.STANDBY, written=""), P.SETTLING),
        (replace(SWAP, phase=P.ROLLING_BACK), view(S.DRAINING, S.STANDBY), P.ROLLING_BACK),
        (replace(SWAP, phase=P.ROLLING_BACK), view(S.STANDBY, S.STARTING), P.ROLLING_BACK),
        (replace(SWAP, phase=P.ROLLING_BACK), view(S.STANDBY, S.READY), P.ROLLED_BACK),
    ],
)
def test_each_phase_leads_to_the_next(before: Migration, seen: View, phase: Phase) -> None:
    after = advance(before, seen, NOW)

    assert after.phase is phase
    assert (after == before) == (phase is before.phase)


@pytest.mark.parametrize(
    ("before", "seen", "reason"),
    [
        (BEGUN, view(S.BACKOFF), "new is backoff: "),
        (BEGUN, view(S.FAILED), "new is failed: "),
        (BEGUN, view(S.WAITING, not_free="pid 7"), "memory_not_free: pid 7"),
        (replace(BEGUN, phase=P.CHECKING), view(S.READY, checked="no text"), "the check failed: no text"),
        (replace(BEGUN, phase=P.CANARY), view(S.UNHEALTHY), "new is unhealthy: "),
        (replace(BEGUN, phase=P.CANARY, own=Counts(attempts=9, failures=3)), view(S.READY), "failures: 3 of 9"),
        (replace(BEGUN, phase=P.SETTLING, own=Counts(attempts=9, failures=3)), view(S.READY), "failures: 3 of 9"),
        (replace(BEGUN, phase=P.SETTLING), view(S.BACKOFF), "new is backoff: "),
        (replace(TRIED, own=Counts(attempts=9, failures=3)), view(S.READY, S.STANDBY), "failures: 3 of 9"),
        (TRIED, view(S.UNHEALTHY, S.ASLEEP), "new is unhealthy: "),
        (replace(SWAP, hold_since=NOW - 31), view(S.STANDBY, S.DRAINING, starts=0), "requests were queued for 31 s"),
        (replace(SWAP, phase=P.PROMOTING), view(S.READY, S.STANDBY, written="full"), "the revision cannot be written"),
    ],
)
def test_rolls_back(before: Migration, seen: View, reason: str) -> None:
    after = advance(before, seen, NOW)

    assert (after.phase, after.share) == (P.ROLLING_BACK, 0)
    assert after.reason.startswith(reason)
    assert (after.hold_since > 0) == (before.how is How.SWAP)


def test_the_share_grows_step_by_step() -> None:
    first = replace(BEGUN, phase=P.CANARY, own=ENOUGH)
    second = advance(first, view(S.READY), NOW)

    assert (first.share, second.share, second.step, second.since) == (0.1, 1, 1, NOW)
    assert advance(replace(second, since=NOW - 9, own=Counts(attempts=39)), view(S.READY), NOW).phase is P.CANARY


def test_a_promotion_that_cannot_be_written_waits_for_the_operator() -> None:
    paused = advance(replace(BEGUN, phase=P.PROMOTING), view(S.READY, written="disk full"), NOW)

    assert (paused.phase, paused.paused) == (P.PROMOTING, "the revision cannot be written: disk full")
    assert advance(paused, view(S.READY), NOW) == paused
    resumed = moved(paused, Move(migration="1", kind=MoveKind.RESUME), "me", NOW)
    assert resumed is not None
    assert resumed.paused == ""


def test_the_canary_waits_for_a_stable_replica_that_fails() -> None:
    paused = advance(replace(BEGUN, phase=P.CANARY, own=ENOUGH), view(S.READY, S.BACKOFF), NOW)

    assert paused.paused.startswith("old does not serve: the candidate answers all until it does")
    assert advance(paused, view(S.READY, S.BACKOFF), NOW) == paused
    again = advance(paused, view(S.READY), NOW + 9)
    assert (again.paused, again.since, again.phase) == ("", NOW + 9, P.CANARY)


WAITS = "old does not serve"
EACH_MOVE = {
    # what a pause, a resume, a promotion and an abort lead to; None: not in this phase
    (P.HOLDING, ""): (None, None, None, P.ROLLING_BACK),
    (P.STARTING, ""): (None, None, None, P.ROLLING_BACK),
    (P.CHECKING, ""): (None, None, None, P.ROLLING_BACK),
    (P.CANARY, ""): ("by me", P.CANARY, P.PROMOTING, P.ROLLING_BACK),
    (P.CANARY, "by you"): ("by you", P.CANARY, P.PROMOTING, P.ROLLING_BACK),
    (P.CANARY, WAITS): ("by me", P.CANARY, P.PROMOTING, P.ROLLING_BACK),
    (P.TRIAL, ""): ("by me", P.TRIAL, P.PROMOTING, P.ROLLING_BACK),
    (P.PROMOTING, ""): (None, P.PROMOTING, P.PROMOTING, P.ROLLING_BACK),
    (P.PROMOTING, "disk full"): (None, P.PROMOTING, P.PROMOTING, P.ROLLING_BACK),
    (P.SETTLING, ""): ("by me", P.SETTLING, P.RETIRING, P.ROLLING_BACK),
    (P.SETTLING, "by you"): ("by you", P.SETTLING, P.RETIRING, P.ROLLING_BACK),
    (P.RETIRING, ""): (None, None, P.RETIRING, None),
    (P.ROLLING_BACK, ""): (None, None, None, P.ROLLING_BACK),
}


@pytest.mark.parametrize(("phase", "paused"), EACH_MOVE)
def test_operators_move_it(phase: Phase, paused: str) -> None:
    """Twice is once."""
    before, expected = replace(BEGUN, phase=phase, paused=paused), EACH_MOVE[phase, paused]
    after = [moved(before, Move(migration="1", kind=kind), "me", NOW) for kind in MoveKind]
    again = [
        one and moved(one, Move(migration="1", kind=kind), "me", NOW) for one, kind in zip(after, MoveKind, strict=True)
    ]

    assert (after[0] and after[0].paused) == expected[0]
    assert tuple(one and one.phase for one in after[1:]) == expected[1:]
    assert after[1] is None or after[1].paused == ""
    assert [one and one.phase for one in (again[0], again[1], again[3])] == [
        one and one.phase for one in (after[0], after[1], after[3])
    ]
    changing = [kind for kind, one in zip(MoveKind, after, strict=True) if one not in (None, before)]
    assert migrations.possible(before) == tuple(changing)


@pytest.mark.parametrize(
    ("migration", "one", "to", "goal"),
    [
        (BEGUN, record("new", S.STANDBY), S.WAITING, None),
        (BEGUN, record("new", S.UNLOADED), S.WAITING, None),
        (BEGUN, record("new", S.FAILED), S.WAITING, None),
        (BEGUN, record("new", S.FAILED, starts=1), None, None),
        (BEGUN, record("new", S.READY), None, None),
        (BEGUN, record("old", S.READY), None, None),
        (replace(BEGUN, phase=P.RETIRING), record("old", S.READY), S.DRAINING, Goal.STANDBY),
        (replace(BEGUN, phase=P.ROLLING_BACK), record("new", S.READY), S.DRAINING, Goal.STANDBY),
        (replace(BEGUN, phase=P.ROLLING_BACK), record("new", S.STARTING), S.STOPPING, Goal.STANDBY),
        (replace(BEGUN, phase=P.ROLLING_BACK), record("new", S.BACKOFF), S.STANDBY, None),
        (replace(BEGUN, phase=P.ROLLING_BACK), record("new", S.DRAINING), None, None),
        (replace(BEGUN, phase=P.ROLLING_BACK), record("old", S.READY), None, None),
        (SWAP, record("old", S.READY), S.DRAINING, Goal.STANDBY),
        (SWAP, record("new", S.STANDBY), None, None),
        (replace(SWAP, phase=P.STARTING), record("new", S.STANDBY), S.WAITING, None),
        (replace(SWAP, phase=P.ROLLING_BACK), record("old", S.STANDBY), S.WAITING, None),
        (SLEEPER, record("old", S.READY), S.DRAINING, Goal.ASLEEP),
        (SLEEPER, record("old", S.DRAINING), None, None),
        (replace(SLEEPER, phase=P.TRIAL), record("old", S.ASLEEP), None, None),
        (replace(SLEEPER, phase=P.SETTLING), record("old", S.ASLEEP), None, None),
        (replace(SLEEPER, phase=P.RETIRING), record("old", S.ASLEEP), S.STOPPING, Goal.STANDBY),
        (replace(SLEEPER, phase=P.TRIAL), record("old", S.UNLOADED), S.STANDBY, None),
        (replace(SLEEPER, phase=P.TRIAL), record("old", S.WAITING), S.STANDBY, None),
        (replace(SLEEPER, phase=P.ROLLING_BACK), record("old", S.UNLOADED), S.WAITING, None),
        (replace(SLEEPER, phase=P.ROLLING_BACK), record("new", S.ASLEEP), None, None),
    ],
)
def test_what_it_does_with_a_replica(
    migration: Migration, one: Record, to: ReplicaStatus | None, goal: Goal | None
) -> None:
    found = step(one, operation(migration), NOW)

    assert (found and found.to, found and found.goal) == (to, goal)


def test_without_room_one_starts_when_the_other_has_left() -> None:
    starting = operation(replace(SWAP, phase=P.STARTING))
    new = record("new", S.WAITING)

    def may(old: Record) -> bool:
        return migrations.may_start(new, starting, {"old": old, "new": new})

    assert may(record("old", S.STANDBY))
    assert may(record("old", S.ASLEEP))
    assert not may(record("old", S.DRAINING))
    assert not may(record("old", S.STANDBY, cleaned_up=False))
    assert migrations.may_start(new, operation(BEGUN), {"old": record("old", S.READY), "new": new})
    assert migrations.may_start(new, None, {})


def test_candidates_get_no_requests_before_they_are_checked() -> None:
    early = [replace(BEGUN, phase=phase) for phase in (P.STARTING, P.CHECKING)]
    swaps = [replace(SWAP, options=AT_ONCE, phase=phase) for phase in (P.STARTING, P.CHECKING, P.PROMOTING)]
    swaps.append(replace(SWAP, phase=P.ROLLING_BACK))
    later = [replace(BEGUN, phase=phase) for phase in (P.CANARY, P.PROMOTING, P.SETTLING, P.ROLLING_BACK)]
    later += [replace(SWAP, phase=phase) for phase in (P.TRIAL, P.PROMOTING, P.SETTLING)]

    assert [unproven([operation(one)]) for one in (*early, *swaps)] == [{"new"}] * 6
    assert [unproven([operation(one)]) for one in later] == [frozenset()] * 7


def test_requests_are_queued_only_without_room() -> None:
    assert held([operation(SWAP)]) == {"old", "new"}
    tried = advance(replace(SWAP, phase=P.CHECKING), view(S.READY, S.STANDBY, checked=""), NOW)
    assert (tried.phase, tried.share, held([operation(tried)])) == (P.TRIAL, 1, frozenset())
    back = migrations.roll_back(tried, "aborted", NOW)
    assert back.share == 0
    assert held([operation(back)]) == {"old", "new"}
    assert held([operation(BEGUN), operation(replace(SWAP, phase=P.SETTLING, hold_since=0.0))]) == frozenset()


@pytest.mark.parametrize("dressed", [False, True])
@pytest.mark.parametrize("replica", ["old", "new"])
@pytest.mark.parametrize("phase", [one for one in P if one not in (P.SHADOWING, P.CANARY)])  # for which two engines run
def test_without_room_requests_are_queued_while_no_engine_gets_them(phase: Phase, replica: str, dressed: bool) -> None:
    """In place too, where the only engine is the candidate: else they are rejected."""
    one = operation(replace(SWAP, phase=phase, stable=replica, revised=True, dressed=dressed))
    assert unproven([one]) <= held([one])


def test_the_promoted_order_counts_and_two_replicas_take_the_room_twice() -> None:
    after = effective(ROUTE, {"chat": ("new", "old")}, [])
    both = effective(ROUTE, {}, [operation(BEGUN)])
    swap = effective(ROUTE, {}, [operation(SWAP)])

    assert (after.replicas, after.room) == (("new", "old"), {0: 300})
    assert (both.replicas, both.room, swap.room) == (("old", "new"), {0: 600}, {0: 300})


def test_quiet_steps_ask_for_probes() -> None:
    canary = replace(BEGUN, phase=P.CANARY)

    assert migrations.is_quiet(canary, NOW)
    assert not migrations.is_quiet(replace(canary, since=NOW), NOW)
    assert not migrations.is_quiet(replace(canary, own=Counts(attempts=20)), NOW)
    assert not migrations.is_quiet(replace(canary, paused="by me"), NOW)
    assert not migrations.is_quiet(BEGUN, NOW)
    assert migrations.is_quiet(TRIED, NOW)
    assert not migrations.is_quiet(replace(TRIED, since=NOW - 59), NOW)


def test_its_end_is_that_of_the_operation() -> None:
    done = requests.migrated(replace(BEGUN, phase=P.DONE, own=Counts(attempts=9, probes=3)))
    back = requests.migrated(replace(BEGUN, phase=P.ROLLED_BACK, reason="failures: 2 of 50"))

    assert done
    assert done.state is OperationState.DONE
    assert done.reason == "new serves; canary: 9 requests, 3 of them probes, 0 failed"
    assert back
    assert (back.state, back.reason) == (OperationState.FAILED, "rolled back: failures: 2 of 50")
    assert requests.migrated(BEGUN) is None
    assert step(record("new", S.STANDBY), replace(operation(BEGUN), migration=None), NOW) is None


# in place, with another command line

PLACE = replace(SWAP, candidate="old", after=("old", "new"), revised=True)
DRESSED = replace(PLACE, phase=P.STARTING, dressed=True)


def itself(status: ReplicaStatus, starts: int = 0, since: float = 0.0, **fields: object) -> View:
    one = replace(record("old", status, starts=starts), since=since)
    made = View(candidate=one, stable=one, starts=0)
    return replace(made, **fields)  # type: ignore[arg-type] # any field


@pytest.mark.parametrize(
    ("before", "seen", "phase"),
    [
        (PLACE, itself(S.DRAINING), P.HOLDING),
        (PLACE, itself(S.STANDBY), P.STARTING),
        (replace(DRESSED, dressed=False), itself(S.STANDBY), P.STARTING),
        (DRESSED, itself(S.STARTING, 1), P.STARTING),
        (DRESSED, itself(S.READY, 1), P.CHECKING),
        (DRESSED, itself(S.BACKOFF, 1), P.ROLLING_BACK),
        (replace(DRESSED, phase=P.CHECKING), itself(S.READY, 1, checked=""), P.TRIAL),
        (replace(DRESSED, phase=P.PROMOTING), itself(S.READY, 1, written=""), P.SETTLING),
        (replace(DRESSED, phase=P.SETTLING, hold_since=0.0), itself(S.READY, 1), P.RETIRING),
        (replace(DRESSED, phase=P.RETIRING, hold_since=0.0), itself(S.READY, 1), P.DONE),
        (replace(DRESSED, phase=P.ROLLING_BACK), itself(S.READY, 1), P.ROLLING_BACK),
        (replace(DRESSED, phase=P.ROLLING_BACK, dressed=False), itself(S.READY, 2), P.ROLLED_BACK),
        (replace(DRESSED, phase=P.ROLLING_BACK, dressed=False), itself(S.FAILED, 1, NOW - 101), P.ROLLING_BACK),
        (replace(DRESSED, phase=P.ROLLING_BACK, dressed=False), itself(S.FAILED, 2, NOW - 1), P.ROLLED_BACK),
    ],
)
def test_in_place_each_phase_leads_to_the_next(before: Migration, seen: View, phase: Phase) -> None:
    assert advance(before, seen, NOW).phase is phase


@pytest.mark.parametrize(
    ("migration", "one", "to"),
    [
        (PLACE, record("old", S.READY), S.DRAINING),
        (replace(PLACE, phase=P.STARTING), record("old", S.STANDBY), None),
        (DRESSED, record("old", S.STANDBY), S.WAITING),
        (replace(DRESSED, phase=P.SETTLING), record("old", S.READY), None),
        (replace(DRESSED, phase=P.ROLLING_BACK), record("old", S.READY), S.DRAINING),
        (replace(DRESSED, phase=P.ROLLING_BACK), record("old", S.BACKOFF), S.STANDBY),
        (replace(DRESSED, phase=P.ROLLING_BACK), record("old", S.STANDBY), None),
        (replace(DRESSED, phase=P.ROLLING_BACK, dressed=False), record("old", S.STANDBY), S.WAITING),
        (replace(DRESSED, phase=P.ROLLING_BACK, dressed=False), record("old", S.FAILED, starts=1), S.WAITING),
        (replace(DRESSED, phase=P.ROLLED_BACK, dressed=False), record("old", S.READY), None),
        (replace(BEGUN, revised=True), record("new", S.STANDBY), None),
        (replace(BEGUN, revised=True, dressed=True), record("new", S.STANDBY), S.WAITING),
    ],
)
def test_in_place_it_stops_is_dressed_and_starts(
    migration: Migration, one: Record, to: ReplicaStatus | None
) -> None:  # fmt: skip
    found = step(one, operation(migration), NOW)
    assert (found and found.to) == to


def test_a_command_line_changes_only_while_the_replica_rests() -> None:
    resting, running = record("new", S.STANDBY), record("new", S.READY)
    begun, back = replace(BEGUN, revised=True), replace(BEGUN, revised=True, dressed=True, phase=P.ROLLING_BACK)

    assert migrations.must_dress(begun, resting)
    assert not migrations.must_dress(begun, running)
    assert not migrations.must_dress(BEGUN, resting)
    assert migrations.must_undress(back, resting)
    assert not migrations.must_undress(back, running)
    assert not migrations.must_undress(replace(back, dressed=False), resting)
    taken = advance(begun, view(S.STARTING, S.FAILED), NOW)
    assert (taken.phase, "was started in place of another replica" in taken.reason) == (P.ROLLING_BACK, True)


def test_standbys_do_not_take_over_from_what_a_migration_stops() -> None:
    def kept_back(migration: Migration, name: str) -> bool:
        return migrations.keeps_back(record(name, S.STANDBY), [operation(migration)])

    assert kept_back(PLACE, "new")
    assert kept_back(SWAP, "old")
    assert not kept_back(SWAP, "new")
    assert not kept_back(BEGUN, "new")
    assert not migrations.keeps_back(record("new", S.STANDBY), [replace(operation(PLACE), model="other")])


def test_a_warm_standby_that_was_not_woken_sleeps_on() -> None:
    back = replace(SWAP, phase=P.ROLLING_BACK)
    assert advance(back, view(S.ASLEEP), NOW).phase is P.ROLLED_BACK
    assert migrations.wakes(operation(SWAP), "new")
    assert not migrations.wakes(operation(SWAP), "old")
    assert not migrations.wakes(None, "new")


SEEN = Observation(records=(), processes={}, failures={}, routes=(), restarts=Restarts(failures=3))


def test_a_replica_that_sleeps_for_the_migration_wakes_when_the_other_one_has_left() -> None:
    old = record("old", S.ASLEEP, goal=Goal.ASLEEP)

    def wakes(phase: Phase, candidate: ReplicaStatus) -> str | None:
        found = operation(replace(SLEEPER, phase=phase))
        return requests.wakes(old, replace(SEEN, records=(old, record("new", candidate)), operations=(found,)))

    assert wakes(P.ROLLING_BACK, S.STANDBY) == ""
    assert wakes(P.ROLLING_BACK, S.DRAINING) is None
    assert wakes(P.TRIAL, S.READY) is None
    assert wakes(P.RETIRING, S.READY) is None
    assert migrations.wakes(operation(replace(SLEEPER, phase=P.ROLLING_BACK)), "old")


STATUSES = [S.STANDBY, S.ASLEEP, S.WAITING, S.STARTING, S.READY, S.BACKOFF, S.FAILED, S.DRAINING, S.STOPPING]


@settings(max_examples=150, deadline=None)
@given(
    how=st.sampled_from([How.BOTH, How.SWAP]),
    seen=st.lists(st.tuples(*[st.sampled_from(STATUSES)] * 2, st.sampled_from(["", "bad", None])), max_size=25),
    aborts=st.integers(min_value=0, max_value=30),
    sleeps=st.booleans(),
)
def test_whatever_happens_it_ends_with_one_of_the_two_in_front(
    how: How, seen: list[tuple[ReplicaStatus, ReplicaStatus, str | None]], aborts: int, sleeps: bool
) -> None:
    """It never wants both to rest, and once the replicas do what it wants, it ends."""
    migration, now = {How.BOTH: BEGUN, How.SWAP: replace(SWAP, sleeps=sleeps)}[how], NOW
    for number, (candidate, stable, result) in enumerate(seen):
        if number == aborts:
            migration = moved(migration, Move(migration="1", kind=MoveKind.ABORT), "me", now) or migration
        migration = advance(migration, view(candidate, stable, checked=result, written=result), now)
        assert not (migrations.rests(migration, "new") and migrations.rests(migration, "old"))
        now += 3
    for _ in range(40):
        new, old = (S.STANDBY if migrations.rests(migration, name) else S.READY for name in ("new", "old"))
        own = replace(migration.own, attempts=migration.own.attempts + 100)
        migration = advance(replace(migration, own=own, paused=""), view(new, old, checked="", written=""), now)
        now += 100
    assert migration.phase in (P.DONE, P.ROLLED_BACK)
    assert migration.promoted == (migration.phase is P.DONE)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (shadow(result_same=9, result_diverged=40), ""),
        (shadow(result_same=40, result_error=1, failed_cut=1), ""),
        (
            shadow(result_same=40, result_error=3, failed_cut=2, failed_timeout=1),
            "shadow failures: 3 of 43 (timeout 1, cut 2)",
        ),
        (shadow(result_same=40, result_structure=1), "shadow formats: 1 of 41 without the requested form, or empty"),
        (shadow(result_same=40, count_length=40, sum_length=40, squares_length=41), "shadow lengths: 2.72 times"),
        (shadow(result_same=40, count_length=20, sum_length=20, squares_length=21), ""),
        (shadow(result_same=40, count_length=40, sum_length=0.4, squares_length=1), ""),
    ],
)  # fmt: skip
def test_what_was_compared_decides_before_the_canary(found: Shadow, reason: str) -> None:
    after = advance(replace(ENOUGH_PAIRS, shadow=found, since=NOW), view(S.READY), NOW)
    assert after.reason.startswith(reason)
    assert (after.phase is P.ROLLING_BACK) is bool(reason)
    assert "new" in unproven([operation(replace(ENOUGH_PAIRS, shadow=found))])
