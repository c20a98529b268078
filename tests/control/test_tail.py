"""Reading a log that grows, is rotated, truncated or missing."""

from pathlib import Path

import pytest

from berth.control.tail import LONGEST_LINE, Splitter, Tail, Thinner, whole_log


@pytest.mark.parametrize(
    ("pieces", "lines", "rest"),
    [
        ([b"one\ntwo\n"], ["one", "two"], []),
        ([b"on", b"e\nt", b"wo"], ["one"], ["two"]),
        ([b"one\r\ntwo\r\n\n\n"], ["one", "two"], []),
        ([b"\r 1%|", b"\r 2%|"], [" 1%|"], [" 2%|"]),
        ([b"caf\xc3", b"\xa9\n"], ["caf\xe9"], []),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"], []),
        ([b"\x1b[32mINFO\x1b[0m  \n\x1b[A\n"], ["INFO"], []),
    ],
    ids=["whole", "pieces", "CRLF", "progress bar", "split character", "no UTF-8", "colours"],
)
def test_bytes_become_lines(pieces: list[bytes], lines: list[str], rest: list[str]) -> None:
    splitter = Splitter()
    assert [line for piece in pieces for line in splitter.feed(piece)] == lines
    assert splitter.flush() == rest
    assert splitter.flush() == []


def test_a_line_without_an_end_is_cut() -> None:
    splitter = Splitter()
    assert [len(line) for line in splitter.feed(b"x" * (LONGEST_LINE + 1))] == [LONGEST_LINE + 1]
    assert splitter.held_bytes == 0


def test_lines_are_read_once_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    tail = Tail(path)
    assert tail.read() == []  # not there yet
    assert tail.position is None
    with path.open("ab", buffering=0) as log:
        log.write(b"one\ntw")
        assert tail.read() == ["one"]
        assert tail.read() == []
        log.write(b"o\nthree")
        assert tail.drain() == ["two", "three"]
    tail.close()
    tail.close()


def test_no_line_is_lost_in_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    tail = Tail(path)
    assert tail.read() == ["one"]
    with path.open("ab") as log:
        log.write(b"two\nthr")
    path.rename(tmp_path / "a.log.1")
    assert tail.read() == ["two"]
    assert tail.read() == []  # nothing new, and the new file is not there
    path.write_bytes(b"four\n")
    assert tail.drain() == ["thr", "four"]
    tail.close()


def test_a_truncated_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"a long line\n")
    tail = Tail(path)
    tail.read()
    path.write_bytes(b"new\n")
    assert tail.read() == ["new"]
    tail.close()


def test_a_reader_goes_on_where_another_one_was(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\nthr")
    first, second, third = Tail(path), Tail(path), Tail(path)
    first.read()
    assert second.seek(first.position) == ["one", "two"]
    path.write_bytes(b"one\ntwo\nthree\n")
    assert second.read() == ["three"]
    assert third.seek((0, 5)) == []  # another file's
    assert third.read() == ["one", "two", "three"]
    for tail in (first, second, third):
        tail.close()


def test_a_position_behind_the_end_is_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    tail = Tail(path)
    tail.seek((path.stat().st_ino, 999))
    assert tail.read() == []
    tail.close()


def test_a_progress_bar_is_shown_once_a_step() -> None:
    thinner = Thinner()
    bars = [line for percent in range(101) if thinner.wanted(line := f"shards: {percent}% Completed | x")]
    assert [bar.split("%")[0] for bar in bars] == [f"shards: {percent}" for percent in range(0, 101, 10)]
    assert thinner.wanted("other: 50%|")
    assert thinner.wanted("a line")
    assert thinner.wanted("a line")


def test_a_whole_log_is_read_from_its_oldest_part(tmp_path: Path) -> None:
    for name, text in (("a.log", "4"), ("a.log.1", "3"), ("a.log.2", "2"), ("a.log.10", "1"), ("a.log.txt", "no")):
        (tmp_path / name).write_text(text + "\n")
    assert list(whole_log(tmp_path / "a.log")) == ["1", "2", "3", "4"]
    assert list(whole_log(tmp_path / "b.log")) == []
