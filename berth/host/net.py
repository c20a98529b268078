"""TCP ports of this host."""

import socket


def bind_error(host: str, port: int) -> OSError | None:
    """Why no process can listen there now (socket.gaierror: the host does not resolve); None where one can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT does not count
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        return error
    return None
