"""Who gets Ctrl-C: the program, not `make`. On a real pseudo-terminal, typed at as a person would."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
PROGRAM = """
import signal, sys, os
signal.signal(signal.SIGINT, lambda *_: (os.write(1, b"got INT\\n"), sys.exit({code})))
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"got TERM\\n"), sys.exit({code})))
os.write(1, b"up %d\\n" % os.getpid())  # not print(): a signal may interrupt it, and it cannot be entered twice
signal.pause()
"""
WRAPPER = """
import os, sys
from etc.tools.setup.foreground import run_in_foreground
code = run_in_foreground([sys.executable, "-c", {program!r}], dict(os.environ))
assert os.tcgetpgrp(0) == os.getpgrp()
print("taken back", flush=True)
sys.exit(code)
"""


OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """`make` in the foreground of a terminal of its own."""

    def __init__(self, folder: Path, code: int) -> None:
        (folder / "wrapper.py").write_text(WRAPPER.format(program=PROGRAM.format(code=code)))
        (folder / "Makefile").write_text(f"run:\n\t@exec {sys.executable} {folder}/wrapper.py\n")
        self.screen, keyboard = pty.openpty()
        self.make = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, "make", "--no-print-directory"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=keyboard,
            stdout=keyboard,
            stderr=keyboard,
            start_new_session=True,
        )
        os.close(keyboard)
        self.text = ""

    def read_until(self, text: str) -> str:
        while text not in self.text:
            self.text += os.read(self.screen, 4096).decode()
        return self.text

    def wait_for_program(self) -> int:
        """Until it is up and the terminal is its own; its pid."""
        pid = int(self.read_until("\n").split()[1])
        while os.tcgetpgrp(self.screen) != pid:
            os.sched_yield()
        return pid

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def end(self) -> int:
        """The rest of the screen is read; returns make's exit code."""
        try:
            while data := os.read(self.screen, 4096):
                self.text += data.decode()
        except OSError:  # Linux's way to say that nobody has the terminal any more
            pass
        os.close(self.screen)
        return self.make.wait()


def test_ctrl_c_stops_the_program_and_make_succeeds(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, code=0)
    terminal.wait_for_program()
    terminal.type(b"\x1a\x03")  # Ctrl-Z, which is ignored, and Ctrl-C
    assert terminal.end() == 0
    assert terminal.text.count("got INT") == 1
    assert "taken back" in terminal.text
    assert "***" not in terminal.text


def test_program_failure_fails_make(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, code=78)
    terminal.wait_for_program()
    terminal.type(b"\x03")
    assert terminal.end() == 2
    assert "Error 78" in terminal.text


def test_forwards_sigterm_once(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, code=0)
    terminal.wait_for_program()
    terminal.make.terminate()
    assert terminal.end() == -signal.SIGTERM
    assert terminal.text.count("got TERM") == 1


def test_killed_program_has_the_shells_exit_code(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, code=0)
    os.kill(terminal.wait_for_program(), signal.SIGKILL)
    assert terminal.end() == 2
    assert "Error 137" in terminal.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_execs_the_program_without_a_terminal(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "wrapper.py").write_text(WRAPPER.format(program=PROGRAM.format(code=5)))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "wrapper.py")]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"up {process.pid}\n"
        process.send_signal(number)
        assert process.wait() == 5
