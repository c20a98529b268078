"""The TCP sockets of this process. Granian opens them, and does not hand them out."""

import os
import socket
from collections.abc import Iterator


def tcp_sockets(port: int) -> Iterator[tuple[int, socket.socket]]:
    """The sockets whose own port is `port`: the descriptor of each, and a duplicate that is closed in the next step."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers are wanted, not paths
        if (copy := duplicate(int(name), port)) is not None:
            with copy:
                yield int(name), copy


def duplicate(descriptor: int, port: int) -> socket.socket | None:
    """None: it is no TCP socket of this port, or is closed by now. The duplicate stays what it is when another thread
    closes the descriptor and opens something else. Files are not duplicated: closing one ends the locks on it.
    """
    try:
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):  # noqa: PTH115 - half the time
            return None
        copy = socket.socket(fileno=os.dup(descriptor))
    except OSError:  # closed in between
        return None
    if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port:
        return copy
    copy.close()
    return None
