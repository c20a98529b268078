"""What the host's processors and Berth's own programs use, from /proc."""

from pathlib import Path
from typing import Any, Final

from berth.ipc.heartbeats import CONTROL, ROUTER, read_rows
from berth.proc_stat import PROC, rss_bytes

_IDLE: Final = (3, 4)  # idle and iowait, among the numbers of /proc/stat


class HostUsage:
    def __init__(self, heartbeats: Path) -> None:
        self._heartbeats = heartbeats
        self._before = self._ticks()

    def document(self) -> dict[str, Any]:
        """`cpu`: the share of all processors that was busy since the last call; None: unknown. `rss`: bytes."""
        before, after = self._before, self._ticks()
        self._before = after
        total = after[1] - before[1]
        rows = read_rows(self._heartbeats)
        programs = {"control": rows[CONTROL : CONTROL + 1], "router": rows[ROUTER:]}
        return {
            "cpu": round((after[0] - before[0]) / total, 3) if total > 0 else None,
            "rss": {name: sum(rss_bytes(row.pid) for row in own if row.stat()) for name, own in programs.items()},
        }

    def _ticks(self) -> tuple[int, int]:
        """Busy, and all."""
        numbers = [int(word) for word in Path(PROC, "stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        return sum(numbers) - sum(numbers[place] for place in _IDLE), sum(numbers)
