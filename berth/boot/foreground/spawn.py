"""The two processes beside supervisord.

1. The foreground: boot's own process, which stays and listens to all programs. Each writes to a FIFO: it has a name, so
   that supervisord, which opens the output of each program by name, and the program itself can open it.
2. The waker: supervisord looks at its programs for the first time after a second of waiting, unless something happens.
   The waker makes something happen, and ends.

Neither keeps the `lock` of the run directory open, which tells whether supervisord lives.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from berth.boot.foreground.__main__ import PASSED_ON
from berth.plan import Plan
from berth.processes import channel, follow_parent

PROGRAMS = ("supervisord", "control", "router")
WAKE_S = 10.0
WAKE_STEP_S = 0.01


def stay(plan: Plan, environ: Mapping[str, str], lock: int) -> None:
    """Returns in a child, which is to become supervisord; this process stays in the foreground, with this environment,
    and never returns.
    """
    readers = {path: _make(path) for path in (channel(plan.paths, program) for program in PROGRAMS)}
    parent = os.getpid()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        follow_parent(parent)
        _speak(channel(plan.paths, PROGRAMS[0]), readers.values())
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until it can pass them on
    os.close(lock)
    listened = [f"{path}={reader}" for path, reader in readers.items()]
    argv = [sys.executable, "-X", "utf8", "-P", "-m", "berth.boot.foreground", plan.logs.format, str(child), *listened]
    os.execve(argv[0], argv, dict(environ))  # noqa: S606 - no shell is wanted


def _make(path: Path) -> int:
    """A new FIFO, open for reading, also after execve."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_inheritable(reader, True)
    return reader


def _speak(path: Path, readers: Iterable[int]) -> None:
    """In the child: what it says comes through its FIFO, and Ctrl-C is its parent's."""
    os.setpgid(0, 0)
    writer = os.open(path, os.O_WRONLY)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    for descriptor in (writer, *readers):
        os.close(descriptor)


def wake(socket_path: Path, lock: int) -> None:
    """Starts a process that connects to supervisord as soon as it listens, and ends."""
    if os.fork() == 0:
        for descriptor in (lock, 1, 2):  # nobody is to wait for its end
            os.close(descriptor)
        _knock(str(socket_path))


def _knock(path: str) -> NoReturn:
    deadline = time.monotonic() + WAKE_S
    with socket.socket(socket.AF_UNIX) as knocker:
        while knocker.connect_ex(path) != 0 and time.monotonic() < deadline:
            time.sleep(WAKE_STEP_S)
    os._exit(0)
