"""What explains the death of an engine: its log, the signal that ended it, and the kernel's count of kills.

The kernel may kill one of the engine's processes, and the leader dies of that later: a kill explains the deaths of
the minute after it, once.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from berth.control.misfortune import HOPELESS_EXITS, Failure, explain
from berth.control.oom import Counters, Kills, cause
from berth.control.supervisor import Process, Supervisor
from berth.errors import ControlError

WINDOW_S = 60.0

Dead = tuple[str, Process | None, Iterable[str]]  # a replica, its process, and the last lines of its log


class Deaths:
    """Remembers the kernel's counters for as long as they may explain something."""

    def __init__(self, supervisor: Supervisor, read: Callable[[], Kills] | None = None) -> None:
        self._supervisor = supervisor
        self._read = read or Counters().read
        self._seen: deque[tuple[float, Kills]] = deque()

    @property
    def latest(self) -> Kills | None:
        """For the notes: kills while no control runs are counted too."""
        return self._seen[-1][1] if self._seen else None

    def look(self, now: float, known: Kills | None = None) -> None:
        """Called every few seconds, and once with what the control before knew."""
        self._seen.append((now, known or self._read()))
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    async def explain(self, dead: Iterable[Dead], now: float) -> dict[str, Failure]:
        """The failure of each replica that was found dead at one look."""
        self.look(now)
        memory = cause(self._seen[0][1], self._seen[-1][1])
        failures = {name: await self._explain(name, process, lines, memory) for name, process, lines in dead}
        if any(failure.out_of_memory for failure in failures.values()):
            self._seen = deque([self._seen[-1]])  # it does not explain what dies later
        return failures

    async def _explain(self, name: str, process: Process | None, lines: Iterable[str], memory: str) -> Failure:
        found = explain(lines)
        code = process.exit_code if process else None
        if code in HOPELESS_EXITS or (process and process.never_ran):
            return found
        return replace(found, out_of_memory=memory, signal=await self._signal(name) if code == -1 else "")

    async def _signal(self, name: str) -> str:
        try:
            return await self._supervisor.last_signal(name)
        except ControlError:  # it is just as dead without
            return ""
