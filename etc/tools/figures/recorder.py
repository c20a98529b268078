"""Records each entry into a function of Berth with the interpreter's profiling hook.

Not recorded are the bodies of modules and classes, what runs while a module is imported, lambdas, comprehensions
and generator expressions, and generated methods such as a data class's.
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

_LOCALS = "<locals>"
_LOOP = asyncio.runners.__file__  # frames below it belong to the event loop's caller


class Recorder:
    """Records in the thread that makes it and in those that are started while it is installed."""

    def __init__(self, package: Path) -> None:
        self._folder = f"{package}/"
        self._root = f"{package.parent}/"
        self._steps: list[tuple[Step, CodeType]] = []  # and the function at the bottom of its stack
        self._idle: dict[CodeType, set[Step]] = {}
        self._on = False
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

    def start(self) -> None:
        self._steps, self._on = [], True

    def take(self) -> Walk:
        """The steps since `start` or the last `take`, less what belongs to background work: everything below
        an entry point under which only known functions ran. The recording continues.
        """
        steps, self._steps = self._steps, []
        busy = {bottom for step, bottom in steps if step not in self._idle.get(bottom, ())}
        return tuple(step for step, bottom in steps if bottom in busy)

    def stop(self) -> Walk:
        self._on = False
        return self.take()

    def stop_idle(self) -> Walk:
        """Everything recorded since `start`, which was background work."""
        self._on = False
        for step, bottom in self._steps:
            self._idle.setdefault(bottom, set()).add(step)
        return tuple(step for step, _ in self._steps)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if self._on and event == "call":
            step = self._step_of(frame.f_code)
            if step is not None and (bottom := self._bottom(frame)) is not None:
                self._steps.append((step, bottom))

    def _describe(self, code: CodeType) -> Step | None:
        is_named = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")  # no class, no lambda
        if not is_named or not code.co_filename.startswith(self._folder):
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
