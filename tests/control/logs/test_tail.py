"""Reading a log that grows, is rotated, truncated or missing."""

import os
from pathlib import Path

from berth.control.logs.load_progress import parse_bar
from berth.control.logs.tail import CHUNK, ProgressBarFilter, Tail


def test_reads_each_line_once(tmp_path: Path) -> None:
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


def test_rotation_keeps_lines_complete(tmp_path: Path) -> None:
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


def test_reads_all_files_after_several_rotations(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"1\n2")
    tail = Tail(path)
    assert tail.read() == ["1"]
    for number in range(3):
        rotate(path)
        path.write_bytes(f"{number}\nx".encode())
    assert tail.drain() == ["20", "x1", "x2", "x"]
    tail.close()


def test_next_reader_resumes_a_line_split_over_two_files(tmp_path: Path) -> None:
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


def test_reads_what_was_written_just_before_the_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")

    class Slow(Tail):
        """The writer writes and rotates just after a read that found nothing."""

        def _following(self, current: os.stat_result) -> tuple[Path | None, bool]:
            if path.stat().st_size == 4:
                with path.open("ab") as log:
                    log.write(b"two\n")
                rotate(path)
                path.write_bytes(b"three\n")
            return super()._following(current)

    tail = Slow(path)
    assert tail.read() == ["one"]
    assert tail.drain() == ["two", "three"]
    tail.close()


def test_unrelated_file_in_its_place_starts_a_new_line(tmp_path: Path) -> None:
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


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\n" * (CHUNK + 1) + b"one\n")
    tail = Tail(path)
    assert tail.read() == ["one"]
    tail.close()


def test_reads_a_truncated_file_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"a long line\n")
    tail = Tail(path)
    tail.read()
    path.write_bytes(b"new\n")
    assert tail.read() == ["new"]
    tail.close()


def test_seek_resumes_where_another_reader_stopped(tmp_path: Path) -> None:
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


def test_seek_beyond_the_end_is_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    tail = Tail(path)
    tail.seek((path.stat().st_ino, 999))
    assert tail.read() == []
    tail.close()


def test_progress_bar_passes_once_per_step() -> None:
    bar_filter = ProgressBarFilter()
    bars = [line for percent in range(101) if bar_filter.passes(parse_bar(line := f"shards: {percent}% Completed | x"))]
    assert [bar.split("%")[0] for bar in bars] == [f"shards: {percent}" for percent in range(0, 101, 10)]
    assert bar_filter.passes(parse_bar("other: 50%|"))
    assert bar_filter.passes(None)
    assert bar_filter.passes(None)


def test_reads_from_the_oldest_file(tmp_path: Path) -> None:
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


def test_seek_in_a_deleted_file_continues_with_the_oldest(tmp_path: Path) -> None:
    (tmp_path / "a.log.1").write_text("1\n")
    (tmp_path / "a.log").write_text("2\n")
    tail = Tail(tmp_path / "a.log")
    assert tail.seek((0, 5)) == []
    assert tail.drain() == ["1", "2"]
    tail.close()
