"""State and control state as files."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.decisions.lifecycle import first_records
from berth.control.decisions.records import Record
from berth.control.decisions.restart_policy import History
from berth.control.diagnosis import LAST_LINES, MAX_TEXT
from berth.control.logs.load_progress import Tracker
from berth.control.publish import (
    ControlState,
    Held,
    Publisher,
    Seen,
    control_state,
    read_control_state,
    read_state,
)
from berth.ipc.reserved_file import reserve
from berth.plan import Launch, RunPaths
from berth.state import GpuState, Progress, ReplicaStatus, most_bytes
from tests.fakes.plans import make_plan, make_replica

S = ReplicaStatus
CONTROL = ControlState(supervisord="1 2", hinted=True)
GPUS = (GpuState(index=0, memory_used_bytes=1, memory_total_bytes=2),)


def records(*statuses: ReplicaStatus) -> tuple[Record, ...]:
    launch = Launch(argv=("x",))
    plan = make_plan("/run", *(make_replica(f"r{number}", launch=launch) for number in range(len(statuses))))
    return tuple(replace(r, status=s) for r, s in zip(first_records(plan, 10.0), statuses, strict=True))


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(run_dir=str(tmp_path), data_dir="")


def test_publishes_changes_and_heartbeats(paths: RunPaths) -> None:
    publisher = Publisher(paths)
    sequences = []
    state = None
    for status, always in ((S.STARTING, False), (S.STARTING, False), (S.STARTING, True), (S.READY, False)):
        publisher.publish(records(status), Seen(gpus=GPUS), CONTROL, always=always)
        state = read_state(paths)
        assert state
        sequences.append(state.sequence)
    assert sequences == [1, 1, 2, 3]
    assert state
    assert state.gpus == GPUS
    assert abs(state.published_at - time.time()) < 5
    assert abs(state.replicas[0].since - (time.time() - time.monotonic() + 10)) < 5


def test_published_state_of_a_replica(paths: RunPaths) -> None:
    starting, waiting, paused, ready = records(S.STARTING, S.WAITING, S.BACKOFF, S.READY)
    tracker = Tracker(progress=Progress(phase="load", percent=40))
    known = (
        replace(starting, tracker=tracker, starts=3, pid=7),
        waiting,
        replace(paused, reason="boom", origin="took over from r9", next_start_at=20.0, last_lines=("x",), starts=1),
        replace(ready, tracker=tracker),
    )
    Publisher(paths).publish(known, Seen(), CONTROL, always=False)
    state = read_state(paths)
    assert state
    first, second, third, fourth = state.replicas
    assert (first.progress, first.restarts, first.pid) == (tracker.progress, 2, 7)
    assert second.reason == "waits for r0: one start or stop at a time per device"
    assert (third.reason, third.last_lines, third.restarts) == ("boom; took over from r9", ("x",), 0)
    assert third.next_start_at == pytest.approx(third.since + 10)
    assert (fourth.progress, fourth.reason) == (None, "")


def test_leased_replicas_are_never_ready_for_routers(paths: RunPaths) -> None:
    held = Held(leased={"r0": "d", "r1": "d"})
    Publisher(paths).publish(records(S.READY, S.UNLOADED, S.READY), Seen(), CONTROL, held, always=False)
    state = read_state(paths)
    assert state
    assert [one.status for one in state.replicas] == [S.STARTING, S.UNLOADED, S.READY]
    assert [one.leased for one in state.replicas] == [True, True, False]
    assert [one.measured_by for one in state.replicas] == ["d", "", ""]
    assert state.replicas[0].reason == "ready, for `berth bench` alone"


def test_routers_see_whose_requests_they_have_to_give_up(paths: RunPaths) -> None:
    held = Held(preempted={"r1"})
    Publisher(paths).publish(records(S.READY, S.DRAINING, S.READY), Seen(), CONTROL, held, always=False)
    state = read_state(paths)
    assert state
    assert [one.preempts for one in state.replicas] == [False, True, False]


def test_follows_a_change_of_the_wall_clock(paths: RunPaths) -> None:
    publisher = Publisher(paths)
    publisher.offset_s -= 3600
    publisher.publish(records(S.READY), Seen(), CONTROL, always=False)
    assert abs(publisher.offset_s - (time.time() - time.monotonic())) < 1


def test_control_state_round_trips(paths: RunPaths) -> None:
    first, second = records(S.READY, S.READY)
    first = replace(first, history=History(failures=(1.5,), in_a_row=1, flaps=(1.5,)), origin="took over")
    control = control_state((first, second), {"r0": (5, 10), "r1": None}, CONTROL)
    Publisher(paths).publish((first, second), Seen(), control, always=False)
    assert read_control_state(paths) == control
    assert control.failures == {"r0": (1.5,), "r1": ()}
    assert control.flaps == {"r0": (1.5,)}
    assert control.log_positions == {"r0": (5, 10)}
    assert control.origins == {"r0": "took over"}
    assert (control.supervisord, control.hinted) == ("1 2", True)


def test_logs_once_when_writing_fails_and_recovers(paths: RunPaths, caplog: pytest.LogCaptureFixture) -> None:
    publisher = Publisher(paths)
    paths.state.mkdir()  # a file cannot replace it
    with caplog.at_level("INFO", "berth"):
        publisher.publish(records(S.READY), Seen(), CONTROL, always=True)
        publisher.publish(records(S.READY), Seen(), CONTROL, always=True)
        paths.state.rmdir()
        publisher.publish(records(S.READY), Seen(), CONTROL, always=True)
    assert [record.message for record in caplog.records] == [
        "cannot write file, keeping previous version",
        "file written again",
    ]
    assert read_state(paths)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version":9}', b"\xff"])
def test_missing_or_damaged_files_are_none(paths: RunPaths, damage: bytes) -> None:
    assert (read_state(paths), read_control_state(paths)) == (None, None)
    paths.state.write_bytes(damage)
    paths.control_state.write_bytes(damage)
    assert (read_state(paths), read_control_state(paths)) == (None, None)


def test_publishes_within_reserved_space(paths: RunPaths) -> None:
    """Whatever engines say: a dozen lines of 500 characters each."""
    many = tuple(
        replace(one, last_lines=("\u20ac" * MAX_TEXT,) * LAST_LINES, reason="\u20ac" * MAX_TEXT)
        for one in records(*[S.FAILED] * 9)
    )
    reserve(paths.state, most_bytes(len(many)))
    files = {one.stat().st_ino for one in paths.state.parent.iterdir()}
    publisher = Publisher(paths)
    for _ in range(3):
        publisher.publish(many, Seen(gpus=GPUS * 16), CONTROL, always=True)
        state = read_state(paths)
        assert state
        assert state.replicas[8].last_lines == many[8].last_lines
        assert paths.state.stat().st_ino in files


def test_publishes_the_free_space(paths: RunPaths) -> None:
    Publisher(paths).publish(records(S.READY), Seen(), CONTROL, always=True)
    state = read_state(paths)
    assert state
    assert (state.run_dir_free_bytes or 0) > 0
    assert not state.run_dir_full
