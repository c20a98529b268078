"""Makes processes slow: they are stopped and let go on again, a hundred times a second."""

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import psutil

RUN_S, REST_S = 0.002, 0.018


def listeners(port: int) -> set[int]:
    """The processes that have this port open: a server, and what it forked."""
    found = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    return {one.pid for one in found if one.pid and tuple(one.laddr)[-1:] == (port,)}


@contextmanager
def slowed(pids: Collection[int]) -> Iterator[None]:
    """Those that are killed meanwhile may be: their numbers are not used again so soon."""
    over = threading.Event()

    def pulse() -> None:
        while not over.is_set():
            tell(pids, signal.SIGSTOP)
            over.wait(REST_S)
            tell(pids, signal.SIGCONT)
            over.wait(RUN_S)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tell(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
