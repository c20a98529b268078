"""Reads HTTP answers just as far as the benchmark needs: where they end, and how many tokens are in them. Sans-io."""

import re
from typing import Final

from tests.bench.frames import TOKEN

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_SPLIT: Final = len(TOKEN) - 1  # as much of a token's mark may lie at the end of a packet
_KEPT: Final = 64  # bytes of the end, in which [DONE] and the last chunk are looked for


class Answer:
    """One answer. `feed` returns how many tokens the bytes complete."""

    __slots__ = ("_end", "_head", "_left", "closes", "complete", "done", "status", "tokens")

    def __init__(self) -> None:
        self.status = 0  # 0: the head has not come
        self.tokens = 0
        self.complete = False
        self.done = False  # a stream said [DONE] at its end
        self.closes = False  # the connection carries no other answer
        self._head = b""
        self._left = 0  # bytes of a body of known length; -1: it comes in chunks
        self._end = b""

    def feed(self, data: bytes) -> int:
        if not self.status:
            data = self._read_head(data)
            if not self.status:
                return 0
        return self._read_stream(data) if self._left < 0 else self._read_whole(data)

    def _read_head(self, data: bytes) -> bytes:
        """What comes after it."""
        self._head += data
        head, blank, rest = self._head.partition(b"\r\n\r\n")
        if not blank:
            return b""
        self.status = int(head[9:12])
        self.closes = _CLOSE.search(head) is not None
        length = _LENGTH.search(head)
        if length is None and not _CHUNKED.search(head):
            raise ValueError(f"an answer without a length: {head!r}")
        self._left = int(length[1]) if length else -1
        return rest

    def _read_whole(self, data: bytes) -> int:
        self._left = max(0, self._left - len(data))
        self.complete = self._left == 0
        self._end = (self._end + data)[-_KEPT:] if self.status != 200 else b""
        return 0

    def _read_stream(self, data: bytes) -> int:
        tokens = (self._end[-_SPLIT:] + data).count(TOKEN)
        self.tokens += tokens
        self._end = (self._end + data)[-_KEPT:]
        if self._end.endswith(_LAST_CHUNK):
            self.complete = True
            self.done = b"[DONE]" in self._end
        return tokens
