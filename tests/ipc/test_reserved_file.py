"""Files that are replaced without new space."""

import json
import threading
from pathlib import Path

import pytest

from berth.ipc import reserved_file

SIZE = 8192


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    reserved_file.reserve(path, SIZE)
    return path


def blocks(path: Path) -> dict[int, int]:
    """Of all files in the folder, by inode."""
    return {one.stat().st_ino: one.stat().st_blocks for one in path.parent.iterdir()}


def test_reserving_does_not_make_the_file(path: Path) -> None:
    assert not path.exists()


def test_writes_use_the_reserved_space_alone(path: Path) -> None:
    before = blocks(path)
    for number in range(10):
        reserved_file.write(path, json.dumps(["x" * number * 400]).encode())
        assert json.loads(path.read_bytes()) == ["x" * number * 400]
        assert blocks(path) == before
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_boot_keeps_the_contents_and_the_space(path: Path) -> None:
    reserved_file.write(path, b'"kept"')
    reserved_file.reserve(path, SIZE)
    assert json.loads(path.read_bytes()) == "kept"
    before = blocks(path)
    reserved_file.write(path, b'"new"')
    assert blocks(path) == before


def test_a_file_without_reserved_space_gets_some(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b'"short"')
    reserved_file.reserve(path, SIZE)
    assert json.loads(path.read_bytes()) == "short"
    for number in range(3):
        before = blocks(path)
        reserved_file.write(path, json.dumps("x" * (SIZE - 100 - number)).encode())
        assert blocks(path) == before


@pytest.mark.parametrize("reserved", [0, SIZE])
def test_larger_contents_and_no_spare_need_space(tmp_path: Path, reserved: int) -> None:
    path = tmp_path / "state.json"
    if reserved:
        reserved_file.reserve(path, reserved)
    for text in ("x" * 3 * SIZE, "y", "z" * 4 * SIZE):
        reserved_file.write(path, json.dumps(text).encode())
        assert json.loads(path.read_bytes()) == text


def test_without_any_way_to_write_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reserved_file.write(tmp_path / "none" / "state.json", b"1")


def test_readers_never_see_a_mixture(path: Path) -> None:
    texts = [json.dumps([letter] * 1500).encode() for letter in "abc"]
    reserved_file.write(path, texts[0])
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            for text in texts:
                reserved_file.write(path, text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {reserved_file.read(path).rstrip() for _ in range(2000)}
    finally:
        ended.set()
        writer.join()
    assert seen <= set(texts)


def test_exchange_of_files_that_are_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reserved_file._exchange(tmp_path / "a", tmp_path / "b")
