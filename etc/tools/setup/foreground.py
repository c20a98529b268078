"""Runs a program in the foreground of the terminal, so that Ctrl-C reaches the program and not `make` as well.

`make` that gets a Ctrl-C dies of it, however well its child ends. As shells do, the program gets a process group of its
own and the terminal with it; `make` then sees a child that ended with its own exit code.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType


def run_in_foreground(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The program's exit code. There are two cases:

    1. We own a terminal: the program gets it for as long as it runs.
    2. We don't (CI, a background job): the program takes our place, and this never returns.
    """
    terminal = own_terminal()
    if terminal is None:
        os.execve(argv[0], list(argv), dict(environ))  # noqa: S606 - no shell is meant
    try:
        return _run(argv, environ, terminal)
    finally:
        os.close(terminal)


def own_terminal() -> int | None:
    """The controlling terminal, if our process group is the one in its foreground."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if os.tcgetpgrp(terminal) == os.getpgrp():
        return terminal
    os.close(terminal)
    return None


def _run(argv: Sequence[str], environ: Mapping[str, str], terminal: int) -> int:
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # Ctrl-Z would stop the program and leave `make` waiting
    with subprocess.Popen(argv, env=environ, process_group=0) as program, _handed(terminal, program.pid):
        _pass_on(program)
        code = program.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _handed(terminal: int, group: int) -> Iterator[None]:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # we take it back from the background
    os.tcsetpgrp(terminal, group)
    try:
        yield
    finally:
        os.tcsetpgrp(terminal, os.getpgrp())


def _pass_on(program: subprocess.Popen[bytes]) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        program.terminate()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a closed terminal is an end too
        signal.signal(number, end)
