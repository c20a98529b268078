"""Engine logs: followed and written to the container's standard output, and shown by `berth logs`."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from berth.control.logs.load_progress import log_level, parse_bar
from berth.control.logs.tail import Position, ProgressBarFilter, Tail
from berth.errors import ControlError
from berth.log import LogFormat, foreign_line
from berth.plan import RunPaths, read_plan

KEPT_LINES = 400  # per replica, to diagnose a failure


class Output:
    """Standard output. If it is closed or its disk is full, lines are lost, which is reported once on stderr. That may
    be the same broken pipe.
    """

    def __init__(self, log_format: LogFormat, write: Callable[[str], object] | None = None) -> None:
        self._format = log_format
        self._write = write or _write_stdout
        self._broken = False

    def write(self, replica: str, lines: Iterable[str]) -> None:
        now = time.time()
        text = "".join(foreign_line(replica, line, self._format, now, log_level(line)) for line in lines)
        if not text:
            return
        try:
            self._write(text)
        except (OSError, ValueError) as error:
            if not self._broken and sys.stderr:
                self._broken = True
                with suppress(OSError, ValueError):
                    sys.stderr.write(
                        f"control: cannot write engine logs to stdout ({error}); their files are still written\n"
                    )
        else:
            self._broken = False


class Follower:
    """Follows the log of one replica: writes it to the output, keeps its last lines, and calls `on_line`.

    `position` is the end of what was written: lines that were only read when control dies are left to the next control.
    """

    def __init__(self, path: Path, replica: str, output: Output, on_line: Callable[[str], None]) -> None:
        self._tail = Tail(path)
        self._replica = replica
        self._output = output
        self._on_line = on_line
        self._filter = ProgressBarFilter()
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)
        self.position: Position | None = None

    def resume(self, position: Position | None) -> None:
        """Continues where the previous control stopped. The lines before are kept, but not written again."""
        self.recent.extend(line for line in self._tail.seek(position) if parse_bar(line) is None)
        self.position = self._tail.position

    def restart(self) -> None:
        """A new process starts: the lines of the previous one do not explain its failure."""
        self.recent.clear()
        self._filter = ProgressBarFilter()

    def catch_up(self) -> None:
        """Reads all that is in the file. Called after the process has exited."""
        self._process(self._tail.drain())

    def close(self) -> None:
        """Writes the remaining lines first."""
        self.catch_up()
        self._tail.close()

    async def follow(self, poll_s: float) -> None:
        while True:
            lines = self._tail.read()
            self._process(lines)
            await asyncio.sleep(0 if lines else poll_s)

    def _process(self, lines: list[str]) -> None:
        for line in lines:
            self._on_line(line)
        parsed = [(line, parse_bar(line)) for line in lines]
        self.recent.extend(line for line, bar in parsed if bar is None)
        self._output.write(self._replica, [line for line, bar in parsed if self._filter.passes(bar)])
        self.position = self._tail.position


def show(paths: RunPaths, replica: str | None, *, lines: int, follow: bool, poll_s: float = 0.25) -> int:
    """`berth logs`: the last lines of one replica, or of each, prefixed with its name. Returns the exit code."""
    known = replicas_with_log(paths)
    names = [replica] if replica else known
    if not names or (replica and replica not in known):
        what, found = f"of {replica!r}" if replica else "of any replica", ", ".join(known) or "none yet"
        raise ControlError(f"no log {what} in {str(paths.logs)!r}; known: {found}")
    with ExitStack() as stack:
        readers = [Reader(paths.replica_log(name), "" if replica else f"{name} | ") for name in names]
        for reader in readers:
            stack.callback(reader.tail.close)
            _write_stdout("".join(reader.last_lines(lines)))
        while follow:
            for reader in readers:
                _write_stdout("".join(reader.new_lines()))
            time.sleep(poll_s)
    return 0


class Reader:
    """One log for the terminal: its lines with a prefix, progress bars thinned out."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.tail = Tail(path, oldest=True)
        self._prefix = prefix
        self._filter = ProgressBarFilter()

    def last_lines(self, count: int) -> Iterable[str]:
        """Of the whole log, including rotated files; oldest first. Called before `new_lines`."""
        found: deque[str] = deque(maxlen=max(count, 0))
        while lines := self.tail.read():
            found.extend(self._format(lines))
        found.extend(self._format(self.tail.drain()))
        return found

    def new_lines(self) -> Iterable[str]:
        return self._format(self.tail.read())

    def _format(self, lines: Iterable[str]) -> Iterable[str]:
        return [f"{self._prefix}{line}\n" for line in lines if self._filter.passes(parse_bar(line))]


def replicas_with_log(paths: RunPaths) -> list[str]:
    """The replicas of the plan that have a log. ControlError without a plan."""
    plan = read_plan(paths.run_dir)
    return [replica.name for replica in plan.replicas if paths.replica_log(replica.name).exists()]


def _write_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
