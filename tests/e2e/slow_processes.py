"""Slows processes down: stops and continues them a hundred times a second."""

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import psutil

RUN_S, REST_S = 0.002, 0.018


def listeners(address: int | str) -> set[int]:
    """The processes that have this port, or this Unix socket, open: a server, and what it forked."""
    if isinstance(address, str):
        return {one.pid for one in psutil.net_connections("unix") if one.pid and str(one.laddr) == address}
    found = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    return {one.pid for one in found if one.pid and tuple(one.laddr)[-1:] == (address,)}


@contextmanager
def slow_down(pids: Collection[int], run_s: float = RUN_S) -> Iterator[None]:
    """Those that are killed meanwhile may be: their numbers are not used again so soon."""
    over = threading.Event()

    def pulse() -> None:
        while not over.is_set():
            send_signal(pids, signal.SIGSTOP)
            over.wait(REST_S)
            send_signal(pids, signal.SIGCONT)
            over.wait(run_s)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def send_signal(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
