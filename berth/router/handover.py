"""How a router worker hands over to its successor (`berth reload`) without losing a request.

Granian closes a worker's listening socket and its idle connections at the same moment. A request that a client sends
just then meets a closed connection: a new one that was accepted and not yet read, or an idle one on which the next
request was under way. So a worker first steers new connections away from itself, and its responses make the clients
close the idle ones (RFC 9112, 9.6). Only LEAVE_S later it closes the rest.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from starlette.types import Message, Send

from berth.log import log

LEAVE_S: Final = 1.0  # a connection without a request for so long is idle, and may be closed
_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # linux/asm-generic/socket.h; Python does not name it
_RETURN_CONSTANT: Final = 0x06  # BPF_RET | BPF_K of linux/bpf_common.h
_CLOSE: Final = (b"connection", b"close")


def prefer_newest(port: int, workers: int) -> bool:
    """From now on new connections to `port` reach the worker that began to listen last, as long as there are more than
    `workers` of them: called by an old worker whose successor listens. Returns whether the kernel accepted it.

    The sockets of SO_REUSEPORT are a list in the order in which they began to listen, and the program returns the index
    of the one to use. An index beyond the list means the usual choice, by hash: so nothing needs to be undone. (man 7
    socket, SO_ATTACH_REUSEPORT_CBPF; Linux 4.5)
    """
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", _RETURN_CONSTANT, 0, 0, workers))
    program = struct.pack("@HP", 1, ctypes.addressof(instruction))
    accepted = False
    for listener in _listeners(port):
        with listener:
            try:
                listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
                accepted = True
            except OSError as exc:
                log.debug("cannot steer new connections", error=str(exc))
    return accepted


def closing_connections(send: Send) -> Send:
    """`send`, whose responses make the client open a new connection for its next request."""

    def sent(message: Message) -> Awaitable[None]:  # not async: InflightRequest.push needs the type of the result
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], _CLOSE]}
        return send(message)

    return sent


def _listeners(port: int) -> Iterator[socket.socket]:
    """Duplicates of this process's sockets that listen on `port`: Granian does not hand out its own."""
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not str(link.readlink()).startswith("socket:"):
                continue
            copy = socket.socket(fileno=os.dup(int(link.name)))
        except OSError:  # closed in between
            continue
        listens = False
        with suppress(OSError):
            listens = (
                copy.family in (socket.AF_INET, socket.AF_INET6)
                and bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                and copy.getsockname()[1] == port
            )
        if listens:
            yield copy
        else:
            copy.close()
