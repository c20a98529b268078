"""Progress of a long job: one line that is rewritten on a terminal, else a complete line per step.

tqdm formats the lines, and `control` parses them like those of the engines. tqdm's own bar is not used: without a
terminal it writes carriage returns, of which a log makes one endless line.
"""

import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

STEP_S = 5.0  # at least, between two plain lines; each at least one percent further
TERMINAL_STEP_S = 0.2
CLEAR_LINE = "\r\x1b[K"


class ProgressBar:
    """One job, as in `NAME:  12%|#         | 482M/3.95G [00:03<00:21, 160MB/s]`."""

    def __init__(self, name: str, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._out = out
        self._clock = clock
        self._terminal = out.isatty()
        self._started = self._shown_at = clock()
        self._shown_bytes = 0
        self._percent = -1

    def show(self, done: int, total: int) -> None:
        """Prints the first call and then one per step; 100 % is reserved for `finish`."""
        percent = min(99, 100 * done // max(total, 1))
        since_s = self._clock() - self._shown_at
        due = since_s >= TERMINAL_STEP_S if self._terminal else percent > self._percent and since_s >= STEP_S
        if due or self._percent < 0:
            self._print(percent, done, total)

    def finish(self, total: int) -> None:
        self._print(100, total, total)
        if self._terminal:
            self._out.write("\n")

    def report(self, text: str) -> None:
        """Prints a line between the steps."""
        self._out.write(f"{CLEAR_LINE if self._terminal else ''}{text}\n")
        self._out.flush()

    def _print(self, percent: int, done: int, total: int) -> None:
        now = self._clock()
        rate = 0.0 if self._percent < 0 else max(done - self._shown_bytes, 0) / max(now - self._shown_at, 1e-3)
        text = tqdm.format_meter(
            done,
            total,
            now - self._started,
            prefix=self._name,
            ascii=" #",
            unit="B",
            unit_scale=True,
            rate=rate,
            bar_format=f"{{desc}}: {percent:3d}%|{{bar:10}}| {{n_fmt}}/{{total_fmt}} "
            "[{elapsed}<{remaining}, {rate_noinv_fmt}]",
        )
        self._percent, self._shown_at, self._shown_bytes = percent, now, done
        self._out.write(f"{CLEAR_LINE}{text}" if self._terminal else f"{text}\n")
        self._out.flush()


def amount(count: int) -> str:
    """Bytes with three digits: 482MB, 3.95GB."""
    return str(tqdm.format_sizeof(count, "B"))
