"""The engines' logs: followed and shown on the container's standard output; and `berth logs`."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from berth.control.load_progress import bar, level
from berth.control.log_tail import Position, Tail, Thinner
from berth.errors import ControlError
from berth.log import LogFormat, foreign_line
from berth.plan import RunPaths, read_plan

KEPT_LINES = 400  # of each replica, to explain its death with


class Output:
    """Standard output. When it is closed or its disk is full, lines are lost, and that is told once on stderr."""

    def __init__(self, log_format: LogFormat, write: Callable[[str], object] | None = None) -> None:
        self._format = log_format
        self._write = write or _stdout
        self._broken = False

    def show(self, replica: str, lines: Iterable[str]) -> None:
        now = time.time()
        text = "".join(foreign_line(replica, line, self._format, now, level(line)) for line in lines)
        if not text:
            return
        try:
            self._write(text)
        except (OSError, ValueError) as error:
            self._complain(error)
        else:
            self._broken = False

    def _complain(self, error: Exception) -> None:
        if not self._broken and sys.stderr:
            self._broken = True
            sys.stderr.write(f"control: engine logs cannot be shown any more ({error}); they are still kept as files\n")


class Follower:
    """One replica's log: shown, kept for the explanation of a death, and handed on line by line.

    `position` is behind what was shown: what is read and not shown yet when control dies is its successor's.
    """

    def __init__(self, path: Path, replica: str, output: Output, heard: Callable[[str], None]) -> None:
        self._tail = Tail(path)
        self._replica = replica
        self._output = output
        self._heard = heard
        self._thinner = Thinner()
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)
        self.position: Position | None = None

    def resume(self, position: Position | None) -> None:
        """Goes on where another control was; the lines before are only remembered."""
        self.recent.extend(line for line in self._tail.seek(position) if bar(line) is None)
        self.position = self._tail.position

    def begin(self) -> None:
        """A new process starts: what the last one said does not explain this one's death."""
        self.recent.clear()
        self._thinner = Thinner()

    def catch_up(self) -> None:
        """All that is in the file by now; called when the process has ended."""
        self._take(self._tail.drain())

    def close(self) -> None:
        """Shows what is left."""
        self.catch_up()
        self._tail.close()

    async def follow(self, poll_s: float) -> None:
        while True:
            lines = self._tail.read()
            self._take(lines)
            await asyncio.sleep(0 if lines else poll_s)

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            self._heard(line)
        self.recent.extend(line for line in lines if bar(line) is None)
        self._output.show(self._replica, [line for line in lines if self._thinner.wanted(line)])
        self.position = self._tail.position


def show(paths: RunPaths, replica: str | None, *, lines: int, follow: bool, poll_s: float = 0.25) -> int:
    """`berth logs`: the last lines of one replica, or of each with its name in front. Returns the exit code."""
    names = [replica] if replica else known(paths)
    if not names or (replica and replica not in known(paths)):
        raise ControlError(_nothing(paths, replica))
    with ExitStack() as stack:
        readers = [Reader(paths.replica_log(name), "" if replica else f"{name} | ") for name in names]
        for reader in readers:
            stack.callback(reader.tail.close)
            _print(reader.last_lines(lines))
        while follow:
            for reader in readers:
                _print(reader.news())
            time.sleep(poll_s)
    return 0


class Reader:
    """One log for people: its lines with a prefix, progress bars thinned out."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.tail = Tail(path, oldest=True)
        self._prefix = prefix
        self._thinner = Thinner()

    def last_lines(self, count: int) -> Iterable[str]:
        """Of all that is there, rotated files included; oldest first. Called first."""
        found: deque[str] = deque(maxlen=max(count, 0))
        while lines := self.tail.read():
            found.extend(self._wanted(lines))
        found.extend(self._wanted(self.tail.drain()))
        return found

    def news(self) -> Iterable[str]:
        return self._wanted(self.tail.read())

    def _wanted(self, lines: Iterable[str]) -> Iterable[str]:
        return [f"{self._prefix}{line}\n" for line in lines if self._thinner.wanted(line)]


def known(paths: RunPaths) -> list[str]:
    """The replicas of the plan that have a log. ControlError where there is no plan."""
    plan = read_plan(paths.run_dir)
    return [replica.name for replica in plan.replicas if paths.replica_log(replica.name).exists()]


def _print(lines: Iterable[str]) -> None:
    sys.stdout.writelines(lines)
    sys.stdout.flush()


def _nothing(paths: RunPaths, replica: str | None) -> str:
    names = ", ".join(known(paths)) or "none yet"
    return f"no log of {replica or 'any replica'!r} in {str(paths.logs)!r}. There are: {names}"


def _stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
