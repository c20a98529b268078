import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from berth.router.telemetry.shared_counters import Family, Layout, Scoreboard

FAMILIES = (
    Family(name="asked", help="", kind="counter", labels=("model",), series=(("a",), ("b",))),
    Family(name="busy", help="", kind="gauge", labels=(), series=((),)),
    Family(name="took", help="", kind="histogram", labels=("model",), series=(("a",),), buckets=(0.1, 1.0)),
)
LAYOUT = Layout(FAMILIES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "scoreboard"
    Scoreboard.create(path, LAYOUT, rows=3)
    return path


def count(path: Path, pipe: "Connection[None, None]") -> None:
    """Another worker: counts, then waits for the word to end."""
    board = Scoreboard(path, LAYOUT)
    board.row[LAYOUT.slots["asked", "a"]] += 1
    board.row[LAYOUT.slots[("busy",)]] += 1
    pipe.send(None)
    pipe.recv()


@pytest.fixture
def other(path: Path) -> Iterator[Callable[[], None]]:
    """Starts another worker; calling it ends that worker."""
    with another(path) as end:
        yield end


@contextmanager
def another(path: Path) -> Iterator[Callable[[], None]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=count, args=(path, theirs))
    process.start()
    ours.recv()

    def end() -> None:
        ours.send(None)
        process.join(10)

    yield end
    if process.is_alive():
        end()


def test_slots_are_consecutive() -> None:
    assert LAYOUT.slots == {("asked", "a"): 0, ("asked", "b"): 1, ("busy",): 2, ("took", "a"): 3}
    assert LAYOUT.width == 7
    assert LAYOUT.row_bytes == 64


def test_workers_count_in_own_rows_which_are_summed(path: Path, other: Callable[[], None]) -> None:
    board = Scoreboard(path, LAYOUT)
    board.row[0] += 2

    sums, workers = board.totals()

    assert (sums[0], sums[2], workers) == (3, 1, 2)
    other()
    board.close()


def test_counters_of_dead_worker_stay_and_its_gauges_do_not(path: Path, other: Callable[[], None]) -> None:
    board = Scoreboard(path, LAYOUT)
    other()

    sums, workers = board.totals()

    assert (sums[0], sums[2], workers) == (1, 0, 1)
    board.close()


def test_new_worker_claims_the_row_of_a_dead_one(path: Path, other: Callable[[], None]) -> None:
    other()

    board = Scoreboard(path, LAYOUT)

    assert (board.row[0], board.row[2]) == (1, 0)
    board.close()


def test_live_rows_are_readable_at_any_time(path: Path, other: Callable[[], None]) -> None:
    board = Scoreboard(path, LAYOUT)
    (theirs,) = board.others
    assert [row[0] for row in board.live] == [0, 1]
    assert theirs[2] == 1

    other()
    board.refresh()

    assert (len(board.live), board.others) == (1, ())
    board.close()


def test_new_worker_is_seen_at_once(path: Path) -> None:
    board = Scoreboard(path, LAYOUT)
    before = len(board.others)

    with another(path):
        (theirs,) = board.others
        assert (before, theirs[2]) == (0, 1)
    board.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: Scoreboard.create(path, Layout(FAMILIES[:1]), rows=3),
        lambda path: path.write_bytes(b"x" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
    ],
)
def test_rejects_file_of_another_layout(path: Path, damage: Callable[[Path], object]) -> None:
    damage(path)

    with pytest.raises(ValueError, match="another plan or version"):
        Scoreboard(path, LAYOUT)


def test_rejects_more_workers_than_rows(tmp_path: Path) -> None:
    Scoreboard.create(tmp_path / "none", LAYOUT, rows=0)

    with pytest.raises(OSError, match="all 0 rows are in use"):
        Scoreboard(tmp_path / "none", LAYOUT)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Scoreboard(tmp_path / "none", LAYOUT)


def test_a_new_router_continues_the_counts_of_the_same_plan(path: Path) -> None:
    board = Scoreboard(path, LAYOUT)
    board.row[0] += 5
    board.close()
    before = path.stat()
    Scoreboard.ensure(path, LAYOUT, rows=3)
    assert path.stat().st_ino == before.st_ino
    assert Scoreboard(path, LAYOUT).totals()[0][0] == 5


@pytest.mark.parametrize("content", [None, b"", b"damaged" * 100])
def test_a_new_router_replaces_what_it_cannot_use(path: Path, content: bytes | None) -> None:
    if content is None:
        Scoreboard.create(path, Layout(FAMILIES[:1]), rows=3)  # of another plan
    else:
        path.write_bytes(content)
    Scoreboard.ensure(path, LAYOUT, rows=3)
    assert Scoreboard(path, LAYOUT).index == 0


def test_a_new_router_with_more_workers_gets_more_rows(path: Path) -> None:
    Scoreboard.ensure(path, LAYOUT, rows=5)
    assert path.stat().st_size == 64 + 5 * LAYOUT.row_bytes
