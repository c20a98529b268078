"""Heartbeats as rows of a file, and which silence counts."""

import os
import signal
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.ipc.heartbeats import (
    BLOCKED_ROUNDS,
    CALM_ROUNDS,
    CONTROL,
    FIRST_WORKER,
    MOST_DOUBLINGS,
    STARTING_ROUNDS,
    STOPPED_ROUNDS,
    Heartbeat,
    Live,
    Row,
    Watch,
    live,
    read_rows,
    reserve,
    send,
)
from berth.proc_stat import stat_of

ONE = Row(10, 100, 7)


def one(beats: int, *, stopped: bool = True) -> Live:
    return Live(ONE._replace(beats=beats), stopped)


def found(
    watch: Watch, beats: Sequence[int], *, gap_s: float = 1.0, start: float = 0.0, stopped: bool = True
) -> list[int]:
    """The rounds in which process ONE was found silent."""
    rounds = enumerate(beats)
    return [number for number, count in rounds if watch.silent([one(count, stopped=stopped)], start + number * gap_s)]


def test_a_row_shows_the_process_and_its_beats(tmp_path: Path) -> None:
    path = tmp_path / "heartbeats"
    control, worker = Heartbeat(path, CONTROL), Heartbeat(path, FIRST_WORKER + 200)
    for _ in range(3):
        worker.beat()
    stat = stat_of(os.getpid())
    assert stat
    rows = read_rows(path)
    assert rows[CONTROL] == (os.getpid(), stat.start_ticks, 0)
    assert rows[FIRST_WORKER + 200] == (os.getpid(), stat.start_ticks, 3)
    assert rows[CONTROL].stat() is not None
    control.close()
    worker.close()
    assert {row.pid for row in read_rows(path)} == {0}


def test_the_next_process_with_the_row_counts_from_zero(tmp_path: Path) -> None:
    first = Heartbeat(tmp_path / "heartbeats", CONTROL)
    first.beat()
    Heartbeat(tmp_path / "heartbeats", CONTROL)
    assert read_rows(tmp_path / "heartbeats")[CONTROL].beats == 0


def test_reserved_space_is_used_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "heartbeats"
    reserve(path)
    before = path.stat()
    assert before.st_blocks * 512 >= before.st_size > 0
    Heartbeat(path, CONTROL).beat()
    reserve(path)
    after = path.stat()
    assert (after.st_ino, after.st_blocks) == (before.st_ino, before.st_blocks)
    assert read_rows(path)[CONTROL].beats == 1


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_missing_or_damaged_file_has_no_rows(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "heartbeats"
    if content is not None:
        path.write_bytes(content)
    assert read_rows(path) == []


@pytest.mark.parametrize(
    ("beats", "stopped", "rounds"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], True, []),
        ([5] * (STOPPED_ROUNDS + 1), True, [STOPPED_ROUNDS]),
        ([5] * STOPPED_ROUNDS + [6] * STOPPED_ROUNDS, True, []),
        ([0] * (STOPPED_ROUNDS + 1), True, [STOPPED_ROUNDS]),
        ([5] * BLOCKED_ROUNDS, False, []),
        ([5] * (BLOCKED_ROUNDS + 1), False, [BLOCKED_ROUNDS]),
        ([0] * STARTING_ROUNDS, False, []),
        ([0] * (STARTING_ROUNDS + 1), False, [STARTING_ROUNDS]),
    ],
    ids=["beats", "stopped", "beats again", "stopped at the start", "busy", "blocked", "starting", "never started"],
)
def test_silence_is_a_number_of_rounds_without_a_beat(beats: list[int], stopped: bool, rounds: list[int]) -> None:
    assert found(Watch(), beats, stopped=stopped) == rounds


def test_slow_rounds_never_find_anything() -> None:
    assert found(Watch(), [5] * 1000, gap_s=2.0) == []


def test_a_pause_of_everything_is_no_silence() -> None:
    """A laptop asleep, or a container paused: the watcher's next round is late, and the others need a moment."""
    watch = Watch()
    assert found(watch, [1, 2, 3]) == []
    assert found(watch, [3, 3, 3, 4], start=3600) == []


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 1.0, 1.4, 1.6, 60.0])), min_size=1, max_size=60),
)
def test_a_found_process_was_silent_in_rounds_that_were_all_on_time(rounds: list[tuple[bool, float]]) -> None:
    watch, now, count = Watch(), 0.0, 1
    for number, (beats, gap_s) in enumerate(rounds):
        now, count = now + gap_s, count + beats
        if watch.silent([one(count)], now):
            last = rounds[number + 1 - STOPPED_ROUNDS : number + 1]
            assert len(last) == STOPPED_ROUNDS
            assert not any(beat for beat, _ in last)
            assert all(gap <= 1.5 for _, gap in last)


def test_kills_become_rare_where_no_replacement_works_either() -> None:
    """Each replacement beats once and is then silent."""
    watch, pid, kills = Watch(), 1, []
    for number in range(CALM_ROUNDS):
        if watch.silent([Live(Row(pid, 0, 1), stopped=True)], float(number)):
            kills.append(number)
            pid += 1
    gaps = [later - earlier for earlier, later in pairwise(kills)]
    assert gaps[:4] == sorted(gaps[:4])
    assert all(gap >= STOPPED_ROUNDS << MOST_DOUBLINGS for gap in gaps[MOST_DOUBLINGS:])
    assert len(kills) < 15


def test_several_that_fall_silent_together_are_killed_together() -> None:
    watch = Watch()
    rows = [ONE, Row(11, 100, 3)]
    results = [watch.silent([Live(row, stopped=True) for row in rows], float(n)) for n in range(STOPPED_ROUNDS + 1)]
    assert results[-1] == rows


def test_the_next_kill_is_quick_again_after_a_calm_time() -> None:
    watch = Watch()
    found(watch, [5] * (STOPPED_ROUNDS + 1))
    found(watch, list(range(CALM_ROUNDS + 1)), start=10)
    assert found(watch, [5] * (STOPPED_ROUNDS + 1), start=CALM_ROUNDS + 11.0) == [STOPPED_ROUNDS]


def test_signals_only_the_process_of_the_row() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        stat = stat_of(process.pid)
        assert stat
        send(Row(process.pid, stat.start_ticks + 1, 1), signal.SIGKILL)
        send(Row(process.pid, stat.start_ticks, 1), signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        send(Row(process.pid, stat.start_ticks, 1), signal.SIGKILL)


def test_live_processes_are_those_of_the_rows(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeats", CONTROL)
    rows = read_rows(tmp_path / "heartbeats")
    assert live(rows) == [Live(rows[CONTROL], stopped=False)]
    assert live([rows[CONTROL]._replace(start_ticks=1), Row(0, 0, 0)]) == []
    heartbeat.close()
    assert live(read_rows(tmp_path / "heartbeats")) == []
