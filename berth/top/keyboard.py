"""Single keys from a terminal, without waiting for the end of a line, and without showing them."""

import os
import re
import select
import termios
import tty
from types import TracebackType
from typing import Final, Self

_KEYS: Final = re.compile(rb"\033[\[O]([AB])|\033[\[O][0-9;]*.|(.)", re.DOTALL)  # arrows, other special keys, any other
_ARROWS: Final = {b"A": "up", b"B": "down"}
_MOST_BYTES: Final = 64


class Keyboard:
    """The terminal is as it was when the block ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._typed: list[str] = []  # and not read yet

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def read(self, timeout_s: float) -> str | None:
        """The next key: a character, "up" or "down"; "" after `timeout_s`, and for other special keys. None: the
        terminal is closed.
        """
        if not self._typed:
            if not select.select([self._descriptor], [], [], timeout_s)[0]:
                return ""
            try:
                data = os.read(self._descriptor, _MOST_BYTES)
            except OSError:
                data = b""
            if not data:
                return None
            for arrow, other in _KEYS.findall(data):
                self._typed.append(_ARROWS.get(arrow, "") or other.decode("ascii", "replace"))
        return self._typed.pop(0)
