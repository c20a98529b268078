"""Splitting of bytes into lines, and cleaning of lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.log_lines import MAX_LINE, Splitter, clean


@pytest.mark.parametrize(
    ("pieces", "lines", "rest"),
    [
        ([b"one\ntwo\n"], ["one", "two"], []),
        ([b"on", b"e\nt", b"wo"], ["one"], ["two"]),
        ([b"one\r\ntwo\r\n\n\n"], ["one", "two"], []),
        ([b"one\r", b"\ntwo\n"], ["one", "two"], []),
        ([b"\r 1%|", b"\r 2%|"], [" 1%|"], [" 2%|"]),
        ([b"caf\xc3", b"\xa9\n"], ["caf\xe9"], []),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"], []),
        ([b"\x1b[32mINFO\x1b[0m  \n\x1b[A\n"], ["INFO"], []),
        ([b"a\x00b\x07c\x1b]0;title\x07\x9b\td\n"], ["abc\ufffd\td"], []),
    ],
    ids=["whole", "pieces", "CRLF", "CR, LF", "progress bar", "split character", "no UTF-8", "colours", "garbage"],
)
def test_splits_bytes_into_lines(pieces: list[bytes], lines: list[str], rest: list[str]) -> None:
    splitter = Splitter()
    assert [line for piece in pieces for line in splitter.feed(piece)] == lines
    assert splitter.flush() == rest
    assert splitter.flush() == []


@pytest.mark.parametrize("step", [1000, MAX_LINE, 10**6])
def test_splits_a_long_line_without_loss(step: int) -> None:
    text = "€" * 400_000 + "\n"
    data, splitter = text.encode(), Splitter()
    lines = [line for at in range(0, len(data), step) for line in splitter.feed(data[at : at + step])]
    assert "".join(lines) == text.rstrip()
    assert max(len(line.encode()) for line in lines) <= MAX_LINE
    assert splitter.held_bytes == 0


@given(st.binary(), st.integers(min_value=1, max_value=7))
def test_chunk_sizes_do_not_matter(data: bytes, step: int) -> None:
    whole, piecemeal = Splitter(), Splitter()
    expected = whole.feed(data) + whole.flush()
    lines = [line for at in range(0, len(data), step) for line in piecemeal.feed(data[at : at + step])]
    assert lines + piecemeal.flush() == expected


@pytest.mark.parametrize(
    ("line", "cleaned"),
    [
        ("\x1b[31mtoken hf_abcdefghij0123 and sk-0123456789\x1b[0m \r", "token hf_*** and sk-***"),
        ("GET / Authorization: Bearer abc.def-123", "GET / Authorization: Bearer ***"),
        ("vllm serve m --api-key opensesame --port 1", "vllm serve m --api-key *** --port 1"),
        ("args: {'api_key': ['opensesame'], 'port': 1}", "args: {'api_key': ['***'], 'port': 1}"),
        ("ServerArgs(api_key='opensesame', x=1)", "ServerArgs(api_key='***', x=1)"),
        ("HF_TOKEN=opensesame", "HF_TOKEN=***"),
        (
            "ServerArgs(api_key=None, tokenizer='basic tokenizer')",
            "ServerArgs(api_key=None, tokenizer='basic tokenizer')",
        ),
        ("a bearer of news", "a bearer of news"),
    ],
)
def test_removes_colours_and_masks_secrets(line: str, cleaned: str) -> None:
    assert clean(line) == cleaned
