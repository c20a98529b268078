"""Captured requests, in the memory of control; see berth.ipc.capture."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import msgspec

from berth.errors import ControlError
from berth.ipc.capture import (
    KEPT_BYTES,
    KEPT_S,
    LONGEST_S,
    MOST_REQUESTS,
    Capture,
    CaptureAction,
    Captured,
    CaptureRequest,
    Exchange,
    Message,
    Only,
)
from berth.ipc.operations import Denial, DenialCode, Reply
from berth.plan import Plan, read_keys

_LEFT_OUT: Final = Message(line="")

Audit = Callable[[str, str, str, Mapping[str, str]], None]  # who, what, result, details


class Captures:
    """One capture at a time. What it found is kept until it is cleared, or for KEPT_S after its end."""

    def __init__(self, plan: Plan, audit: Audit, wall: Callable[[], float] = time.time) -> None:
        self._plan = plan
        self._audit = audit
        self._wall = wall
        self._found: deque[tuple[Exchange, int]] = deque()  # with its size
        self._held_bytes = 0
        self._left = 0  # requests that the capture may still find
        self._forgotten_at = 0.0
        self.current: Capture | None = None

    def ask(self, request: CaptureRequest) -> Reply:
        """What an operator or a router worker wants."""
        self.poll()
        match request.action:
            case CaptureAction.START:
                return self._start(request.capture)
            case CaptureAction.ADD:
                if request.exchange is not None and self.current is not None:
                    self._add(request.exchange)
                return Reply()
            case CaptureAction.SHOW:
                return self._show(request.id)
            case CaptureAction.CLEAR:
                self.current = None
                self._forget()
            case CaptureAction.END:
                self._end("", audited=False)
            case _:
                pass
        return Reply(captured=self._captured())

    def poll(self) -> None:
        """Ends what is over."""
        now = self._wall()
        if self.current is not None and now >= self.current.ends:
            self._end("its time is over")
        if self.current is None and self._found and now >= self._forgotten_at:
            self._forget()

    def _start(self, wanted: Capture | None) -> Reply:
        if (denial := invalid(wanted, self._plan, self._wall())) is not None or wanted is None:
            return Reply(denial=denial)
        route = next((one for one in self._plan.routes if wanted.model in (one.name, *one.aliases)), None)
        self.current = replace(wanted, model=route.name if route else "")
        self._left = wanted.most
        return Reply(captured=self._captured())

    def _end(self, reason: str, *, audited: bool = True) -> None:
        if self.current is not None:
            self.current = None
            self._forgotten_at = self._wall() + KEPT_S
            if audited:
                self._audit("Berth", "capture end", "done", {"reason": reason, "requests": str(len(self._found))})

    def _add(self, exchange: Exchange) -> None:
        size = len(msgspec.json.encode(exchange))
        self._found.append((exchange, size))
        self._held_bytes += size
        while len(self._found) > MOST_REQUESTS or self._held_bytes > KEPT_BYTES:
            self._held_bytes -= self._found.popleft()[1]
        self._left -= 1
        if self._left <= 0:
            self._end("it has as many requests as were wanted")

    def _show(self, number: str) -> Reply:
        found = next((one for one, _ in reversed(self._found) if one.id == number), None)
        if found is None:
            message = f"No request {number!r} was captured, or it is not kept any more. `berth capture list` shows all."
            return Reply(denial=Denial(code=DenialCode.UNKNOWN_CAPTURE, message=message))
        return Reply(captured=Captured(current=self.current, exchanges=(found,), held_bytes=self._held_bytes))

    def _captured(self) -> Captured:
        listed = (replace(one, request=_LEFT_OUT, response=None, attempts=()) for one, _ in self._found)
        return Captured(current=self.current, exchanges=tuple(listed), held_bytes=self._held_bytes)

    def _forget(self) -> None:
        self._found.clear()
        self._held_bytes = 0


def invalid(wanted: Capture | None, plan: Plan, now: float) -> Denial | None:
    """Why it cannot be started."""
    if wanted is None or not 0 < wanted.ends - now <= LONGEST_S + 1:  # the request took a moment
        message = f"A capture lasts up to {LONGEST_S / 60:g} minutes: `berth capture on --for 10m`."
        return Denial(code=DenialCode.INVALID, message=message)
    if not 1 <= wanted.most <= MOST_REQUESTS:
        message = f"A capture keeps 1 to {MOST_REQUESTS} requests, not {wanted.most}."
        return Denial(code=DenialCode.INVALID, message=message)
    if wanted.only is Only.SLOW and not wanted.slow_s > 0:
        message = "Slow requests are those of at least so many seconds: `berth capture on --only slow:5s`."
        return Denial(code=DenialCode.INVALID, message=message)
    if wanted.model and not any(wanted.model in (route.name, *route.aliases) for route in plan.routes):
        names = ", ".join(route.name for route in plan.routes)
        message = f"Model {wanted.model!r} is not in the plan. Models: {names}."
        return Denial(code=DenialCode.UNKNOWN_MODEL, message=message)
    try:
        keys = read_keys(plan.paths.run_dir).names()
    except ControlError:
        keys = ()
    if wanted.key and wanted.key not in keys:
        message = f"No key is named {wanted.key!r}. Keys: {', '.join(keys)}."
        return Denial(code=DenialCode.INVALID, message=message)
    return None
