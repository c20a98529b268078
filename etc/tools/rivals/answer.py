"""Reads HTTP answers just as far as the benchmark needs: where they end, and how many tokens are in them. Sans-io."""

import re
from typing import Final

from etc.tools.rivals.apis import CHAT, Api

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
# A short stream may come at once, with its length.
_STREAM: Final = re.compile(rb"\r\ncontent-type: *(?:text/event-stream|application/x-ndjson)", re.IGNORECASE)
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_KEPT: Final = 64  # bytes of the end, in which marks and the last chunk are looked for


class Answer:
    """One answer. `feed` returns how many tokens the bytes complete."""

    __slots__ = ("_api", "_end", "_head", "_left", "closes", "complete", "done", "is_stream", "status", "tokens")

    def __init__(self, api: Api = CHAT) -> None:
        self._api = api
        self.status = 0  # 0: the head has not come
        self.tokens = 0  # of a stream
        self.is_stream = False
        self.complete = False
        self.done = False  # a stream said that it is whole
        self.closes = False  # the connection carries no other answer
        self._head = b""
        self._left = 0  # bytes of a body of known length; -1: it comes in chunks
        self._end = b""

    def feed(self, data: bytes) -> int:
        if not self.status:
            data = self._read_head(data)
            if not self.status:
                return 0
        mark = self._api.mark
        tokens = (self._end[1 - len(mark) :] + data).count(mark)
        self.tokens += tokens if self.is_stream else 0
        both = self._end + data
        self.done = self.done or self._api.end in both
        self._end = both[-_KEPT:]
        if self._left < 0:
            self.complete = self._end.endswith(_LAST_CHUNK)
        else:
            self._left = max(0, self._left - len(data))
            self.complete = self._left == 0
        return tokens if self.is_stream else 0

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
        self.is_stream = length is None or _STREAM.search(head) is not None
        return rest
