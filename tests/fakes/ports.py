"""Ports for servers under test."""

import random
import socket
from typing import Final

# Below the range from which Linux takes the local ports of connections (from 32768): a port of that range, found free,
# may be some connection's local port by the time the server binds it. Above the ports that Berth gives to engines.
FIRST_PORT: Final = 30_000
LAST_PORT: Final = 32_700

_random = random.SystemRandom()  # test processes run side by side
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback that nothing listens on. This process gets each port once."""
    while True:
        port = _random.randint(FIRST_PORT, LAST_PORT)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
