"""What is drawn below the log on a terminal: a line for each engine that is starting, with its progress.

The log scrolls above it. Where the output is no terminal, there are only the lines of the log.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from berth.boot.foreground.stdout_writer import StdoutWriter
from berth.time_left import Usual, left_s, words

_COMING: Final = ("waiting", "starting", "waking")
_CELLS: Final = 20
_LOOK_S: Final = 0.5
_GIB: Final = 2**30


def lines(state: Any, now: float) -> list[str]:
    """The block for a State as JSON. Pure; `now`: Unix seconds."""
    coming = [one for one in state["replicas"] if one["status"] in _COMING]
    width = max((len(one["name"]) for one in coming), default=0)
    found = []
    for one in coming:
        progress = one.get("progress") or {}
        phase, percent, took_s = progress.get("phase", ""), progress.get("percent"), max(0.0, now - one["since"])
        bar = " " * (_CELLS + 9)
        if percent is not None:
            full = round(percent / 100 * _CELLS)
            bar = f"[{'#' * full}{'.' * (_CELLS - full)}] {percent:3.0f} % "
        sizes = ""
        if total := progress.get("total_bytes"):
            sizes = f"{progress['done_bytes'] / _GIB:.1f}/{total / _GIB:.1f} GiB, "
        usual = Usual(one.get("expected_s"), one.get("expected_phases") or {})
        seconds = left_s(usual, phase, percent, took_s) if one["status"] != "waiting" else None
        left = "" if seconds is None else f", about {words(seconds)} left"
        if left and usual.seconds is None:
            left += " of the download"
        found.append(f"  {one['name']:{width}}  {phase or one['status']:9} {bar} {sizes}{words(took_s)}{left}")
    return found


class BlockWriter(StdoutWriter):
    """Writes log lines above the block. `put` is also called without any, at least once a second."""

    def __init__(self, descriptor: int, lost: Callable[[int], str], state: Path) -> None:
        super().__init__(descriptor, lost)
        self._terminal = descriptor
        self._state = state
        self._shown: list[str] = []
        self._block: list[str] = []
        self._next_look = 0.0

    def put(self, text: str) -> None:
        if (now := time.monotonic()) >= self._next_look:
            self._next_look = now + _LOOK_S
            with suppress(OSError, ValueError):  # the State is not there yet, or is being replaced
                columns, rows = os.get_terminal_size(self._terminal)
                found = lines(json.loads(self._state.read_bytes()), time.time())
                self._block = [line[: (columns or 80) - 1] for line in found[: (rows or 24) // 2]]  # 0: it does not say
        if text or self._block != self._shown:
            super().put(self._erased() + text + "".join(f"{line}\n" for line in self._block))
            self._shown = self._block

    def close(self, timeout_s: float = 2.0) -> None:
        super().put(self._erased())
        super().close(timeout_s)

    def _erased(self) -> str:
        return f"\033[{len(self._shown)}A\r\033[J" if self._shown else ""


def has_terminal(descriptor: int, term: str) -> bool:
    """A terminal that can erase lines."""
    return os.isatty(descriptor) and term not in ("", "dumb")
