"""Ports for servers under test."""

import os
import random
import socket
from typing import Final

# Below the range from which Linux takes the local ports of connections (from 32768): a port of that range, found free,
# may be some connection's local port by the time the server binds it. Above the ports that Berth gives to engines.
FIRST_PORT: Final = 30_000
LAST_PORT: Final = 32_700

# Test processes run side by side, and each has ports of its own: one that is found free here may be given there too,
# before anything listens on it.
_NUMBER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OWN: Final = range(FIRST_PORT + _NUMBER, LAST_PORT, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback that nothing listens on. None comes again before all others of this process."""
    while True:
        if len(_given) == len(_OWN):
            _given.clear()
        port = random.SystemRandom().choice(_OWN)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            finally:
                _given.add(port)
        return port
