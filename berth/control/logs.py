"""The engines' logs: followed and shown on the container's standard output; and `berth logs`."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import orjson

from berth.control.progress import bar
from berth.control.tail import Position, Tail, Thinner, whole_log
from berth.errors import ControlError
from berth.log import LogFormat
from berth.plan import Plan, RunPaths

KEPT_LINES = 400  # of each replica, to explain its death with


class Output:
    """Standard output. When it is closed or its disk is full, lines are lost, and that is told once on stderr."""

    def __init__(self, log_format: LogFormat, write: Callable[[str], object] | None = None) -> None:
        self._format = log_format
        self._write = write or _stdout
        self._broken = False

    def show(self, replica: str, lines: Iterable[str]) -> None:
        text = "".join(self._line(replica, line) for line in lines)
        if not text:
            return
        try:
            self._write(text)
        except (OSError, ValueError) as error:
            self._complain(error)
        else:
            self._broken = False

    def _line(self, replica: str, line: str) -> str:
        if self._format == "json":
            return orjson.dumps({"program": replica, "line": line}).decode() + "\n"
        return f"{replica} | {line}\n"

    def _complain(self, error: Exception) -> None:
        if not self._broken and sys.stderr:
            self._broken = True
            sys.stderr.write(f"control: engine logs cannot be shown any more ({error}); they are still kept as files\n")


class Follower:
    """One replica's log: shown, kept for the explanation of a death, and handed on line by line."""

    def __init__(self, path: Path, replica: str, output: Output, heard: Callable[[str], None]) -> None:
        self.tail = Tail(path)
        self._replica = replica
        self._output = output
        self._heard = heard
        self._thinner = Thinner()
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)

    def take(self, lines: list[str]) -> list[str]:
        """Notes the lines, and returns those that are to be shown."""
        for line in lines:
            self._heard(line)
        self.recent.extend(line for line in lines if bar(line) is None)
        return [line for line in lines if self._thinner.wanted(line)]

    def resume(self, position: Position | None) -> None:
        """Goes on where another control was; the lines before are only remembered."""
        self.recent.extend(line for line in self.tail.seek(position) if bar(line) is None)

    def begin(self) -> None:
        """A new process starts: what the last one said does not explain this one's death."""
        self.recent.clear()
        self._thinner = Thinner()

    def catch_up(self) -> None:
        """All that is in the file by now; called when the process has ended."""
        self._output.show(self._replica, self.take(self.tail.drain()))

    def close(self) -> None:
        """Shows what is left."""
        self.catch_up()
        self.tail.close()

    async def follow(self, poll_s: float) -> None:
        while True:
            lines = self.tail.read()
            if shown := self.take(lines):  # in a thread: a terminal that is not read blocks the writer
                await asyncio.to_thread(self._output.show, self._replica, shown)
            await asyncio.sleep(0 if lines else poll_s)


def show(paths: RunPaths, replica: str | None, *, lines: int, follow: bool, poll_s: float = 0.25) -> int:
    """`berth logs`: the last lines of one replica, or of each with its name in front. Returns the exit code."""
    names = [replica] if replica else known(paths)
    if not names or (replica and replica not in known(paths)):
        raise ControlError(_nothing(paths, replica))
    tails = {}
    for name in names:
        prefix = "" if replica else f"{name} | "
        sys.stdout.writelines(f"{prefix}{line}\n" for line in last_lines(paths.replica_log(name), lines))
        tails[prefix] = Tail(paths.replica_log(name))
        tails[prefix].drain()
    sys.stdout.flush()
    try:
        while follow:
            _print_news(tails)
            time.sleep(poll_s)
    finally:
        for tail in tails.values():
            tail.close()
    return 0


def known(paths: RunPaths) -> list[str]:
    """The replicas of the plan that have a log. ControlError where there is no plan."""
    try:
        plan = Plan.from_json(paths.plan.read_bytes())
    except (OSError, ValueError) as error:
        advice = "start Berth, or set BERTH_RUN_DIR to where it runs"
        raise ControlError(f"{str(paths.plan)!r} cannot be read: {error}; {advice}") from error
    return [replica.name for replica in plan.replicas if paths.replica_log(replica.name).exists()]


def last_lines(path: Path, count: int) -> list[str]:
    """Oldest first, progress bars thinned out."""
    found: deque[str] = deque(maxlen=max(count, 0))
    thinner = Thinner()
    found.extend(line for line in whole_log(path) if thinner.wanted(line))
    return list(found)


def _print_news(tails: dict[str, Tail]) -> None:
    for prefix, tail in tails.items():
        sys.stdout.writelines(f"{prefix}{line}\n" for line in tail.read())
    sys.stdout.flush()


def _nothing(paths: RunPaths, replica: str | None) -> str:
    names = ", ".join(known(paths)) or "none yet"
    return f"no log of {replica or 'any replica'!r} in {str(paths.logs)!r}. There are: {names}"


def _stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
