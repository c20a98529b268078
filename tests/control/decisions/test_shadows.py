"""The state machine of shadows, and what one wants of a candidate that Berth starts for it."""

from dataclasses import replace

import pytest

from berth.control.decisions import migrations, requests
from berth.control.decisions.records import Goal, Record
from berth.control.decisions.shadows import View, advance, counted, ended, hidden, mirrors, step
from berth.ipc.migration import How, Migration, Options, Phase
from berth.ipc.operations import Action, Operation, OperationState
from berth.ipc.shadow import PLACES, WIDTH, Mirror, Shadow, ShadowOptions, ShadowPhase
from berth.plan import Launch, ModelRoute, Task
from berth.state import ReplicaStatus
from tests.fakes.plans import make_replica

S, P = ReplicaStatus, ShadowPhase
NOW = 1000.0
NONE, SOME, MORE = ((count,) * WIDTH for count in (0.0, 1.0, 2.0))
OPTIONS = ShadowOptions(to="new", share=0.5, for_s=60)
BEGUN = Shadow(options=OPTIONS, candidate="new", starts=True, phase=P.STARTING, since=NOW - 10)
ON = replace(BEGUN, phase=P.MIRRORING, before=SOME, now=SOME)
STANDING = replace(ON, starts=False)
ENDING = replace(ON, phase=P.ENDING, now=MORE)


def record(status: ReplicaStatus, starts: int = 1, **fields: object) -> Record:
    replica = make_replica("new", launch=Launch(argv=("x",)))
    return replace(Record(replica=replica, status=status, since=0, starts=starts), **fields)  # type: ignore[arg-type] # any


def view(status: ReplicaStatus, starts: int = 1, *, is_last: bool = False, aware: bool = False) -> View:
    candidate = record(status, starts, reason="it broke")
    return View(candidate=candidate, starts=0, counts=MORE, is_last=is_last, aware=aware)


def operation(shadow: Shadow) -> Operation:
    replicas = ("new",) if shadow.starts else ()
    return Operation(
        id="1", action=Action.SHADOW, model="chat", replicas=replicas, created_at=1, shadow=shadow, starts={"new": 0},
        drain_s=30,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "seen", "phase", "failed"),
    [
        (BEGUN, view(S.STANDBY, 0), P.STARTING, False),
        (BEGUN, view(S.STARTING), P.STARTING, False),
        (BEGUN, view(S.FAILED, 0), P.STARTING, False),  # as it was before
        (BEGUN, view(S.FAILED), P.ENDING, True),
        (BEGUN, view(S.BACKOFF), P.ENDING, True),
        (BEGUN, view(S.READY), P.MIRRORING, False),
        (ON, view(S.READY), P.MIRRORING, False),
        (ON, view(S.BACKOFF), P.MIRRORING, False),
        (ON, view(S.FAILED), P.ENDING, True),
        (STANDING, view(S.STOPPED, 0), P.ENDING, True),
        (STANDING, view(S.UNHEALTHY, is_last=True), P.MIRRORING, False),
        (replace(ON, since=NOW - 60), view(S.READY), P.ENDING, False),
        (ENDING, view(S.READY), P.ENDING, False),
        (ENDING, view(S.READY, aware=True), P.ENDING, False),
        (ENDING, view(S.STANDBY, aware=True), P.OVER, False),
        (ENDING, view(S.STANDBY), P.ENDING, False),
        (replace(STANDING, phase=P.ENDING), view(S.READY, aware=True), P.OVER, False),
        (replace(ON, phase=P.OVER), view(S.STANDBY), P.OVER, False),
    ],
)
def test_each_phase_leads_to_the_next(before: Shadow, seen: View, phase: ShadowPhase, failed: bool) -> None:
    after = advance(before, seen, NOW)
    assert (after.phase, after.failed) == (phase, failed)
    assert (after.reason == "") is not failed
    assert after.since == (before.since if after.phase in (before.phase, P.OVER) else NOW)


def test_counts_begin_with_the_mirroring_and_are_read_to_its_end() -> None:
    on = advance(BEGUN, view(S.READY), NOW)
    assert (on.before, on.counts) == (MORE, NONE)
    assert advance(ON, view(S.READY), NOW).counts == SOME
    assert advance(ENDING, view(S.STANDBY, aware=True), NOW).counts == SOME
    never = advance(replace(ended(BEGUN, "stopped", NOW)), view(S.STANDBY, aware=True), NOW)
    assert (never.phase, never.counts) == (P.OVER, ())


def test_a_candidate_that_is_the_last_to_serve_is_not_stopped() -> None:
    after = advance(ON, view(S.READY, is_last=True), NOW)
    assert (after.phase, after.starts, after.failed) == (P.ENDING, False, False)
    assert "given up" in after.reason
    assert step(record(S.READY), operation(after), NOW) is None
    assert hidden([operation(after)]) == frozenset()


