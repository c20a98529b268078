"""The end of a log, and what follows: across rotation, within limits, and without secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.plan import Keys
from berth.router.events.log_tail import FIRST_LINES, MOST_LINES, LogTail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.log"


@pytest.fixture
def tail(path: Path) -> Iterator[LogTail]:
    made = LogTail(path, Keys(upstream_keys={"chat": "planted"}))
    yield made
    made.close()


def add(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_begins_with_the_last_lines(path: Path, tail: LogTail) -> None:
    add(path, *map(str, range(500)))
    lines, skipped = tail.read()
    assert (lines[0], lines[-1], len(lines), skipped) == (str(500 - FIRST_LINES), "499", FIRST_LINES, 0)
    assert tail.read() == ([], 0)


def test_begins_with_whole_lines(path: Path, tail: LogTail) -> None:
    add(path, *(f"{number:01000d}" for number in range(100)))
    lines, _ = tail.read()
    assert all(len(line) == 1000 for line in lines)
    assert len(lines) == 65


def test_skips_what_is_too_much_and_counts_it(path: Path, tail: LogTail) -> None:
    add(path, "before")
    tail.read()
    add(path, *map(str, range(500)))
    lines, skipped = tail.read()
    assert (lines[-1], len(lines), skipped) == ("499", MOST_LINES, 300)


def test_skips_a_flood_unread(path: Path, tail: LogTail) -> None:
    add(path, "before")
    tail.read()
    add(path, *("x" * 1000 for _ in range(2000)), "last")
    lines, skipped = tail.read()
    assert lines[-1] == "last"
    assert skipped > 0


def test_reads_a_line_that_comes_in_parts_once(path: Path, tail: LogTail) -> None:
    path.write_text("half ")
    assert tail.read() == ([], 0)
    add(path, "line")
    assert tail.read() == (["half line"], 0)


def test_follows_rotation(path: Path, tail: LogTail) -> None:
    add(path, "one")
    tail.read()
    add(path, "two")
    path.rename(path.with_name("chat.log.1"))
    assert tail.read() == (["two"], 0)
    assert tail.read() == ([], 0)  # the new file is not there yet
    add(path, "three")
    assert tail.read() == (["three"], 0)
    path.rename(path.with_name("chat.log.2"))
    add(path, "four")  # it is there already
    assert tail.read() == (["four"], 0)


def test_reads_a_truncated_file_from_its_start(path: Path, tail: LogTail) -> None:
    add(path, "a long line that is truncated")
    tail.read()
    path.write_text("new\n")
    assert tail.read() == (["new"], 0)


def test_waits_for_a_file_that_is_missing(path: Path, tail: LogTail) -> None:
    assert tail.read() == ([], 0)
    add(path, "one")
    assert tail.read() == (["one"], 0)


def test_masks_secrets(path: Path, tail: LogTail) -> None:
    add(path, "the key is planted", "authorization: Bearer sk-0123456789abcdefghij")
    assert "planted" not in str(lines := tail.read()[0])
    assert "0123456789" not in str(lines)
