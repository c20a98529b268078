"""Frames are complete and in order, whatever the chunks are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import sse
from berth.sse import FrameSplitter

STREAM = b'data: {"a": "caf\xc3\xa9"}\n\n: comment\n\nevent: x\ndata: 1\ndata: 2\n\n' + sse.DONE
FRAMES = [b'data: {"a": "caf\xc3\xa9"}\n\n', b": comment\n\n", b"event: x\ndata: 1\ndata: 2\n\n", sse.DONE]


def split(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    splitter = FrameSplitter()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    frames = [f for a, b in pairwise(edges) for f in splitter.feed(stream[a:b])]
    return frames, bytes(splitter.pending)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_frames_do_not_depend_on_chunk_boundaries(cuts: list[int]) -> None:
    assert split(STREAM, cuts) == (FRAMES, b"")


@given(st.lists(st.integers(0, 2 * len(STREAM)), max_size=12))
def test_accepts_crlf_split_at_any_byte(cuts: list[int]) -> None:
    assert split(STREAM.replace(b"\n", b"\r\n"), cuts) == (FRAMES, b"")


def test_returns_a_single_complete_frame_without_a_copy() -> None:
    assert FrameSplitter().feed(FRAMES[0])[0] is FRAMES[0]


def test_keeps_an_incomplete_frame_pending() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(b'data: {"a"') == []
    assert splitter.pending == b'data: {"a"'


def test_long_frame_in_many_pieces_takes_linear_time() -> None:
    splitter = FrameSplitter()
    pieces = [b"data: ", *[b"x" * 9 + b"\r"] * 100_000, b"\r"]

    assert [frame for piece in pieces for frame in splitter.feed(piece)] == []
    (frame,) = splitter.feed(b"next")

    assert (len(frame), bytes(splitter.pending)) == (1_000_007, b"next")


def test_splits_bytes_of_complete_frames() -> None:
    assert sse.frames_of(STREAM) == FRAMES
    assert sse.frames_of(b"") == []


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data: x \n\n", b"x"),  # TensorRT-LLM's first frame
        (b"event: e\ndata: x\n\n", b"x"),
        (b"data: 1\ndata: 2\n\n", b"1\n2"),
        (b": comment\n\n", None),
        (b"event: only\n\n", None),
    ],
)
def test_extracts_the_data_of_a_frame(frame: bytes, data: bytes | None) -> None:
    assert sse.data_of(frame) == data


def test_encoded_frames_can_be_decoded() -> None:
    assert sse.data_of(sse.frame(b'{"a":1}', event=b"e")) == b'{"a":1}'
    assert sse.frame(b"1") == b"data: 1\n\n"
    assert sse.comment("a\nb") == b": a b\n\n"
