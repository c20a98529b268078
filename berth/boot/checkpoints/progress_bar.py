"""Shows how far a long job is: one line that changes on a terminal, else a plain line at every step."""

import time
from collections.abc import Callable
from typing import TextIO

STEP_S = 5.0  # between two plain lines, at least; and a whole percent
TERMINAL_STEP_S = 0.2
BAR_WIDTH = 10

_UNITS = ("", "k", "M", "G", "T")


class ProgressBar:
    """One job. The lines have tqdm's form, which `control` reads: `NAME:  12%|#         | 482M/3.95G [00:03<...`."""

    def __init__(self, what: str, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._out = out
        self._clock = clock
        self._terminal = out.isatty()
        self._started = self._shown_at = clock()
        self._shown_bytes = 0
        self._percent = -1

    def show(self, done: int, total: int) -> None:
        """As often as you like: most calls print nothing, the first one always does. 100 % is for `finish`."""
        percent = min(99, 100 * done // max(total, 1))
        now = self._clock()
        if self._is_due(percent, now):
            self._print(percent, done, total, now)

    def finish(self, total: int) -> None:
        self._print(100, total, total, self._clock())
        if self._terminal:
            self._out.write("\n")

    def say(self, text: str) -> None:
        """A line between the steps."""
        self._out.write(f"\r\x1b[K{text}\n" if self._terminal else f"{text}\n")
        self._out.flush()

    def _is_due(self, percent: int, now: float) -> bool:
        if self._percent < 0:
            return True
        if self._terminal:
            return now - self._shown_at >= TERMINAL_STEP_S
        return percent > self._percent and now - self._shown_at >= STEP_S

    def _print(self, percent: int, done: int, total: int, now: float) -> None:
        speed = 0.0 if self._percent < 0 else max(done - self._shown_bytes, 0) / max(now - self._shown_at, 1e-3)
        text = line(self._what, percent, done, total, elapsed_s=now - self._started, speed=speed)
        self._percent, self._shown_at, self._shown_bytes = percent, now, done
        self._out.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._out.flush()


def line(what: str, percent: int, done: int, total: int, *, elapsed_s: float, speed: float) -> str:
    """`speed` in bytes per second; 0: not known."""
    bar = "#" * (percent * BAR_WIDTH // 100)
    left = clock_text((total - done) / speed) if speed else "?"
    rate = f"{amount(int(speed))}B/s" if speed else "?B/s"
    sizes = f"{amount(done)}/{amount(total)}"
    return f"{what}: {percent:3d}%|{bar:<{BAR_WIDTH}}| {sizes} [{clock_text(elapsed_s)}<{left}, {rate}]"


def amount(size: int) -> str:
    """Bytes with three digits: 482M, 3.95G."""
    value = float(size)
    for unit in _UNITS:
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.0f}P"


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
