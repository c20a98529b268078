"""The journal: what was written is read with its names, and a record that is half written is not read at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.ipc import journal
from berth.ipc.journal import NONE, PART_BYTES, RECORD, RING_RECORDS, TABLE_RECORDS, Names, Reader, Tally, newest
from tests.fakes.router import make_plan, replica

PLAN = make_plan("/run", [replica("chat-a", "http://127.0.0.1:1"), replica("chat-b", "http://127.0.0.1:2")])
NAMES = Names(PLAN, ("anonymous", "alice"))
RING_BYTES = RING_RECORDS * RECORD.size


def packed(sequence: int, *, start: float = 100.0, end: int | None = None, key: int = 1) -> bytes:
    tokens, codes = (3, 4, 2, 5, 88), (200, 2, 0b111, 2, 0, 0, 1)
    texts = (b"t" * 16, b"s" * 8, b"p" * 8, b"abc", b"oops")
    times = (start, 0.25, -1.0, 2.0)
    last = sequence if end is None else end
    return RECORD.pack(sequence, *times, *tokens, *codes, 0, key, 1, 0, 0, *texts, 0.5, 1.25, last)


class Part:
    """The part of a worker."""

    def __init__(self, path: Path, row: int = 0) -> None:
        self.data = journal.part_of(path, row)
        self.row = row

    def put(self, record: bytes, place: int) -> None:
        start = self.row * PART_BYTES + place * RECORD.size
        self.data[start : start + len(record)] = record

    def end(self, *sequences: int, start: float = 100.0) -> None:
        for sequence in sequences:
            self.put(packed(sequence, start=start), sequence % RING_RECORDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal.reserve(tmp_path / "journal", 3)
    return tmp_path / "journal"


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    made = Reader(path, NAMES)
    yield made
    made.close()


def test_a_record_is_read_with_the_names_of_the_plan(path: Path, reader: Reader) -> None:
    Part(path, 2).end(1)

    (record,) = reader.finished()

    assert (record.row, record.sequence, record.start, record.queue_s, record.duration_s) == (2, 1, 100.0, 0.25, 2.0)
    assert record.first_token_s is None
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (3, 4, 2)
    assert (record.frames, record.moved_at_token, record.status, record.attempts) == (5, 88, 200, 2)
    assert record.flags == ("stream", "fallback", "continued")
    assert (record.api, record.operation, record.phase) == ("anthropic", "chat", "over")
    assert (record.model, record.key, record.replica, record.previous_replica) == ("chat", "alice", "chat-b", "chat-a")
    assert record.trace == journal.Trace(b"t" * 16, b"s" * 8, b"p" * 8, sampled=True)
    assert (record.request_id, record.error_code) == ("abc", "oops")
    attempt = record.only_attempt()
    assert attempt is not None
    assert (attempt.start, attempt.duration_s, attempt.error_code, attempt.flags) == (
        100.5,
        1.25,
        "ok",
        ("attempt", "stream"),
    )
    assert attempt.trace == journal.Trace(b"t" * 16, journal.attempt_id(b"s" * 8, 1), b"s" * 8, sampled=True)
    assert attempt.only_attempt() is None
    assert record.document()["trace_id"] == "74" * 16


def test_what_is_unknown_has_no_name(path: Path, reader: Reader) -> None:
    values = list(RECORD.unpack(packed(1, key=7)))
    texts = (b"", b"", b"", b"sk-0123456789abcdefghij", b"\xff")
    Part(path).put(RECORD.pack(*values[:17], NONE, 7, NONE, NONE, 0, *texts, *journal.NO_ATTEMPT, 1), 1)

    (record,) = reader.finished()

    assert (record.model, record.key, record.replica, record.previous_replica) == ("", "key-7", "", "")
    assert record.trace is journal.NO_TRACE
    assert "0123456789" not in record.request_id  # a client may send its key as the id
    assert record.error_code == "\ufffd"


@given(st.integers(0, RECORD.size - 8), st.booleans())
def test_a_half_written_record_is_the_one_before_or_none(written: int, first: bool) -> None:
    """In the order of its fields, as `pack_into` writes them; the last one is written by one instruction."""
    before, after = packed(1, start=1.0), packed(1 + RING_RECORDS, start=2.0)
    old = bytes(RECORD.size) if first else before
    path = Path(f"/dev/shm/berth-journal-{os.getpid()}")  # noqa: S108 - Linux has it; a folder per example is slow
    try:
        journal.reserve(path, 1)
        Part(path).put(after[:written] + old[written:], 1)
        reader = Reader(path, NAMES)
        found = [(record.sequence, record.start) for record in reader.finished()]
        reader.close()
    finally:
        path.unlink()
    assert found in ([], [(1, 1.0)])


def test_new_are_those_that_have_ended_since_the_last_call(path: Path, reader: Reader) -> None:
    one, other = Part(path, 0), Part(path, 1)
    one.end(1, 2)

    assert reader.new() == ([], 0)
    one.end(3, start=300)
    other.end(1, start=200)
    records, skipped = reader.new()
    assert ([record.start for record in records], skipped) == ([200, 300], 0)
    assert reader.new() == ([], 0)


def test_counts_what_it_skips(path: Path, reader: Reader) -> None:
    part = Part(path)
    reader.new()
    part.end(*range(1, 6))
    records, skipped = reader.new(most=2)
    assert ([record.sequence for record in records], skipped) == ([4, 5], 3)

    part.end(*range(6, 2 * RING_RECORDS + 10))
    records, skipped = reader.new()
    assert [record.sequence for record in records] == list(range(RING_RECORDS + 10, 2 * RING_RECORDS + 10))
    assert skipped == RING_RECORDS + 4


@pytest.mark.parametrize("ended", [0, 1, RING_RECORDS - 1, RING_RECORDS, RING_RECORDS + 1])
def test_finds_the_newest_record_wherever_the_ring_begins(path: Path, reader: Reader, ended: int) -> None:
    part = Part(path)
    part.end(*range(1, ended + 1))
    assert newest(part.data, 0) == ended
    assert len(reader.finished()) == min(ended, RING_RECORDS)
    assert len(reader.finished(most=3)) == min(ended, 3)


def test_a_record_that_a_dead_worker_began_is_replaced_by_the_next(path: Path, reader: Reader) -> None:
    part = Part(path)
    part.end(1, 2)
    part.put(packed(3)[:200], 3)  # killed here

    assert newest(part.data, 0) == 2
    reader.new()
    part.end(3)
    assert [record.sequence for record in reader.new()[0]] == [3]


def test_shows_requests_in_progress_of_live_workers(path: Path, reader: Reader) -> None:
    Part(path, 0).put(packed(9, start=50), RING_RECORDS)
    Part(path, 1).put(packed(7, start=40), RING_RECORDS + TABLE_RECORDS - 1)

    assert [record.start for record in reader.running({0, 1})] == [40, 50]
    assert [record.start for record in reader.running({0})] == [50]
    assert reader.finished() == []


def test_a_missing_file_has_no_records_until_it_is_there(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "journal", NAMES)
    assert reader.finished() == []
    (tmp_path / "journal").touch()
    assert reader.new() == ([], 0)
    Part(tmp_path / "journal", 1).end(1)  # the file grows
    assert len(reader.finished()) == 1
    reader.close()


def test_another_file_is_another_journal(path: Path, reader: Reader) -> None:
    Part(path).end(*range(1, 9))
    assert reader.new() == ([], 0)
    journal.reserve(path, 3)  # Berth has started again
    assert reader.new() == ([], 0)
    Part(path).end(1)
    assert len(reader.new()[0]) == 1


def test_reserves_its_space(path: Path) -> None:
    stat = path.stat()
    assert stat.st_size == 3 * PART_BYTES
    assert stat.st_blocks * 512 >= stat.st_size
    assert stat.st_mode & 0o777 == 0o600
    before = stat.st_ino
    Part(path, 2).end(1)
    assert (path.stat().st_ino, path.stat().st_size) == (before, stat.st_size)


def test_no_space_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _start: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        journal.part_of(tmp_path / "journal", 0)


def ended(
    place: int, start: float = 100.0, *, queue_s: float = 0.0, status: int = 200, flags: int = 0, code: bytes = b""
) -> bytes:
    values = (start, queue_s, -1.0, 2.0, 0, 0, 0, 0, 0, status, 1, flags, 1, 0, 0, 0, 0, 0, NONE, NONE, 0)
    return RECORD.pack(place, *values, b"", b"", b"", b"", code, *journal.NO_ATTEMPT, place)


def test_tallies_what_ended_lately(path: Path, reader: Reader) -> None:
    part = Part(path)
    records = [
        ended(1, 90.0, status=500),  # too old
        ended(2),
        ended(3, status=404),
        ended(4, status=500),
        ended(5, flags=journal.BROKEN),
        ended(6, flags=journal.FALLBACK, status=502),
        ended(7, status=429, code=b"queue_full"),
        ended(8, status=429, code=b"queue_full_not"),
        ended(9, status=429, code=b"outranked"),
        ended(9, flags=journal.WAITED, queue_s=10.5),
        ended(10, flags=journal.WAITED, queue_s=9.5),
        ended(11, status=500)[:200],  # half written
    ]
    for place, record in enumerate(records, 1):
        part.put(record, place)

    expected = Tally(requests=10, errors=3, fallbacks=1, queue_full=2, waited_long=1)
    assert reader.recent(101.0) == {"chat": expected}
    assert reader.recent(-1.0)["chat"].requests == 11  # places without a record are none
    assert reader.recent(103.0) == {}
