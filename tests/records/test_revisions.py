"""The history of revisions: kept, found again, and whatever else may be in its place."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.plan import REVISION_VERSION, Author, Revision, RevisionState
from berth.records.revisions import LARGEST_FILE, MOST, differences, keep, make_key, path, read

ONE = Revision(model="chat", number=1, at=1, by=Author.ENV, base="b", order=(0, 1), says={"engines": "vllm, sglang"})
TWO = replace(ONE, number=2, by=Author.MIGRATE, order=(1, 0), says={"engines": "sglang, vllm"})


def test_revisions_are_found_again(tmp_path: Path) -> None:
    other = replace(ONE, model="embed")
    keep(str(tmp_path), ONE, other)
    keep(str(tmp_path), TWO)

    found = read(str(tmp_path))

    assert (found.of("chat"), found.of("embed"), found.problem) == ((ONE, TWO), (other,), "")
    assert (found.promoted("chat"), found.next_number("chat"), found.next_number("new")) == (TWO, 3, 1)


def test_a_rejected_revision_does_not_count(tmp_path: Path) -> None:
    keep(str(tmp_path), ONE, replace(TWO, state=RevisionState.REJECTED))

    found = read(str(tmp_path))

    assert (found.promoted("chat"), found.next_number("chat")) == (ONE, 3)


def test_a_revision_replaces_the_one_of_its_number(tmp_path: Path) -> None:
    keep(str(tmp_path), ONE)
    keep(str(tmp_path), newer := replace(ONE, versions={"vllm": "0.34.0"}))

    assert read(str(tmp_path)).of("chat") == (newer,)


def test_the_history_does_not_grow_for_ever(tmp_path: Path) -> None:
    """What serves stays, however many migrations failed since."""
    later = [replace(ONE, number=number, state=RevisionState.REJECTED) for number in range(2, MOST + 9)]
    keep(str(tmp_path), ONE, *later)

    assert [one.number for one in read(str(tmp_path)).of("chat")] == [1, *range(9, MOST + 9)]


@pytest.mark.parametrize("damage", [b"", b"null", b"[]", b"{}", b"\xff", b'{"v": 1}', b"[" * 100_000])
def test_a_damaged_line_takes_no_other_with_it(tmp_path: Path, damage: bytes) -> None:
    keep(str(tmp_path), ONE, TWO)
    first, second = path(str(tmp_path)).read_bytes().splitlines()
    path(str(tmp_path)).write_bytes(b"\n".join((first, damage, second)))

    found = read(str(tmp_path))

    assert found.of("chat") == (ONE, TWO)
    assert found.problem == f"{str(path(str(tmp_path)))!r} has 1 damaged line"


def test_a_torn_file_keeps_its_whole_lines(tmp_path: Path) -> None:
    """Wherever it was cut."""
    folder = str(tmp_path)
    keep(folder, ONE, TWO)
    data = path(folder).read_bytes()
    ends = [number for number, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data) + 1):
        path(folder).write_bytes(data[:cut])
        found = read(folder)
        assert found.of("chat") == (ONE, TWO)[: sum(cut >= end for end in ends)]


def test_the_file_of_a_newer_berth_is_not_touched(tmp_path: Path) -> None:
    keep(str(tmp_path), replace(ONE, v=REVISION_VERSION + 1))
    before = path(str(tmp_path)).read_bytes()

    assert (read(str(tmp_path)).of("chat"), read(str(tmp_path)).newer) == ((), True)
    with pytest.raises(ValueError, match="written by a newer Berth"):
        keep(str(tmp_path), TWO)
    assert path(str(tmp_path)).read_bytes() == before


def test_what_is_no_file_of_revisions_is_ignored(tmp_path: Path) -> None:
    assert read(str(tmp_path)).problem == ""
    path(str(tmp_path)).mkdir(parents=True)
    assert "cannot be read: Is a directory" in read(str(tmp_path)).problem
    path(str(tmp_path)).rmdir()
    path(str(tmp_path)).write_bytes(b"\n" * (LARGEST_FILE + 1))
    assert "more than 4 MiB" in read(str(tmp_path)).problem


def test_the_key_of_the_digests_is_made_once(tmp_path: Path) -> None:
    assert read(str(tmp_path)).key == b""
    make_key(str(tmp_path))
    key = read(str(tmp_path)).key
    make_key(str(tmp_path))

    assert (len(key), read(str(tmp_path)).key) == (32, key)
    file = tmp_path / "berth/key"
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink()
    file.mkdir()
    assert read(str(tmp_path)).key == b""


def test_differences_are_by_field() -> None:
    found = differences({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"})
    assert found == [("b", "2", "4"), ("c", "3", ""), ("d", "", "5")]
