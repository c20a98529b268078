"""Parsers of values: what they accept, and what they reject with a reason."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.boot.config import parsers
from berth.boot.config.parsers import LARGEST_FILE_BYTES, read_value

PARSERS: list[Callable[[str], Any]] = [
    parsers.boolean,
    parsers.duration,
    parsers.positive_duration,
    parsers.size,
    parsers.tokens,
    parsers.whole_number(1, 65535),
    parsers.fraction(0.1, 1.0),
    parsers.choice("text", "json"),
    parsers.host,
    parsers.absolute_path,
    parsers.secret,
    parsers.secrets,
    parsers.engine_order,
    parsers.fetch_hosts,
    parsers.origins,
    parsers.workers,
    parsers.port,
    parsers.socket_dir,
]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("1h", 3600),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("30", 30),
        ("0.5", 0.5),
        ("0", 0),
    ],
)
def test_reads_durations(text: str, seconds: float) -> None:
    assert parsers.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "10 s", "1w", "-5s", "1h-", "five", "1e3", "nan", "inf", "٣s", "1h 30m"])
def test_rejects_invalid_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parsers.duration(text)


def test_rejects_zero_and_too_long_durations() -> None:
    with pytest.raises(ValueError, match="must be greater than 0"):
        parsers.positive_duration("0s")
    with pytest.raises(ValueError, match="longer than a year"):
        parsers.duration("9999999999h")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1024", 1024),
        ("64GiB", 64 * 2**30),
        ("512MB", 512000000),
        ("1.5KiB", 1536),
        ("8 GiB", 8 * 2**30),
        ("1b", 1),
        ("2tib", 2 * 2**40),
    ],
)
def test_reads_sizes(text: str, size_bytes: int) -> None:
    assert parsers.size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a size"),
        ("GiB", "not a size"),
        ("64G", "not a size"),
        ("64XB", "not a size"),
        ("-1", "not a size"),
        ("0", "out of range"),
        ("0.1B", "out of range"),
        ("999999TiB", "out of range"),
    ],
)
def test_rejects_invalid_sizes(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parsers.size(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("32768", 32768), ("8k", 8000), ("8K", 8192), ("1m", 10**6), ("1M", 2**20), ("25.6k", 25600), ("0.5K", 512)],
)
def test_lower_case_token_units_are_decimal(text: str, count: int) -> None:
    assert parsers.tokens(text) == count


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("many", "not a number"),
        ("1.5", "not a whole"),
        ("0", "out of range"),
        ("-1", "not a number"),
        ("99999999999M", "out of range"),
    ],
)
def test_rejects_invalid_token_counts(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parsers.tokens(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("Yes", True), ("on", True), ("TRUE", True), ("0", False), ("no", False), ("Off", False)],
)
def test_reads_booleans(text: str, value: bool) -> None:
    assert parsers.boolean(text) is value


def test_rejects_invalid_booleans() -> None:
    with pytest.raises(ValueError, match="not a boolean"):
        parsers.boolean("maybe")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("0", "out of range"), ("65536", "out of range"), ("80.0", "not a whole"), ("+1", "not a whole")],
)
def test_numbers_have_a_range(text: str, reason: str) -> None:
    assert parsers.whole_number(1, 65535)("65535") == 65535
    with pytest.raises(ValueError, match=reason):
        parsers.whole_number(1, 65535)(text)


@pytest.mark.parametrize(("text", "reason"), [("0", "out of range"), ("1.1", "out of range"), ("90%", "not a number")])
def test_fractions_have_a_range(text: str, reason: str) -> None:
    assert parsers.fraction(0.1, 1.0)(".5") == 0.5
    with pytest.raises(ValueError, match=reason):
        parsers.fraction(0.1, 1.0)(text)


def test_unknown_choice_suggests_the_closest() -> None:
    assert parsers.choice("debug", "info")("info") == "info"
    with pytest.raises(ValueError, match="did you mean debug"):
        parsers.choice("debug", "info")("DEBUGS")


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "::1", "localhost", "gpu-box.example.org", "node_1"])
def test_accepts_addresses_and_host_names(text: str) -> None:
    assert parsers.host(text) == text


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4:80", "[::1]", "a b", "http://x", "-x", "a..b", "x" * 64])
def test_rejects_invalid_hosts(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parsers.host(text)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parsers.absolute_path("./a/../b/") == str(tmp_path / "b")
    assert parsers.absolute_path("~/models") == "/home/somebody/models"
    assert parsers.absolute_path("/x//y") == "/x/y"


@pytest.mark.parametrize(
    ("text", "reason"), [("a\nb", "control"), ("/\x00", "control"), ("~unknown-user/x", "unknown home")]
)
def test_rejects_invalid_paths(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parsers.absolute_path(text)


@pytest.mark.parametrize("text", ["", "a b", "schlüssel", "tab\t", "line\n"])
def test_secrets_fit_into_a_header(text: str) -> None:
    with pytest.raises(ValueError, match="in a key"):
        parsers.secret(text)


def test_lists_are_separated_by_commas_or_white_space() -> None:
    assert parsers.words(" a, b\n c,,d ") == ("a", "b", "c", "d")
    assert parsers.words(" ") == ()


def test_credentials_in_a_url_are_masked() -> None:
    assert parsers.masked_url("m=http://user:pw@host/v1@x") == "m=http://***@host/v1@x"


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.text(max_size=40) | st.from_regex(r"[0-9.]{0,30}[a-zA-Z]{0,4}", fullmatch=True))
def test_any_text_is_read_or_rejected_with_a_reason(parser: Callable[[str], Any], text: str) -> None:
    with contextlib.suppress(ValueError):
        parser(text)


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
