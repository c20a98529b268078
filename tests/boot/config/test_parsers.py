"""Values from files: secrets of containers, and files that are not fit to be one."""

from pathlib import Path

import pytest

from berth.boot.config.parsers import LARGEST_FILE_BYTES, read_value


@pytest.mark.parametrize("data", [b"key\n", b"key\r\n", b"key", b"\xef\xbb\xbfkey\n"])
def test_value_file_is_stripped_of_line_end_and_byte_order_mark(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    assert read_value(str(path)) == "key"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"\n\n", "empty"), (b"\xff\xfe", "not UTF-8"), (b"x" * (LARGEST_FILE_BYTES + 1), "larger than")],
    ids=["nothing", "blank", "bytes", "large"],
)
def test_rejects_value_file_without_a_value(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        read_value(str(path))


def test_rejects_unreadable_value_file(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "missing"), "a\x00b"):
        with pytest.raises(ValueError, match="cannot read"):
            read_value(path)
