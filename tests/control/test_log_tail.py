"""Reading a log that grows, is rotated, truncated or missing."""

import os
from pathlib import Path

from berth.control.log_tail import CHUNK, Tail, Thinner


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


def rotate(path: Path) -> None:
    """As supervisord does it."""
    for number in (3, 2, 1, 0):
        part = path.with_name(f"{path.name}.{number}") if number else path
        if part.exists():
            part.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.touch()


def test_no_line_is_lost_cut_or_repeated_in_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    tail = Tail(path)
    assert tail.read() == ["one"]
    with path.open("ab") as log:
        log.write(b"two\nthr")
    path.rename(tmp_path / "a.log.1")
    assert tail.read() == ["two"]
    assert tail.read() == []  # nothing new, and the new file is not there
    path.write_bytes(b"ee\nfour\nfi")
    assert tail.read() == ["three", "four"]
    assert tail.drain() == ["fi"]
    tail.close()


def test_a_reader_that_was_asleep_over_several_rotations_misses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"1\n2")
    tail = Tail(path)
    assert tail.read() == ["1"]
    for number in range(3):
        rotate(path)
        path.write_bytes(f"{number}\nx".encode())
    assert tail.drain() == ["20", "x1", "x2", "x"]
    tail.close()


def test_a_line_that_lies_in_two_files_is_found_again_by_the_next_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntw")
    first, second = Tail(path), Tail(path)
    assert first.read() == ["one"]
    rotate(path)
    with path.open("ab", buffering=0) as log:
        log.write(b"o")
        assert first.read() == []
        assert second.seek(first.position) == ["one"]
        log.write(b"\nthree\n")
        assert first.read() == second.read() == ["two", "three"]
        assert first.position == second.position == (path.stat().st_ino, 8)
    first.close()
    second.close()


def test_what_was_written_between_the_last_look_and_the_rotation_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")

    class Slow(Tail):
        """The writer writes and rotates just after a look that found nothing."""

        def _following(self, ours: os.stat_result) -> tuple[Path | None, bool]:
            if path.stat().st_size == 4:
                with path.open("ab") as log:
                    log.write(b"two\n")
                rotate(path)
                path.write_bytes(b"three\n")
            return super()._following(ours)

    tail = Slow(path)
    assert tail.read() == ["one"]
    assert tail.drain() == ["two", "three"]
    tail.close()


def test_another_file_in_the_same_place_does_not_go_on_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntw")
    tail = Tail(path)
    tail.read()
    path.unlink()
    assert tail.read() == []
    path.write_bytes(b"new\n")
    assert tail.read() == ["tw"]
    assert tail.read() == ["new"]
    tail.close()


def test_blank_lines_are_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\n" * (CHUNK + 1) + b"one\n")
    tail = Tail(path)
    assert tail.read() == ["one"]
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
    for name, text in (
        ("a.log", "4"),
        ("a.log.1", "3\n"),
        ("a.log.2", "2\n"),
        ("a.log.10", "1\n"),
        ("a.log.txt", "no"),
    ):
        (tmp_path / name).write_text(text)
    for name, lines in (("a.log", ["1", "2", "3", "4"]), ("b.log", [])):
        tail = Tail(tmp_path / name, oldest=True)
        assert tail.drain() == lines
        tail.close()


def test_where_the_reader_was_is_gone_the_oldest_part_is_next(tmp_path: Path) -> None:
    (tmp_path / "a.log.1").write_text("1\n")
    (tmp_path / "a.log").write_text("2\n")
    tail = Tail(tmp_path / "a.log")
    assert tail.seek((0, 5)) == []
    assert tail.drain() == ["1", "2"]
    tail.close()
