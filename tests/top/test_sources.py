"""The numbers of a run directory, and those of a server's events."""

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.errors import ControlError
from berth.ipc import journal
from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat
from berth.plan import ApiKey, Keys, Plan
from berth.processes import replace_file
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import ReplicaStatus
from berth.top import sources
from berth.top.sources import LocalSource, RemoteSource, Snapshot, events, with_event
from tests.fakes.key_board import key_board
from tests.fakes.router import make_plan, publish, replica, replica_state
from tests.fakes.upstream import CLOSE, HANG, FakeUpstream, answer, chunk, stream_head

HEADER_BYTES = 64  # of the shared counters
A = replica("chat-a", "http://127.0.0.1:1")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(str(tmp_path), [A])
    made.paths.plan.write_bytes(made.to_json())
    made.paths.logs.mkdir()
    return made


@pytest.fixture
def meter(plan: Plan) -> Iterator[Meter]:
    """Of a worker that lives, in row 0."""
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=3)
    board = Scoreboard(plan.paths.scoreboard, layout(plan))
    beat = Heartbeat(plan.paths.heartbeats, FIRST_WORKER)
    yield Meter(board, key_board(board, plan))
    beat.close()
    board.close()


def test_reads_the_files_of_the_run_directory(plan: Plan, meter: Meter) -> None:
    publish(plan, replica_state("chat-a", ReplicaStatus.READY))
    meter.on_replica(A, 2)
    meter.in_flight("chat", 2)
    plan.paths.replica_log("chat-a").write_text("one\ntwo\n")
    source = LocalSource(plan.paths.run_dir)
    source.follow("chat-a")

    snapshot = source.snapshot()

    assert snapshot.at == pytest.approx(time.time(), abs=5)
    assert snapshot.status["models"][0]["replicas"][0]["status"] == "ready"
    assert snapshot.status["models"][0]["replicas"][0]["in_flight"] == 2
    assert snapshot.traffic["models"]["chat"]["in_flight"] == 2
    assert (snapshot.lines, snapshot.problem) == (("one", "two"), "")
    source.follow("")
    assert source.snapshot().lines == ()
    source.close()


@pytest.mark.usefixtures("meter")
def test_requests_and_notices_have_the_names_of_keys_also_of_later_ones(plan: Plan) -> None:
    def publish_keys(*keys: ApiKey) -> None:
        replace_file(plan.paths.keys, Keys(api_keys=keys).to_json())

    data = journal.part_of(plan.paths.journal, 1)
    for slot in (1, 2):
        values = (
            slot,
            9.0,
            0.0,
            -1.0,
            2.0,
            *(0,) * 5,
            200,
            1,
            0,
            1,
            0,
            0,
            0,
            0,
            slot,
            0,
            0,
            0,
            b"",
            b"",
            b"",
            b"x",
            b"",
            *journal.NO_ATTEMPT,
        )
        journal.RECORD.pack_into(data, slot * journal.RECORD.size, *values, slot)
    data.close()
    publish(plan, replica_state("chat-a", ReplicaStatus.READY))
    publish_keys(alice := ApiKey(name="alice", slot=1, expires=1.0))
    source = LocalSource(plan.paths.run_dir)
    first = source.snapshot()
    publish_keys(alice, ApiKey(name="bob", slot=2))
    second = source.snapshot()
    source.close()
    assert [one["key"] for one in first.requests] == ["alice", "key-2"]
    assert [one["key"] for one in second.requests] == ["alice", "bob"]
    assert [one["kind"] for one in first.status["notices"] if one["key"] == "alice"] == ["key_expires"]


@pytest.mark.usefixtures("meter")
def test_has_the_requests_of_the_journal(plan: Plan) -> None:
    data = journal.part_of(plan.paths.journal, 1)
    for place in (1, journal.RING_RECORDS):
        values = (1, 9.0, 0.0, -1.0, 2.0, *(0,) * 5, 200, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b"", b"", b"", b"x", b"")
        journal.RECORD.pack_into(
            data, place * journal.RECORD.size, *values, *journal.NO_ATTEMPT, 1
        )  # in the part of the first row
    data.close()
    source = LocalSource(plan.paths.run_dir)
    snapshot = source.snapshot()
    source.close()
    assert [one["request"] for one in snapshot.requests] == ["x"]
    assert [one["request"] for one in snapshot.running] == ["x"]
    assert "cannot be read" in snapshot.problem  # control has published nothing yet
    assert snapshot.status == {}


