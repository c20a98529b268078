"""The two processes next to supervisord.

1. The foreground: boot's own process, which stays and reads the output of all programs. Each program writes to a FIFO,
   since supervisord opens its programs' output by name.
2. The waker: supervisord first looks at its programs after a second of waiting, unless something happens. The waker
   connects to its socket, and ends.

Neither keeps the `lock` of the run directory open: the lock shows whether supervisord is alive.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from berth.boot.foreground.__main__ import FORWARDED
from berth.plan import Plan
from berth.processes import channel, follow_parent

PROGRAMS = ("supervisord", "control", "router", "tracer")
WAKE_S = 10.0
WAKE_STEP_S = 0.01


def stay(plan: Plan, environ: Mapping[str, str], lock: int) -> None:
    """Returns in a child, which is to become supervisord. This process becomes the foreground process, with this
    environment, and never returns.
    """
    readers = {}
    for path in (channel(plan.paths, program) for program in PROGRAMS):
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        readers[path] = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_inheritable(readers[path], True)  # it stays open after execve
    parent = os.getpid()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        follow_parent(parent)
        os.setpgid(0, 0)  # Ctrl-C goes to the foreground process alone
        writer = os.open(channel(plan.paths, PROGRAMS[0]), os.O_WRONLY)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        for descriptor in (writer, *readers.values()):
            os.close(descriptor)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until it can forward them
    os.close(lock)
    words = [f"{path}={reader}" for path, reader in readers.items()]
    argv = [sys.executable, "-X", "utf8", "-P", "-m", "berth.boot.foreground", plan.logs.format, str(child)]
    argv += [str(plan.paths.heartbeats), *words]
    os.execve(argv[0], argv, dict(environ))  # noqa: S606 - no shell is wanted


def wake(socket_path: Path, lock: int) -> None:
    """Starts a process that connects to supervisord as soon as it listens, and ends."""
    if os.fork():
        return
    for descriptor in (lock, 1, 2):  # no other process waits for its end
        os.close(descriptor)
    deadline = time.monotonic() + WAKE_S
    with socket.socket(socket.AF_UNIX) as connection:
        while connection.connect_ex(str(socket_path)) != 0 and time.monotonic() < deadline:
            time.sleep(WAKE_STEP_S)
    os._exit(0)
