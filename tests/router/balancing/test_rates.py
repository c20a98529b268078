"""A rate holds over several processes that share nothing but numbers, also when one of them is killed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from berth.ipc.key_counters import Shape
from berth.router.balancing.rates import Bucket
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.shared_counters import Layout, Scoreboard

EACH_S = 0.002  # of the rate: 500 in a second
BURST_S = 0.1
WORKERS = 4
ROWS = 9
SECONDS = 1.5

# Says that it is ready; takes as often as it may from the first to the second moment that it is told.
WORKER = """
import sys, time
from pathlib import Path
from berth.ipc.key_counters import Shape
from berth.router.balancing.rates import Bucket
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.shared_counters import Layout, Scoreboard

folder, rows, each_s, burst_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
board = KeyBoard(folder / "keys", Shape(2, 1, 1, rows), Scoreboard(folder / "board", Layout(())))
bucket = Bucket(board, 0)
print("ready", flush=True)
begins, ends = map(float, input().split())
time.sleep(max(0, begins - time.monotonic()))
while time.monotonic() < ends:
    for _ in range(20):
        bucket.take(each_s, time.monotonic(), burst_s, 0.0, board.used)
    time.sleep(0.001)
print(time.monotonic())
"""


@pytest.fixture
def board(tmp_path: Path) -> KeyBoard:
    Scoreboard.create(tmp_path / "board", Layout(()), ROWS)
    return KeyBoard(tmp_path / "keys", Shape(2, 1, 1, ROWS), Scoreboard(tmp_path / "board", Layout(())))


def test_bucket_is_full_at_first_and_fills_by_the_rate(board: KeyBoard) -> None:
    bucket = Bucket(board, 0)

    assert bucket.take(8.0, 1000.0, 10.0, 0.0, board.used) == (0.0, 2.0)
    assert bucket.take(4.0, 1000.0, 10.0, 0.0, board.used) == (2.0, 2.0)  # not taken
    assert bucket.take(4.0, 1000.0, 10.0, 5.0, board.used) == (2.0, -2.0)
    assert bucket.take(4.0, 1000.0, 10.0, 5.0, board.used) == (6.0, -2.0)  # not taken: it would wait for too long
    assert bucket.level(1003.0, 10.0) == 1.0
    assert bucket.level(2000.0, 10.0) == 10.0
    assert bucket.level(2001.0, 10.0) == 10.0


def test_more_than_the_bucket_is_given_when_it_is_full_and_owed_then(board: KeyBoard) -> None:
    bucket = Bucket(board, 0)

    assert bucket.take(30.0, 1000.0, 10.0, 0.0, board.used) == (0.0, -20.0)
    assert bucket.take(1.0, 1000.0, 10.0, 0.0, board.used)[0] == 21.0
    bucket.add(-25.0)  # it was an estimate
    assert bucket.level(1000.0, 10.0) == 5.0


def test_a_changed_burst_changes_no_rate(board: KeyBoard) -> None:
    bucket = Bucket(board, 0)
    bucket.take(10.0, 1000.0, 10.0, 0.0, board.used)

    assert bucket.level(1001.0, 20.0) == 11.0
    assert bucket.level(1001.0, 10.0) == 1.0


def test_rate_holds_over_workers_of_which_one_is_killed(board: KeyBoard, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(ROWS), str(EACH_S), str(BURST_S)]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(WORKERS)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == "ready\n"
    begins = time.monotonic() + 0.05
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{begins} {begins + SECONDS}\n")
        worker.stdin.flush()
    time.sleep(SECONDS / 2)
    workers[0].kill()
    last = max(float(worker.communicate()[0] or 0) for worker in workers)

    ideal_s = BURST_S + last - begins
    counted = [sum(row[0] > 0 for row in board.used), board.total(0)]
    assert counted[0] == WORKERS  # the killed one's counts too
    assert 0.97 * ideal_s <= counted[1] <= ideal_s + 2 * EACH_S