def test_gauges_of_dead_workers_do_not_count(plan: Plan, meter: Meter) -> None:
    numbers = layout(plan)
    with plan.paths.scoreboard.open("r+b") as file:
        file.seek(HEADER_BYTES + numbers.row_bytes + numbers.slots["berth_requests_in_flight", "chat"] * 8)
        file.write(struct.pack("d", 5.0))  # in the second row
    meter.in_flight("chat", 1)
    source = LocalSource(plan.paths.run_dir)
    assert source.snapshot().traffic["models"]["chat"]["in_flight"] == 1
    source.close()


def test_router_that_has_not_started_is_a_problem(plan: Plan) -> None:
    publish(plan, replica_state("chat-a", ReplicaStatus.READY))
    source = LocalSource(plan.paths.run_dir)
    assert source.snapshot() == Snapshot(problem="the router has not started yet")
    source.close()


def test_no_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be read"):
        LocalSource(str(tmp_path / "none"))


def event(kind: str, document: Any) -> bytes:
    return f"event: {kind}\nid: 1.0\ndata: {json.dumps(document)}\n\n".encode()


def test_reads_events() -> None:
    lines = iter(
        ["retry: 3000", "", "event: state", "id: 1", 'data: {"a": 1}', "", ": keep-alive", "", "event: log", "data: 2"]
    )
    assert list(events(lines)) == [("state", {"a": 1}), ("log", 2)]


def test_events_add_up() -> None:
    snapshot = with_event(Snapshot(problem="before"), "state", {"version": "1"})
    snapshot = with_event(snapshot, "traffic", {"t": 1})
    one, two = ({"request": name, "start": 1.0} for name in "ab")
    snapshot = with_event(snapshot, "requests", {"requests": [one], "running": [two]})
    snapshot = with_event(snapshot, "requests", {"requests": [one, two], "running": []})
    snapshot = with_event(with_event(snapshot, "log", {"lines": ["x"]}), "log", {"lines": ["y"]})

    assert replace(snapshot, at=0.0) == Snapshot(
        status={"version": "1"}, traffic={"t": 1}, requests=(one, two), lines=("x", "y")
    )
    assert with_event(snapshot, "operation", {}) is snapshot


@pytest.fixture
def server() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


def awaited(source: RemoteSource, check: Callable[[Snapshot], object]) -> Snapshot:
    deadline = time.monotonic() + 10
    while not check(snapshot := source.snapshot()):
        assert time.monotonic() < deadline, snapshot
        time.sleep(0.005)
    return snapshot


def test_follows_the_events_of_a_server(server: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_RETRY_S", 0.01)
    body = event("state", {"version": "1"}) + event("traffic", {"t": 1})
    server.answers_once(stream_head(), chunk(body), CLOSE)
    server.answers(stream_head(), chunk(event("log", {"lines": ["one"]})), HANG)
    source = RemoteSource(server.url, ["secret"])
    assert "connecting" in source.snapshot().problem or source.snapshot().status

    snapshot = awaited(source, lambda found: found.lines)
    assert (snapshot.status, snapshot.traffic) == ({"version": "1"}, {"t": 1})
    assert snapshot.problem  # nothing new of the state since the connection was closed

    source.follow("chat-a")
    awaited(source, lambda _: len(server.requests) == 3)
    source.close()
    first, _, third = server.requests
    assert first.headers["authorization"] == "Bearer secret"
    assert (first.path, third.path) == ("/events?requests=1", "/events?requests=1&logs=chat-a")


def test_tries_one_key_after_another(server: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_RETRY_S", 0.01)
    server.answers(answer(b'{"error": "no"}', status=401))
    source = RemoteSource(server.url, ["admin", "other"])
    with pytest.raises(ControlError, match=r"answered 401: .*no.*OPENAI_API_KEY"):
        awaited(source, lambda _: False)
    source.close()
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer admin", "Bearer other"]


def test_connects_again_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_RETRY_S", 0.01)
    source = RemoteSource("http://127.0.0.1:1/", [])
    assert "ConnectError" in awaited(source, lambda found: "ConnectError" in found.problem).problem
    source.close()
