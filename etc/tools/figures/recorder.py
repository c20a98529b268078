"""Notes each entry into a function of Berth, with the interpreter's own profiling hook.

Not noted are the bodies of modules and classes, what runs while a module is imported, comprehensions and generator
expressions (newer Pythons have no calls for the former), and what a generated method such as a data class's does.
"""

import asyncio
import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

from etc.tools.figures.walk import Step, Walk

_NO_FUNCTIONS = frozenset({"<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
_LOCALS = "<locals>"
_LOOP = asyncio.runners.__file__  # below this frame is whoever started the event loop


class Recorder:
    """Records in the thread that made it and in those that are started later."""

    def __init__(self, package: Path) -> None:
        self._folder = f"{package}/"
        self._root = f"{package.parent}/"
        self._steps: list[Step] = []
        self._background: set[CodeType] = set()
        self._on = False
        self._learns = False
        self._step_of = cache(self._describe)

    @contextmanager
    def installed(self) -> Iterator[None]:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def learn(self) -> None:
        """What runs from now on is work in the background: all that starts where it starts is left out from then on."""
        self._on = self._learns = True

    def start(self) -> None:
        self._steps, self._on, self._learns = [], True, False

    def take(self) -> Walk:
        """What was noted since `start` or the last `take`; the recording goes on."""
        steps, self._steps = self._steps, []
        return tuple(steps)

    def stop(self) -> Walk:
        self._on = False
        return self.take()

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if not self._on or event != "call":
            return
        step = self._step_of(frame.f_code)
        if step is None:
            return
        bottom = self._bottom(frame)
        if bottom is None:
            return
        if self._learns:
            self._background.add(bottom)
        elif bottom not in self._background:
            self._steps.append(step)

    def _describe(self, code: CodeType) -> Step | None:
        if not code.co_filename.startswith(self._folder) or code.co_name in _NO_FUNCTIONS:
            return None
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
            return None
        *_, owner, name = ("", *code.co_qualname.split("."))
        return Step(
            path=code.co_filename.removeprefix(self._root),
            function=code.co_qualname.replace(f".{_LOCALS}", ""),
            owner=code.co_qualname.removesuffix(f".{name}") if owner not in ("", _LOCALS) else "",
        )

    def _bottom(self, frame: FrameType) -> CodeType | None:
        """The function of Berth from which all this was called, by an event loop or from outside; None while a module
        is imported.
        """
        bottom, current = frame.f_code, frame.f_back
        while current is not None and current.f_code.co_filename != _LOOP:
            if current.f_code.co_filename.startswith(self._folder):
                if current.f_code.co_name == "<module>":
                    return None
                bottom = current.f_code
            current = current.f_back
        return bottom
