"""Log events of transitions, and the example request."""

from dataclasses import replace

import pytest

from berth.control.decisions.records import Record
from berth.control.events import example_request, log_transition
from berth.plan import Launch, Plan, Replica, Task
from berth.state import ReplicaStatus
from tests.fakes.plans import make_plan, make_replica

S = ReplicaStatus
REPLICA = make_replica("chat-a", launch=Launch(argv=("x",)))
PLAN = make_plan("/run", REPLICA)


def record(status: ReplicaStatus, replica: Replica = REPLICA, **known: object) -> Record:
    return replace(Record(replica=replica, status=status, since=10.0), **known)  # type: ignore[arg-type] # any field


@pytest.mark.parametrize(
    ("status", "level", "event", "fields"),
    [
        (S.WAITING, "WARNING", "standby activated", {"reason": "took over from b"}),
        (S.STARTING, "INFO", "replica starting", {"engine": "sim", "devices": "GPU 0,1"}),
        (S.READY, "INFO", "replica ready", {"model": "chat", "after_s": 5.5}),
        (S.UNHEALTHY, "WARNING", "replica unhealthy", {"reason": "why"}),
        (S.FALLING_ASLEEP, "INFO", "replica falling asleep", {}),
        (S.ASLEEP, "INFO", "replica asleep", {"after_s": 5.5}),
        (S.WAKING, "WARNING", "standby waking up", {"reason": "took over from b"}),
        (S.STANDBY, "WARNING", "replica became a cold standby", {"reason": "why"}),
        (S.BACKOFF, "WARNING", "replica failed", {"reason": "why", "next_start_in_s": 2.0}),
        (S.FAILED, "ERROR", "replica failed permanently", {"reason": "why", "next": "see `berth logs chat-a`"}),
        (S.STOPPED, "INFO", "replica stopped", {"reason": "why"}),
    ],
)
def test_logs_one_event_per_transition(
    caplog: pytest.LogCaptureFixture, status: ReplicaStatus, level: str, event: str, fields: dict[str, object]
) -> None:
    replica = replace(REPLICA, gpus=(0, 1))
    after = record(status, replica, reason="why", origin="took over from b", next_start_at=17.5)
    with caplog.at_level("INFO", "berth"):
        log_transition(record(S.STARTING), after, 15.5)
    (line,) = caplog.records
    assert (line.levelname, line.message) == (level, event)
    assert line.__dict__["fields"] == {"replica": "chat-a", **fields}


@pytest.mark.parametrize(("status", "known"), [(S.STARTING, True), (S.READY, True), (S.ASLEEP, False)])
def test_starts_have_their_usual_time(caplog: pytest.LogCaptureFixture, status: ReplicaStatus, known: bool) -> None:
    with caplog.at_level("INFO", "berth"):
        log_transition(record(S.STARTING), record(status), 15.5, 40.04)
    assert caplog.records[0].__dict__["fields"].get("usual_s") == (40.0 if known else None)


def listening(host: str, *, open_access: bool = True, task: Task = Task.GENERATE) -> Plan:
    plan = replace(PLAN, listen=replace(PLAN.listen, host=host), open_access=open_access)
    return replace(plan, models=(replace(plan.models[0], task=task),))


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (listening("0.0.0.0"), "curl http://localhost:8000/v1/chat/completions "),
        (listening("::"), "curl http://localhost:8000/v1/chat/completions "),
        (listening("::1"), "curl http://[::1]:8000/v1/chat/completions "),
        (listening("10.0.0.1", task=Task.EMBED), "http://10.0.0.1:8000/v1/embeddings -H"),
        (listening("10.0.0.1", task=Task.EMBED), ' -d \'{"model":"chat","input":"Hello"}\''),
        (listening("", open_access=False), " -H 'authorization: Bearer YOUR_KEY' -d "),
    ],
)
def test_example_request_fits_the_plan(plan: Plan, expected: str) -> None:
    assert expected in example_request(plan, plan.models[0])
