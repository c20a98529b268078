"""Which probe is due, and what a log line changes in a record."""

from dataclasses import replace

import pytest

from berth.control.attached.attachment import Finding
from berth.control.decisions.records import Record, Timing
from berth.control.probes import Health
from berth.control.watch import after_finding, due_probe, on_log_line
from berth.plan import Launch, Probe
from berth.state import ReplicaStatus
from tests.fakes.plans import make_replica

S = ReplicaStatus
READY, ALIVE = Probe(path="/ready"), Probe(path="/alive")
TIMING = Timing(ready_probe_s=0.5, alive_probe_s=5)


def record(status: ReplicaStatus, *, attached: bool = False, health: Health | None = None) -> Record:
    replica = make_replica("a", launch=None if attached else Launch(argv=("x",)))
    replica = replace(replica, ready=READY, alive=ALIVE)
    return Record(replica=replica, status=status, since=0, health=health or Health())


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (record(S.STARTING), (READY, 0.5)),
        (record(S.READY), (ALIVE, 5)),
        (record(S.FALLING_ASLEEP), (None, 0.5)),
        (record(S.BACKOFF), (None, 0.5)),
    ],
)
def test_due_probe_depends_on_the_status(record: Record, expected: tuple[Probe | None, float]) -> None:
    assert due_probe(record, TIMING) == expected


def test_log_lines_advance_a_start(caplog: pytest.LogCaptureFixture) -> None:
    records = {"a": record(S.STARTING)}
    with caplog.at_level("INFO", "berth"):
        for line in ("hello", "checkpoint shards: 1%|", "checkpoint shards: 2%|", "Compiling"):
            on_log_line(records, "a", line)
    assert records["a"].tracker.progress.phase == "compile"
    assert records["a"].progressed_at > 0
    assert [line.__dict__["fields"]["phase"] for line in caplog.records] == ["load", "compile"]


def test_log_lines_of_other_replicas_change_nothing() -> None:
    ready = record(S.READY)
    records = {"a": ready}
    on_log_line(records, "a", "checkpoint shards: 1%|")
    on_log_line(records, "unknown", "checkpoint shards: 1%|")
    assert records == {"a": ready}


@pytest.mark.parametrize(
    ("before", "finding", "logged"),
    [
        (record(S.STARTING, attached=True), Finding(error="no connection: x"), False),  # its transition is logged
        (record(S.UNHEALTHY, attached=True, health=Health(error="no connection: x")), Finding(error="wrong key"), True),
        (record(S.UNHEALTHY, attached=True, health=Health(error="wrong key")), Finding(error="wrong key"), False),
        (record(S.UNHEALTHY, attached=True, health=Health(error="wrong key")), Finding(), False),
        (record(S.UNHEALTHY, attached=True), Finding(error="loading: x", loading=True), False),  # a transition too
    ],
)
def test_reason_of_an_attached_server_is_the_latest_and_logged_once(
    before: Record, finding: Finding, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    after = after_finding(before, finding)

    assert (after.reason, after.health.error) == (finding.error, finding.error)
    assert ("replica unhealthy" in caplog.text) is logged


def test_failed_probe_of_a_ready_server_is_no_reason_yet() -> None:
    after = after_finding(record(S.READY, attached=True), Finding(error="no answer: /health timed out"))

    assert (after.reason, after.health.failures) == ("", 1)


def test_what_a_server_continues_is_kept_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "berth")
    kept = record(S.STARTING, attached=True)
    for finding in (Finding(continues=("chat",)), Finding(continues=("chat",)), Finding(), Finding(error="x")):
        kept = after_finding(kept, finding)

    assert kept.continues == ("chat",)
    assert caplog.text.count("continuation checked") == 1
