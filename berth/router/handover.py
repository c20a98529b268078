"""How a router worker hands over to its successor (`berth reload`) without losing a request.

Granian closes a worker's listening socket and its idle connections at the same moment. A request that a client sends
just then meets a closed connection: a new one that was accepted and not yet read, or an idle one on which the next
request was under way. So a worker first steers new connections away from itself, and its responses make the clients
close the idle ones (RFC 9112, 9.6). Only LEAVE_S later it closes the rest.
"""

import ctypes
import socket
import struct
from typing import Final

from berth.log import log
from berth.router.sockets import tcp_sockets

LEAVE_S: Final = 1.0  # a connection without a request for so long is idle, and may be closed
_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # linux/asm-generic/socket.h; Python does not name it
_RETURN_CONSTANT: Final = 0x06  # BPF_RET | BPF_K of linux/bpf_common.h


def prefer_newest(port: int, workers: int) -> bool:
    """From now on new connections to `port` reach the worker that began to listen last, as long as there are more than
    `workers` of them: called by an old worker whose successor listens. Returns whether the kernel accepted it.

    New listeners come last in the kernel's list, and until then the index of the newest is beyond it: so nothing needs
    to be undone.
    """
    return choose_listener(port, workers)


def choose_listener(port: int, index: int) -> bool:
    """From now on new connections to `port` reach the listener that has this index in the kernel's list of those that
    share the port by SO_REUSEPORT. An index beyond the list means the usual choice, by hash. Returns whether the kernel
    accepted it. (man 7 socket, SO_ATTACH_REUSEPORT_CBPF; Linux 4.5)
    """
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", _RETURN_CONSTANT, 0, 0, index))
    program = struct.pack("@HP", 1, ctypes.addressof(instruction))
    accepted = False
    try:
        for _, listener in tcp_sockets(port):
            if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
                accepted = True
    except OSError as exc:  # an old kernel, or no free descriptor
        log.debug("cannot steer new connections", error=str(exc))
    return accepted
