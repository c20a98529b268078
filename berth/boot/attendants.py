"""Two small processes that boot leaves beside supervisord, for two of its habits. Both end by themselves.

1. It looks at its programs for the first time after a second of waiting, unless something happens: the waker makes
   something happen.
2. It opens its standard output anew, by name, for each program. A socket (systemd's journal) has no name, and another
   user's pipe or terminal may not be opened: the relay gives it a pipe of ours instead.

Neither keeps the `lock` of the run directory open, which tells whether supervisord lives.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

WAKE_S = 10.0
WAKE_STEP_S = 0.01
CHUNK_BYTES = 65536


def wake(socket_path: Path, lock: int) -> None:
    """Starts a process that connects to supervisord as soon as it listens, and ends."""
    if os.fork() == 0:
        os.close(lock)
        _knock(str(socket_path))


def _knock(path: str) -> NoReturn:
    deadline = time.monotonic() + WAKE_S
    with socket.socket(socket.AF_UNIX) as knocker:
        while knocker.connect_ex(path) != 0 and time.monotonic() < deadline:
            time.sleep(WAKE_STEP_S)
    os._exit(0)


def ensure_openable_stdout(lock: int) -> None:
    """Puts a pipe in the place of standard output if it cannot be opened by name."""
    sys.stdout.flush()
    try:
        os.close(os.open("/dev/fd/1", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY))
    except OSError:
        _interpose(lock)


def _interpose(lock: int) -> None:
    reader, writer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    if os.fork() == 0:  # it leaves these signals blocked: those to the group are meant for supervisord
        os.close(lock)
        os.close(writer)
        _relay(reader, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(reader)
    os.dup2(writer, 1)
    os.close(writer)


def _relay(reader: int, output: int) -> NoReturn:
    """Until the last writer is gone."""
    try:
        while data := os.read(reader, CHUNK_BYTES):
            while data:
                data = data[os.write(output, data) :]
    except OSError:  # nobody listens any more: what follows is lost, but the writers must not be held up
        while os.read(reader, CHUNK_BYTES):
            pass
    os._exit(0)
