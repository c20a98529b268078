"""The engine of the benchmark: `python -m etc.tools.rivals.fake_upstream --port PORT`.

It knows every response in advance.

A POST that asks for a stream gets one at the pace that its message names; any other POST is answered at once. Several
of these programs can share a port.
"""

import argparse
import asyncio
import re
import socket
from typing import Final, cast

import uvloop

from etc.tools.rivals import frames
from etc.tools.rivals.frames import Pace

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_STREAM: Final = re.compile(rb'"stream": ?true')
_USAGE: Final = re.compile(rb'"include_usage": ?true')


class Answers(asyncio.Protocol):
    """One connection, on which one request follows the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received = b""
        self._pace = Pace.in_request(b"")
        self._with_usage = False
        self._began = 0.0
        self._sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if blank and is_whole(head, body):
            self._received = b""
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST"):
            self._write(frames.MODELS if head.startswith(b"GET /v1/models ") else frames.OTHER)
        elif _STREAM.search(body):
            self._begin(body)
        else:
            self._write(frames.SHORT_ANSWER)

    def _begin(self, body: bytes) -> None:
        self._pace = Pace.in_request(body)
        self._with_usage = _USAGE.search(body) is not None
        self._began = self._loop.time()
        self._sent = 0
        self._wait()

    def _wait(self) -> None:
        self._timer = self._loop.call_at(self._began + self._pace.due_s(self._sent), self._next)

    def _next(self) -> None:
        """The next token; the first brings the head along, the last the end."""
        opening = b"" if self._sent else frames.START + frames.ROLE
        self._write(opening + frames.TOKENS[self._sent % len(frames.TOKENS)])
        self._sent += 1
        if self._sent < self._pace.tokens:
            self._wait()
        else:
            usage = frames.USAGE if self._with_usage else b""
            self._write(frames.FINISH + usage + frames.DONE + frames.END)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def is_whole(head: bytes, body: bytes) -> bool:
    """Whether the body of a request is there, to its end."""
    announced = _LENGTH.search(head)
    if announced:
        return len(body) >= int(announced[1])
    return body.endswith(frames.END) if _CHUNKED.search(head) else True


async def serve(listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(Answers, sock=listener, backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", parser.parse_args().port))
    uvloop.run(serve(listener))


if __name__ == "__main__":
    main()