def test_what_ends_is_not_ended_again() -> None:
    assert ended(ENDING, "again", NOW) is ENDING
    assert ended(ON, "stopped by me", NOW).reason == "stopped by me"


@pytest.mark.parametrize(
    ("shadow", "status", "to", "goal"),
    [
        (BEGUN, S.STANDBY, S.WAITING, None),
        (BEGUN, S.UNLOADED, S.WAITING, None),
        (BEGUN, S.FAILED, None, None),  # it has been started already
        (BEGUN, S.STARTING, None, None),
        (ON, S.READY, None, None),
        (ENDING, S.READY, S.DRAINING, Goal.STANDBY),
        (ENDING, S.STARTING, S.STOPPING, Goal.STANDBY),
        (ENDING, S.WAITING, S.STANDBY, None),
        (ENDING, S.BACKOFF, S.STANDBY, None),
        (ENDING, S.STANDBY, None, None),
        (replace(ENDING, phase=P.OVER), S.STANDBY, None, None),
        (STANDING, S.STANDBY, None, None),
    ],
)
def test_what_it_does_with_its_candidate(
    shadow: Shadow, status: ReplicaStatus, to: ReplicaStatus | None, goal: Goal | None
) -> None:
    found = step(record(status), operation(shadow), NOW)
    assert (found.to if found else None, found.goal if found else None) == (to, goal)
    assert found is None or found.to is not S.DRAINING or found.drain_ends == NOW + 30


def test_a_candidate_that_was_given_up_is_started_once() -> None:
    found = step(record(S.FAILED, 0), operation(BEGUN), NOW)
    assert found is not None
    assert (found.to, found.history is not None) == (S.WAITING, True)
    assert step(record(S.FAILED), replace(operation(BEGUN), shadow=None), NOW) is None


def test_routers_mirror_only_while_it_is_on_and_clients_do_not_see_the_candidate() -> None:
    running = [operation(ON), replace(operation(BEGUN), id="2"), replace(operation(STANDING), id="3")]
    assert hidden(running) == frozenset({"new"})
    assert mirrors(running[:2], frozenset({"new"}), 5.0) == (
        Mirror(id="1", model="chat", replica="new", share=0.5, ready=True, ends=NOW + 55, before=SOME),
    )
    assert mirrors([operation(ON)], frozenset(), 5.0)[0].ready is False


def test_the_room_of_a_model_is_taken_twice_while_its_candidate_runs() -> None:
    route = ModelRoute(name="chat", source="s", task=Task.GENERATE, replicas=("old", "new"), room={0: 300})
    assert migrations.effective(route, {}, [operation(ON)]).room == {0: 600}
    assert migrations.effective(route, {}, [operation(STANDING)]).room == {0: 300}


def test_its_operation_ends_with_what_was_compared() -> None:
    assert requests.shadowed(ON) is None
    counts = list(NONE)
    counts[PLACES["requests"]], counts[PLACES["not_chosen"]], counts[PLACES["result same"]] = 9, 4, 5
    over = replace(ON, phase=P.OVER, before=NONE, now=tuple(counts), reason="stopped by me")
    found = requests.shadowed(over)
    assert found is not None
    assert (found.state, found.reason) == (OperationState.DONE, "stopped by me; 5 of 5 chosen requests compared")
    failed = requests.shadowed(replace(over, failed=True, reason="it broke"))
    assert failed is not None
    assert (failed.state, failed.reason) == (OperationState.FAILED, "it broke")


MIGRATION = Migration(
    options=Options(to="new", shadow=0.25, step_s=60),
    how=How.BOTH,
    candidate="new",
    stable="old",
    before=("old", "new"),
    after=("new", "old"),
    revision=2,
    phase=Phase.SHADOWING,
    since=NOW - 10,
)


def test_a_migration_compares_from_the_first_counts_of_its_phase_on() -> None:
    begun = counted(MIGRATION, SOME)
    after = counted(begun, MORE)
    running = replace(operation(ON), action=Action.MIGRATE, shadow=None, migration=after)

    assert begun.shadow is not None
    assert after.shadow is not None
    assert (begun.shadow.counts, after.shadow.counts) == (NONE, SOME)
    assert mirrors([running], frozenset({"new"}), 0.0) == (
        Mirror(id="1", model="chat", replica="new", share=0.25, ready=True, ends=NOW + 50, before=SOME),
    )
    canary = replace(after, phase=Phase.CANARY)
    assert counted(canary, NONE) is canary
    assert mirrors([replace(running, migration=canary)], frozenset(), 0.0) == ()
