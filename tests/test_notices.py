"""What needs attention, and what does not."""

from dataclasses import replace
from typing import Any

import pytest

from berth.capture import Capture
from berth.journal import Tally
from berth.notices import Kind, notices, of_requests
from berth.plan import OpenTo, Plan
from berth.state import FULL_BYTES, ReplicaState, ReplicaStatus, State
from tests.fakes.router import make_plan, replica, replica_state

S = ReplicaStatus
PLAN = make_plan("/run", [replica("chat-a", "http://127.0.0.1:1"), replica("chat-b", "http://127.0.0.1:2")])
NOW = 1000.0


def state(a: ReplicaStatus, b: ReplicaStatus, *, published_at: float = NOW, **fields: Any) -> State:
    of_a = {name: value for name, value in fields.items() if name != "run_dir_free_bytes"}
    others = {name: value for name, value in fields.items() if name == "run_dir_free_bytes"}
    replicas = (replica_state("chat-a", a, **of_a), replica_state("chat-b", b))
    return State(sequence=1, published_at=published_at, control_pid=1, replicas=replicas, **others)


def kinds(plan: Plan, now_state: State | None, tally: Tally | None = None) -> list[str]:
    return [notice.kind for notice in notices(plan, now_state, {"chat": tally} if tally else {}, now=NOW)]


@pytest.mark.parametrize(
    ("a", "b", "fields", "expected"),
    [
        (S.READY, S.READY, {}, []),
        (S.READY, S.STANDBY, {}, []),
        (S.READY, S.ASLEEP, {}, []),
        (S.STARTING, S.STANDBY, {}, []),
        (S.WAITING, S.WAITING, {}, []),
        (S.STARTING, S.STANDBY, {"restarts": 1}, [Kind.MODEL_DOWN]),
        (S.UNLOADED, S.STANDBY, {"requested": "unloaded"}, []),
        (S.ASLEEP, S.STANDBY, {"requested": "asleep"}, []),
        (S.DRAINING, S.STANDBY, {"requested": "unloaded"}, []),
        (S.FAILED, S.READY, {}, [Kind.REPLICA_FAILED]),
        (S.UNHEALTHY, S.READY, {}, [Kind.REPLICA_FAILED]),
        (S.BACKOFF, S.READY, {}, [Kind.REPLICA_LOOPING]),
        (S.FAILED, S.STARTING, {}, [Kind.REPLICA_FAILED]),
        (S.FAILED, S.BACKOFF, {}, [Kind.MODEL_DOWN, Kind.REPLICA_FAILED, Kind.REPLICA_LOOPING]),
        (S.STOPPED, S.STOPPED, {}, [Kind.MODEL_DOWN]),
    ],
)
def test_of_replicas(a: ReplicaStatus, b: ReplicaStatus, fields: dict[str, Any], expected: list[str]) -> None:
    assert kinds(PLAN, state(a, b, **fields)) == expected


def test_says_why_since_when_and_what_helps() -> None:
    (down, failed, looping) = notices(
        PLAN,
        State(
            sequence=1,
            published_at=NOW,
            control_pid=1,
            replicas=(
                ReplicaState(name="chat-a", status=S.FAILED, since=900, reason="out of memory"),
                ReplicaState(name="chat-b", status=S.BACKOFF, since=950, reason="exit code 1"),
            ),
        ),
        {},
        now=NOW,
    )
    assert down.text == "no engine serves chat: chat-b is backoff, exit code 1"
    assert (down.model, down.replica, down.since, down.help) == ("chat", "chat-b", 950, "berth logs chat-b")
    assert (failed.text, failed.help) == ("chat-a is failed: out of memory", "berth load chat")
    assert looping.text == "chat-b has failed and starts again: exit code 1"


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        (Tally(), []),
        (Tally(requests=100, errors=5), []),
        (Tally(requests=100, errors=6), [Kind.ERRORS]),
        (Tally(requests=4, errors=4), []),
        (Tally(requests=100, fallbacks=5), [Kind.FALLBACKS]),
        (Tally(requests=1000, fallbacks=10), []),
        (Tally(requests=100, queue_full=1), [Kind.QUEUE_FULL]),
        (Tally(requests=100, waited_long=5), []),
        (Tally(requests=100, waited_long=6), [Kind.WAITING_LONG]),
        (Tally(requests=10, errors=9, fallbacks=9, queue_full=1), [Kind.ERRORS, Kind.FALLBACKS, Kind.QUEUE_FULL]),
    ],
)
def test_of_requests(tally: Tally, expected: list[str]) -> None:
    assert [notice.kind for notice in of_requests("chat", tally)] == expected
    assert kinds(PLAN, state(S.READY, S.READY), tally) == expected


def test_of_control() -> None:
    assert kinds(PLAN, state(S.READY, S.READY, published_at=NOW - 9)) == []
    assert kinds(PLAN, state(S.READY, S.READY, published_at=NOW - 11)) == [Kind.CONTROL_SILENT]
    assert kinds(replace(PLAN, created=int(NOW) - 9), None) == []
    assert kinds(replace(PLAN, created=int(NOW) - 30), None) == [Kind.CONTROL_SILENT]


def test_of_the_run_directory() -> None:
    assert kinds(PLAN, state(S.READY, S.READY, run_dir_free_bytes=FULL_BYTES)) == []
    assert kinds(PLAN, state(S.READY, S.READY, run_dir_free_bytes=FULL_BYTES - 1)) == [Kind.DISK_LOW]


@pytest.mark.parametrize(
    ("host", "open_access", "open_to", "words"),
    [
        ("0.0.0.0", True, OpenTo.PRIVATE, "private networks"),
        ("0.0.0.0", True, OpenTo.ALL, "open to everyone"),
        ("0.0.0.0", False, OpenTo.PRIVATE, ""),
        ("127.0.0.2", True, OpenTo.ALL, ""),
        ("localhost", True, OpenTo.ALL, ""),
        ("::1", True, OpenTo.ALL, ""),
    ],
)
def test_of_access(host: str, open_access: bool, open_to: OpenTo, words: str) -> None:
    plan = replace(PLAN, listen=replace(PLAN.listen, host=host), open_access=open_access, open_to=open_to)
    found = notices(plan, state(S.READY, S.READY), {}, now=NOW)
    assert [notice.kind for notice in found] == ([Kind.OPEN_ACCESS] if words else [])
    assert all(words in notice.text for notice in found)


def test_a_capture_is_noticed_while_it_lasts() -> None:
    capture = Capture(ends=NOW + 1, key="ci")
    current = replace(state(S.READY, S.READY), capture=capture)
    (notice,) = notices(PLAN, current, {}, now=NOW)
    assert (notice.kind, notice.help) == (Kind.CAPTURE_ON, "berth capture off")
    assert notice.text == "requests are being captured (all key=ci max=200)"
    assert notices(PLAN, current, {}, now=NOW + 1) == []
