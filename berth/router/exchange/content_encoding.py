"""Request bodies with a Content-Encoding: gzip, deflate and zstd, decoded part by part as they arrive.

A few bytes may decode to any number. So the result comes in pieces of limited size, which the reader counts against
its limit. zstd gets a window of 8 MiB at most, as RFC 8878 recommends. The number of gzip members and zstd frames is
limited too: empty ones take time and reach no limit of bytes.
"""

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from berth.errors import InvalidRequestError, TooLargeError, UnsupportedEncodingError

if sys.version_info >= (3, 14):  # pragma: no cover - depends on the Python
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES: Final = 1 << 20
MOST_MEMBERS: Final = 64  # most programs write one
_MOST_CODINGS: Final = 2
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15  # zlib's window bits, which also say what is around the data


class Stream(Protocol):
    """One gzip member, one zlib stream or one zstd frame. Input that was not used yet is kept for the next call."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Inflate:
    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_CODINGS: Final[Mapping[str, Callable[[bytes], Stream]]] = {  # by the first bytes
    "gzip": lambda _data: Inflate(_GZIP),
    "x-gzip": lambda _data: Inflate(_GZIP),
    # A zlib stream (RFC 9110, 8.4.1.2). Some clients send it without the two bytes of zlib's header.
    "deflate": lambda data: Inflate(_ZLIB if data[0] & 0x0F == zlib.DEFLATED else _RAW_DEFLATE),
    "zstd": lambda _data: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 23}),
}


class Decoder:
    """Decodes one body. `feed` takes its parts, `finish` has to be called after the last one."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream: Stream | None = None  # None: nothing came yet, or what came is complete
        self._members = 0

    def feed(self, part: bytes) -> Iterator[bytes]:
        """What this part decodes to, in pieces of up to PIECE_BYTES. InvalidRequestError where it cannot be decoded."""
        while part:
            if (stream := self._stream) is None:
                self._members += 1
                if self._members > MOST_MEMBERS:
                    raise InvalidRequestError(f"The body has more than {MOST_MEMBERS} parts of {self._coding}.")
                stream = self._stream = _CODINGS[self._coding](part)
            try:
                piece = stream.decompress(part, PIECE_BYTES)
                while piece:
                    yield piece
                    complete = stream.eof or len(piece) < PIECE_BYTES
                    piece = b"" if complete else stream.decompress(b"", PIECE_BYTES)
            except (zlib.error, zstd.ZstdError) as exc:
                raise InvalidRequestError(f"The body cannot be decoded as {self._coding}: {exc}.") from exc
            part = b""
            if stream.eof:
                self._stream, part = None, stream.unused_data

    def finish(self) -> None:
        """InvalidRequestError where the body is incomplete."""
        if self._stream is not None:
            raise InvalidRequestError(f"The body is incomplete: its {self._coding} has no end.")


class BodyDecoder:
    """Undoes the codings of a body, the last one first. TooLargeError as soon as what one of them gives is longer than
    `limit_bytes`.
    """

    def __init__(self, codings: tuple[str, ...], limit_bytes: int) -> None:
        self._decoders = [Decoder(coding) for coding in reversed(codings)]
        self._sizes = [0] * len(codings)
        self._limit_bytes = limit_bytes

    def feed(self, part: bytes, place: int = 0) -> Iterator[bytes]:
        """What this part of the body decodes to, in pieces of up to PIECE_BYTES. Some are empty, because the work for a
        piece is limited too.
        """
        for piece in self._decoders[place].feed(part):
            self._sizes[place] += len(piece)
            if self._sizes[place] > self._limit_bytes:
                raise TooLargeError(
                    f"The body has more than {self._limit_bytes} bytes (BERTH_MAX_BODY) when it is decoded.",
                    should_retry=False,
                )
            if place + 1 < len(self._decoders):
                yield from self.feed(piece, place + 1)
                yield b""
            else:
                yield piece

    def finish(self) -> None:
        """To be called at the end of the body. InvalidRequestError where it is incomplete."""
        for decoder in self._decoders:
            decoder.finish()


def body_decoder(content_encoding: bytes, limit_bytes: int) -> BodyDecoder | None:
    """None: the body is not encoded. UnsupportedEncodingError for codings that Berth does not read."""
    names = [name.strip().lower() for name in content_encoding.decode("latin-1").split(",")]
    codings = tuple(name for name in names if name not in ("", "identity"))
    unknown = next((name for name in codings if name not in _CODINGS), None)
    if unknown is not None:
        raise UnsupportedEncodingError(
            f"Content-Encoding {unknown[:40]!r} is not supported. Send gzip, deflate or zstd, or an unencoded body."
        )
    if len(codings) > _MOST_CODINGS:
        raise UnsupportedEncodingError(f"Content-Encoding has {len(codings)} codings; {_MOST_CODINGS} are supported.")
    return BodyDecoder(codings, limit_bytes) if codings else None
