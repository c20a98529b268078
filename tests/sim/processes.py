"""`berth sim` as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
READY = re.compile(r"Uvicorn running on http://127\.0\.0\.1:(\d+)")


@dataclass(slots=True)
class Sim:
    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)

    def until(self, pattern: str) -> str:
        """Reads the log up to the line that has it; AssertionError where it ends before."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return self.lines[-1]
        raise AssertionError("\n".join(self.lines))

    def port(self) -> int:
        found = READY.search(self.until(READY.pattern))
        assert found
        return int(found[1])

    def rest(self) -> list[str]:
        """Everything up to the end of the log."""
        assert self.process.stderr is not None
        self.lines += [line.rstrip("\n") for line in self.process.stderr]
        return self.lines

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def code(self, timeout_s: float = 5.0) -> int:
        return self.process.wait(timeout_s)


@contextmanager
def sim(*arguments: str, port: int = 0) -> Iterator[Sim]:
    """Stopped at the end if it still runs, with whatever it has started."""
    command = [sys.executable, "-m", "berth", "sim", "--port", str(port), "--ttft", "0", "--itl", "0", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            yield Sim(process)
        finally:
            end(process)
            for left in _session(process.pid):
                left.kill()


def end(process: "subprocess.Popen[str]") -> None:
    """Kindly first, so that its coverage is not lost."""
    process.terminate()
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()


def orphans(session: int) -> list[int]:
    """Who is left of a session whose leader is gone."""
    return [process.pid for process in _session(session)]


def _session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.pid != session:
                found.append(process)
        except ProcessLookupError:
            continue
    return found
