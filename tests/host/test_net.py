"""Free and taken ports, at real sockets."""

import errno
import socket
from contextlib import closing

from berth.host.net import bind_error


def test_reports_why_an_address_cannot_be_bound() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        taken = bind_error("127.0.0.1", port)
    elsewhere = bind_error("192.0.2.77", port)
    assert taken is not None
    assert elsewhere is not None
    assert (taken.errno, elsewhere.errno) == (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
    assert isinstance(bind_error("no.such.host.invalid", port), socket.gaierror)


def test_port_of_a_closed_listener_is_free() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), closing(server.accept()[0]):
            pass
    assert bind_error("127.0.0.1", port) is None
