"""Encoded bodies: whatever the parts, the same bytes come out; whatever they hold, no more than the limit."""

import gzip
import itertools
import random
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import ApiError, InvalidRequestError, TooLargeError, UnsupportedEncodingError
from berth.router.exchange.content_encoding import MOST_MEMBERS, PIECE_BYTES, body_decoder

LIMIT = 8 * PIECE_BYTES


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "x-gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}
PACKERS = [*ENCODERS.items(), ("deflate", raw_deflate)]


def decode(encoding: str, *parts: bytes, limit: int = LIMIT) -> bytes:
    decoder = body_decoder(encoding.encode(), limit)
    assert decoder is not None
    pieces = [piece for part in parts for piece in decoder.feed(part)]
    decoder.finish()
    assert all(len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_gives_back_what_was_packed_however_it_is_cut(
    encoding: str, pack: Callable[[bytes], bytes], data: bytes, cuts: list[int]
) -> None:
    packed = pack(data)
    edges = [0, *sorted(min(cut, len(packed)) for cut in cuts), len(packed)]
    parts = [packed[start:end] for start, end in itertools.pairwise(edges)]
    assert decode(encoding, *parts) == data


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_gives_pieces_of_what_is_large(encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    data = random.Random(size).randbytes(1000) * (size // 1000) + b"x" * (size % 1000)
    assert decode(encoding, pack(data)) == data


def test_reads_several_members_and_codings() -> None:
    assert decode("gzip", gzip.compress(b"ab", mtime=0) + gzip.compress(b"cd", mtime=0)) == b"abcd"
    assert decode("zstd", zstd.compress(b"ab") + zstd.compress(b"cd")) == b"abcd"
    assert decode(" GZIP , zstd,identity", zstd.compress(gzip.compress(b"ab", mtime=0))) == b"ab"


@pytest.mark.parametrize("encoding", [b"", b"identity", b" Identity , "])
def test_leaves_an_unencoded_body_alone(encoding: bytes) -> None:
    assert body_decoder(encoding, LIMIT) is None


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, br", "gzip;q=1", "gzip, gzip, gzip", "x" * 10_000])
def test_rejects_other_encodings_by_name(encoding: str) -> None:
    with pytest.raises(UnsupportedEncodingError) as raised:
        body_decoder(encoding.encode(), LIMIT)
    assert raised.value.status == 415
    assert "Content-Encoding" in raised.value.message
    assert len(raised.value.message) < 200
    assert raised.value.headers == {"accept-encoding": "gzip, deflate, zstd"}


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_rejects_what_is_cut_off_or_damaged(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(range(256)) * 4)
    for damaged in (packed[:-1], packed[:3], packed[:1], b"{}" * 20, packed + b"rest"):
        with pytest.raises(InvalidRequestError):
            decode(encoding, damaged)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "zstd, gzip"])
@given(parts=st.lists(st.binary(max_size=40), max_size=4), place=st.integers(0, 60), byte=st.integers(0, 255))
def test_anything_else_is_an_error_of_the_request(encoding: str, parts: list[bytes], place: int, byte: int) -> None:
    whole = gzip.compress(zstd.compress(b"text"), mtime=0) if "," in encoding else ENCODERS[encoding](b"text" * 20)
    damaged = whole[:place] + bytes([byte]) + whole[place + 1 :]
    for content in (parts, [damaged], [whole, *parts]):
        with suppress(InvalidRequestError):  # and nothing else
            decode(encoding, *content)


ZEROS = bytes(64 * PIECE_BYTES)
BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(ZEROS, mtime=0),
    "deflate": lambda: zlib.compress(ZEROS),
    "zstd": lambda: zstd.compress(ZEROS),
    "gzip, zstd": lambda: zstd.compress(gzip.compress(ZEROS, mtime=0)),
    "zstd, gzip": lambda: gzip.compress(b"".join([zstd.compress(b"")] * (LIMIT // 9 + 10))),  # nothing comes of these
}


@pytest.mark.parametrize("encoding", BOMBS)
def test_stops_a_bomb_at_the_limit(encoding: str) -> None:
    bomb = BOMBS[encoding]()
    tracemalloc.start()
    decoder = body_decoder(encoding.encode(), LIMIT)
    assert decoder is not None
    with pytest.raises(ApiError) as raised:
        for _ in decoder.feed(bomb):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(raised.value, TooLargeError | InvalidRequestError)
    assert peak < 4 * LIMIT


def test_work_without_a_result_is_cut_into_pieces_too() -> None:
    skipped = b"\x50\x2a\x4d\x18" + (6 * PIECE_BYTES).to_bytes(4, "little") + bytes(6 * PIECE_BYTES)
    decoder = body_decoder(b"zstd, gzip", LIMIT)
    assert decoder is not None
    pieces = list(decoder.feed(gzip.compress(skipped, mtime=0)))
    assert len(pieces) >= 6
    assert not any(pieces)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_limits_members_that_hold_nothing(encoding: str) -> None:
    empty = ENCODERS[encoding](b"")
    assert decode(encoding, empty * MOST_MEMBERS) == b""
    with pytest.raises(InvalidRequestError, match="more than 64 parts"):
        decode(encoding, empty * (MOST_MEMBERS + 1))


def test_refuses_a_window_that_takes_much_memory() -> None:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(b"x", zstd.ZstdCompressor.FLUSH_BLOCK) + packer.flush()
    with pytest.raises(InvalidRequestError, match="zstd"):
        decode("zstd", packed)
