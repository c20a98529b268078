"""What a shadow would be: where the copies go, and why not at all; and the operation that comes of it."""

from dataclasses import replace
from typing import Any

import pytest

from berth.control.decisions.records import Record
from berth.control.operations.event_ring import EventRing
from berth.control.operations.shadow_planning import shadow
from berth.control.operations.store import Operations
from berth.control.operations.targets import Around
from berth.ipc.operations import Action, Change, Denial, DenialCode, OperationState
from berth.ipc.shadow import WIDTH, Shadow, ShadowOptions, ShadowPhase
from berth.plan import Launch, ModelRoute, Standby, Task
from berth.state import ReplicaStatus
from tests.control.operations.test_planning import NEW, OLD, ROUTE, record, seen
from tests.fakes.plans import make_replica

S = ReplicaStatus
NOW = 100.0
AROUND = Around(counts=(1.0,) * WIDTH)
THERE = replace(record("chat-sglang", S.STARTING), replica=make_replica("chat-sglang", launch=None))


def change(**options: Any) -> Change:
    return Change(action=Action.SHADOW, model="c", shadow=ShadowOptions(**{"to": "sglang", **options}))


def planned(*records: Record, route: ModelRoute = ROUTE, **options: Any) -> Shadow | Denial:
    return shadow(change(**options), seen(*records, route=route), AROUND, NOW)


def test_a_candidate_at_rest_is_started_and_one_that_stands_is_used_at_once() -> None:
    begun = planned()
    assert isinstance(begun, Shadow)
    assert (begun.candidate, begun.phase, begun.starts, begun.before) == ("chat-sglang", ShadowPhase.STARTING, True, ())
    for standing, to in ((replace(NEW, status=S.READY), "sglang"), (THERE, "chat-sglang")):
        on = planned(OLD, standing, to=to)
        assert isinstance(on, Shadow)
        assert (on.phase, on.starts, on.before) == (ShadowPhase.MIRRORING, False, AROUND.counts)


DENIED: dict[str, tuple[tuple[Record, ...], ModelRoute, dict[str, Any], DenialCode, str]] = {
    "no share": ((), ROUTE, {"share": 0.0}, DenialCode.INVALID, "`--share 5%` is 0.05"),
    "too large a share": ((), ROUTE, {"share": 5.0}, DenialCode.INVALID, "at most 1, and is 5"),
    "no time": ((), ROUTE, {"for_s": 0.0}, DenialCode.INVALID, "`--for 10m`"),
    "another task": ((), replace(ROUTE, task=Task.EMBED), {}, DenialCode.INVALID, "compare chats and completions"),
    "unknown engine": ((), ROUTE, {"to": "trtllm"}, DenialCode.SHADOW, "has no engine 'trtllm'. It has: chat-vllm"),
    "the one that serves": ((), ROUTE, {"to": "chat-vllm"}, DenialCode.SHADOW, "served by chat-vllm"),
    "nothing serves": ((replace(OLD, status=S.BACKOFF), NEW), ROUTE, {}, DenialCode.SHADOW, "nothing to compare with"),
    "it is coming": ((OLD, replace(NEW, status=S.STARTING)), ROUTE, {}, DenialCode.SHADOW, "is starting. Try again"),
    "asleep": ((OLD, replace(NEW, status=S.ASLEEP)), ROUTE, {}, DenialCode.SHADOW, "is asleep: `berth load chat`"),
    "unloaded by hand": (
        (OLD, replace(NEW, status=S.UNLOADED)),
        replace(ROUTE, standby=Standby.HOT),
        {},
        DenialCode.SHADOW,
        "is unloaded",
    ),
    "no room": (
        (record("chat-vllm", S.READY, 0.9), record("chat-sglang", S.STANDBY, 0.9)),
        ROUTE,
        {},
        DenialCode.NO_ROOM,
        "There is no room for both",
    ),
}


@pytest.mark.parametrize("case", DENIED)
def test_denials_say_what_to_do(case: str) -> None:
    records, route, options, code, text = DENIED[case]
    found = planned(*records, route=route, **options)
    assert isinstance(found, Denial)
    assert (found.code, text in found.message) == (code, True), found.message


def operations() -> Operations:
    return Operations(EventRing(), wall=lambda: 1.0)


def asked(kept: Operations, wanted: Change, *records: Record) -> Any:
    observation = replace(seen(*records), operations=kept.running)
    return kept.ask(wanted, observation, workers=(), now=NOW, around=AROUND)


def test_the_same_shadow_twice_is_one_operation_and_nothing_else_happens_to_the_model() -> None:
    kept = operations()
    first, second = asked(kept, change()), asked(kept, change())
    assert first.operation.id == second.operation.id
    assert (first.operation.replicas, first.operation.starts) == (("chat-sglang",), {"chat-sglang": 0})
    assert [(step.replica, step.to) for step in first.steps] == [("chat-sglang", "ready")]
    assert (first.shadow.phase, first.shadow.requests) == ("starting", 0)
    assert asked(kept, change(share=0.5)).denial.code is DenialCode.BUSY
    assert asked(kept, Change(action=Action.RESTART, model="chat")).denial.code is DenialCode.BUSY


def test_what_is_no_shadow_is_denied() -> None:
    assert asked(operations(), Change(action=Action.SHADOW, model="chat")).denial.code is DenialCode.INVALID
    wanted = Change(action=Action.LOAD, model="chat", shadow=ShadowOptions(to="sglang"))
    assert asked(operations(), wanted).denial.code is DenialCode.INVALID
    assert asked(operations(), replace(change(), model="x")).denial.code is DenialCode.UNKNOWN_MODEL


def test_a_dry_run_begins_nothing() -> None:
    kept = operations()
    assert asked(kept, replace(change(), dry_run=True)).operation is not None
    assert kept.running == ()


def test_a_standing_candidate_is_none_of_the_operations_replicas() -> None:
    kept = operations()
    reply = asked(kept, change(to="chat-sglang"), OLD, THERE)
    assert (reply.operation.replicas, reply.steps, reply.shadow.phase) == ((), (), "mirroring")
    assert reply.shadow.left_s > 0 or reply.shadow.share == 0.05


def test_cancelling_ends_it_and_says_who() -> None:
    kept = operations()
    number = asked(kept, change()).operation.id
    reply = kept.cancel(number, NOW + 1, by="the admin API")
    assert reply.operation is not None
    assert reply.operation.shadow is not None
    assert (reply.operation.shadow.phase, reply.operation.shadow.reason) == (
        ShadowPhase.ENDING,
        "stopped by the admin API",
    )
    kept.shadowed(reply.operation, replace(reply.operation.shadow, phase=ShadowPhase.OVER))
    kept.settle(replace(seen(), operations=kept.running), (), NOW + 2)
    assert [one.state for one in kept.kept.operations] == [OperationState.DONE]
    assert kept.cancel(number).denial is not None


def test_launched_replicas_of_a_hot_model_may_be_candidates_while_they_serve() -> None:
    replica = make_replica("chat-sglang", launch=Launch(argv=("x",)))
    found = planned(
        OLD,
        Record(replica=replica, status=S.READY, since=0),
        route=replace(ROUTE, standby=Standby.HOT),
        to="chat-sglang",
    )
    assert isinstance(found, Shadow)
    assert not found.starts
