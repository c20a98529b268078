"""An HTTP/2 client on a raw socket: several requests on one connection, of which any can be reset or left unread."""

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_CANCEL = 8
_INITIAL_WINDOW = 4  # of SETTINGS
_MOST: Final = 2**31 - 1 - 65535  # a connection's window cannot be larger


class Http2:
    """`bodies` has what came of each response, `ends` how it ended: "end", or "reset" by the server."""

    def __init__(self, port: int, cert: str, *, window: int = 1 << 20) -> None:
        """`window`: what a stream may send before it is read."""
        context = ssl.create_default_context(cafile=cert)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._buffer = b""
        self._next = 1
        self.bodies: dict[int, bytes] = {}
        self.ends: dict[int, str] = {}
        self.unread: set[int] = set()  # streams whose windows are not opened again
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(_SETTINGS, struct.pack(">HI", _INITIAL_WINDOW, window))
        self._send(_WINDOW_UPDATE, struct.pack(">I", _MOST))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._socket.close()

    def post(self, path: str, document: dict[str, Any]) -> int:
        """Returns the number of the stream."""
        stream, self._next = self._next, self._next + 2
        body = json.dumps(document).encode()
        fields = {":method": "POST", ":scheme": "https", ":authority": "localhost", ":path": path}
        fields |= {"content-type": "application/json", "content-length": str(len(body))}
        self.bodies[stream] = b""
        self._send(_HEADERS, b"".join(_literal(*field) for field in fields.items()), _END_HEADERS, stream)
        self._send(_DATA, body, _END_STREAM, stream)
        return stream

    def reset(self, stream: int) -> None:
        self._send(_RST_STREAM, struct.pack(">I", _CANCEL), stream=stream)

    def open(self, stream: int) -> None:
        """Opens the window of an unread stream again, wide."""
        self.unread.discard(stream)
        self._send(_WINDOW_UPDATE, struct.pack(">I", 1 << 24), stream=stream)

    def read_until(self, condition: Callable[[], bool], timeout_s: float = 30) -> None:
        """ConnectionError if the server closes the connection before."""
        ends = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < ends, f"not within {timeout_s} s: {self.ends}"
            self._socket.settimeout(0.1)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise ConnectionError("the server has closed the connection")
            self._buffer += data
            while len(self._buffer) >= 9 and len(self._buffer) >= (size := 9 + int.from_bytes(self._buffer[:3])):
                frame, self._buffer = self._buffer[:size], self._buffer[size:]
                self._frame(frame[3], frame[4], int.from_bytes(frame[5:9]), frame[9:])

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._send(kind, payload if kind == _PING else b"", _ACK)
        elif kind == _DATA:
            self.bodies[stream] += payload
            if payload and stream not in self.unread:
                self._send(_WINDOW_UPDATE, struct.pack(">I", len(payload)), stream=stream)
        if kind == _RST_STREAM:
            self.ends[stream] = "reset"
        elif kind in {_DATA, _HEADERS} and flags & _END_STREAM:
            self.ends[stream] = "end"

    def _send(self, kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> None:
        self._socket.sendall(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)


def _literal(name: str, value: str) -> bytes:
    """A header field as HPACK allows it without tables and Huffman codes."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
