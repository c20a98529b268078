"""What the operator reads."""

from dataclasses import replace

import pytest

from berth.control.events import announce, try_it
from berth.control.records import Record
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
        (S.WAITING, "WARNING", "standby takes over", {"reason": "took over from b"}),
        (S.STARTING, "INFO", "replica starts", {"engine": "sim", "on": "GPU 0,1"}),
        (S.READY, "INFO", "replica ready", {"model": "chat", "after_s": 5.5}),
        (S.UNHEALTHY, "WARNING", "replica unhealthy", {"reason": "why"}),
        (S.ASLEEP, "INFO", "replica asleep", {"after_s": 5.5}),
        (S.WAKING, "WARNING", "standby is woken", {"reason": "took over from b"}),
        (S.STANDBY, "WARNING", "replica is a cold standby now", {"reason": "why"}),
        (S.BACKOFF, "WARNING", "replica failed", {"reason": "why", "next_start_in_s": 2.0}),
        (S.FAILED, "ERROR", "replica failed for good", {"reason": "why", "next": "`berth logs chat-a` shows more"}),
        (S.STOPPED, "INFO", "replica stopped", {"reason": "why"}),
    ],
)
def test_every_move_is_one_line(
    caplog: pytest.LogCaptureFixture, status: ReplicaStatus, level: str, event: str, fields: dict[str, object]
) -> None:
    replica = replace(REPLICA, gpus=(0, 1))
    after = record(status, replica, reason="why", origin="took over from b", next_start_at=17.5)
    with caplog.at_level("INFO", "berth"):
        announce(record(S.STARTING), after, 15.5)
    (line,) = caplog.records
    assert (line.levelname, line.message) == (level, event)
    assert line.__dict__["fields"] == {"replica": "chat-a", **fields}


def listening(host: str, *, open_access: bool = True, task: Task = Task.GENERATE) -> Plan:
    plan = replace(PLAN, listen=replace(PLAN.listen, host=host), open_access=open_access)
    return replace(plan, models=(replace(plan.models[0], task=task),))


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (listening("0.0.0.0"), "try it: curl http://localhost:8000/v1/chat/completions "),
        (listening("::"), "try it: curl http://localhost:8000/v1/chat/completions "),
        (listening("::1"), "try it: curl http://[::1]:8000/v1/chat/completions "),
        (listening("10.0.0.1", task=Task.EMBED), "http://10.0.0.1:8000/v1/embeddings -H"),
        (listening("10.0.0.1", task=Task.EMBED), ' -d \'{"model":"chat","input":"Hello"}\''),
        (listening("", open_access=False), " -H 'authorization: Bearer YOUR_KEY' -d "),
    ],
)
def test_the_command_to_try(plan: Plan, expected: str) -> None:
    assert expected in try_it(plan, plan.models[0])
